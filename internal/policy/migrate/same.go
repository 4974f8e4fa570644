package migrate

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"

	v3 "terway.dev/terway/api/calico/v3"
	"terway.dev/terway/internal/policy/translate"
)

// Difference is the first field in which an object that is there is not as an old one says, in
// words; "" if both say the same. Spec and labels count: selectors of rules select network sets
// and host endpoints by labels. What the API server fills in is no difference.
func Difference(want, there Object) (string, error) {
	w, err := meaning(want)
	if err != nil {
		return "", err
	}
	t, err := meaning(there)
	if err != nil {
		return "", err
	}
	return differ("", w, t), nil
}

// meaning is what counts of an object, as JSON has it.
func meaning(o Object) (map[string]any, error) {
	o, ok := o.DeepCopyObject().(Object)
	if !ok {
		return nil, fmt.Errorf("%T is no object", o)
	}
	tidy(o)
	if p, _ := policySpec(o); p != nil {
		if p.Tier == "" {
			p.Tier = translate.TierDefault
		}
		slices.Sort(p.Types)
	}
	switch x := o.(type) {
	case *v3.Tier:
		if deny := v3.DefaultDeny; x.Spec.DefaultAction == nil {
			x.Spec.DefaultAction = &deny
		}
	case *v3.StagedNetworkPolicy:
		x.Spec.StagedAction = orSet(x.Spec.StagedAction)
	case *v3.StagedGlobalNetworkPolicy:
		x.Spec.StagedAction = orSet(x.Spec.StagedAction)
	case *v3.StagedKubernetesNetworkPolicy:
		x.Spec.StagedAction = orSet(x.Spec.StagedAction)
	}
	text, err := json.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", o.GetName(), err)
	}
	var whole map[string]any
	if err := json.Unmarshal(text, &whole); err != nil {
		return nil, fmt.Errorf("decode %s: %w", o.GetName(), err)
	}
	labels := map[string]any{}
	for k, v := range o.GetLabels() {
		if k != labelTier {
			labels[k] = v
		}
	}
	return map[string]any{"metadata": map[string]any{"labels": labels}, "spec": whole["spec"]}, nil
}

func orSet(a v3.StagedAction) v3.StagedAction {
	if a == "" {
		return v3.StagedSet
	}
	return a
}

func differ(at string, want, there any) string {
	if reflect.DeepEqual(want, there) {
		return ""
	}
	if w, ok := want.(map[string]any); ok {
		if t, ok := there.(map[string]any); ok {
			both := maps.Clone(w)
			maps.Copy(both, t)
			for _, k := range slices.Sorted(maps.Keys(both)) {
				field := k
				if at != "" {
					field = at + "." + k
				}
				if text := differ(field, w[k], t[k]); text != "" {
					return text
				}
			}
		}
	}
	if w, ok := want.([]any); ok {
		if t, ok := there.([]any); ok && len(w) == len(t) {
			for i := range w {
				if text := differ(fmt.Sprintf("%s[%d]", at, i), w[i], t[i]); text != "" {
					return text
				}
			}
		}
	}
	return fmt.Sprintf("%s is %s there, and %s in the old one", at, show(there), show(want))
}

func show(v any) string {
	if v == nil {
		return "not set"
	}
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	if len(text) > 60 {
		return string(text[:60]) + "…"
	}
	return string(text)
}
