package policyhub

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	cnpv1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	v3 "terway.dev/terway/api/calico/v3"
	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/compile"
	"terway.dev/terway/internal/policy/feed"
	"terway.dev/terway/internal/policy/translate"
)

// Programmed is the condition of objects that have a status. It is there, and False, while something of the object is not
// enforced as it is written.
const Programmed = "Programmed"

// The condition's reasons, and events' of objects without a status.
const (
	reasonRefused = "PolicyRefused"     // the object is not applied
	reasonPartly  = "PolicyNotEnforced" // what the message names is not enforced as it is written
	reasonBudget  = "PolicyTooLarge"    // its pods fail closed
)

const (
	// writeEvery is the least time between two writes: what authors are told costs the API server no more, however many
	// objects there is something to be said of.
	writeEvery = 200 * time.Millisecond
	// longest is less than an event's note may be (1024 bytes).
	longest = 1000
	// fieldOwner is who has the condition, for the API server.
	fieldOwner = "terway-controller"
)

// A report is what is to be said of an object now.
type report struct{ reason, message string }

// reports are what is to be said of all objects, on every replica: who leads says it.
type reports struct {
	mu     sync.Mutex
	notes  map[policy.Ref][]translate.Note
	budget map[policy.Ref][]string
	// due are objects of which something else is to be said than before.
	due  map[policy.Ref]struct{}
	wake chan struct{} // of capacity 1
}

func newReports() *reports {
	return &reports{notes: map[policy.Ref][]translate.Note{}, budget: map[policy.Ref][]string{}, due: map[policy.Ref]struct{}{}, wake: make(chan struct{}, 1)}
}

// say takes the Notes that have changed, and all rule sets that are beyond the budget.
func (r *reports) say(notes map[policy.Ref][]translate.Note, large []*compile.BudgetError) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for ref, list := range notes {
		if r.notes[ref] = list; len(list) == 0 {
			delete(r.notes, ref)
		}
		r.due[ref] = struct{}{}
	}
	budget := map[policy.Ref][]string{}
	for _, e := range large {
		budget[e.Policy] = append(budget[e.Policy], tooLarge(e))
	}
	for _, list := range budget {
		slices.Sort(list)
	}
	for _, of := range []map[policy.Ref][]string{r.budget, budget} {
		for ref := range of {
			if !slices.Equal(r.budget[ref], budget[ref]) {
				r.due[ref] = struct{}{}
			}
		}
	}
	r.budget = budget
	r.awake()
}

func (r *reports) awake() {
	if len(r.due) == 0 {
		return
	}
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// tooLarge does not name the pods: they come and go, and it would be said anew for each.
func tooLarge(e *compile.BudgetError) string {
	family := "IPv4"
	if e.IPv6 {
		family = "IPv6"
	}
	return fmt.Sprintf("with the other policies of its pods its %s rules for %s make more than %d tables or %d intervals: nothing new passes at these pods; "+
		"use fewer rules, or wider selectors and networks, or select fewer pods", e.Direction, family, e.Budget.Atoms, e.Budget.Spans)
}

// again has all said again that there is to say.
func (r *reports) again(more []policy.Ref) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for ref := range r.notes {
		r.due[ref] = struct{}{}
	}
	for ref := range r.budget {
		r.due[ref] = struct{}{}
	}
	for _, ref := range more {
		r.due[ref] = struct{}{}
	}
	r.awake()
}

// count is of how many objects something is to be said.
func (r *reports) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(r.budget)
	for ref, notes := range r.notes {
		if _, ok := r.budget[ref]; !ok && compose(notes, nil).reason != "" {
			n++
		}
	}
	return n
}

// next is an object of which something is to be said, and what: nothing, if the report is empty.
func (r *reports) next() (ref policy.Ref, what report, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for ref := range r.due {
		delete(r.due, ref)
		return ref, compose(r.notes[ref], r.budget[ref]), true
	}
	return ref, what, false
}

func (r *reports) later(ref policy.Ref) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.due[ref] = struct{}{}
}

// compose says all of an object. What is enforced as it is written is not worth a write.
func compose(notes []translate.Note, budget []string) report {
	var out report
	parts := slices.Clone(budget)
	for _, n := range notes {
		switch n.Severity {
		case translate.Notice:
			continue
		case translate.Refused:
			out.reason = reasonRefused
		case translate.Partly:
			if out.reason == "" {
				out.reason = reasonPartly
			}
		}
		value := ""
		if n.Value != "" {
			value = fmt.Sprintf(" %.80q", n.Value)
		}
		parts = append(parts, n.Field+value+": "+n.Why)
	}
	if len(budget) > 0 && out.reason != reasonRefused {
		out.reason = reasonBudget
	}
	out.message = strings.Join(parts, "; ")
	if len(out.message) > longest {
		cut := out.message[:longest-len("…")]
		for !utf8.ValidString(cut) {
			cut = cut[:len(cut)-1]
		}
		out.message = cut + "…"
	}
	return out
}

// A reported is a kind of which there are reports.
type reported struct {
	metav1.TypeMeta
	new  func() client.Object
	list client.ObjectList // of kinds with a status
}

// reportedKinds are by the kind of Refs.
func reportedKinds() map[string]reported {
	calico := func(kind string) metav1.TypeMeta {
		return metav1.TypeMeta{APIVersion: v3.GroupVersion.String(), Kind: kind}
	}
	return map[string]reported{
		translate.KindNetworkPolicy: {metav1.TypeMeta{APIVersion: networkingv1.SchemeGroupVersion.String(), Kind: "NetworkPolicy"}, func() client.Object { return &networkingv1.NetworkPolicy{} }, nil},
		translate.KindClusterNetworkPolicy: {
			metav1.TypeMeta{APIVersion: cnpv1.GroupVersion.String(), Kind: "ClusterNetworkPolicy"},
			func() client.Object { return &cnpv1.ClusterNetworkPolicy{} }, &cnpv1.ClusterNetworkPolicyList{},
		},
		translate.KindCalicoPolicy:        {calico("NetworkPolicy"), func() client.Object { return &v3.NetworkPolicy{} }, &v3.NetworkPolicyList{}},
		translate.KindGlobalNetworkPolicy: {calico("GlobalNetworkPolicy"), func() client.Object { return &v3.GlobalNetworkPolicy{} }, &v3.GlobalNetworkPolicyList{}},
		translate.KindTier:                {calico("Tier"), func() client.Object { return &v3.Tier{} }, &v3.TierList{}},
		translate.KindNetworkSet:          {calico("NetworkSet"), func() client.Object { return &v3.NetworkSet{} }, nil},
		translate.KindGlobalNetworkSet:    {calico("GlobalNetworkSet"), func() client.Object { return &v3.GlobalNetworkSet{} }, nil},
		translate.KindHostEndpoint:        {calico("HostEndpoint"), func() client.Object { return &v3.HostEndpoint{} }, nil},
	}
}

// conditions are those that an object has.
func conditions(o client.Object) []metav1.Condition {
	switch o := o.(type) {
	case *cnpv1.ClusterNetworkPolicy:
		return o.Status.Conditions
	case *v3.NetworkPolicy:
		return o.Status.Conditions
	case *v3.GlobalNetworkPolicy:
		return o.Status.Conditions
	case *v3.Tier:
		return o.Status.Conditions
	}
	return nil
}

// Report tells authors, as long as this replica leads.
func (s *Server) Report(ctx context.Context) error {
	select {
	case <-s.watching.read:
	case <-ctx.Done():
		return nil
	}
	kinds := reportedKinds()
	s.reports.again(s.reportedBefore(ctx, kinds))
	said := map[policy.Ref]report{}
	failed := ""
	for {
		ref, what, ok := s.reports.next()
		if !ok {
			select {
			case <-s.reports.wake:
				continue
			case <-ctx.Done():
				return nil
			}
		}
		k, ok := kinds[ref.Kind]
		if !ok {
			continue // a setting has no author
		}
		wrote, err := s.tellAuthor(ctx, k, ref, what, said)
		pause := time.Duration(0)
		switch {
		case err != nil:
			if ctx.Err() == nil && err.Error() != failed {
				failed = err.Error()
				s.Log.Error("say what is not enforced of a policy", "error", err)
			}
			s.reports.later(ref)
			pause = s.Retry
		case wrote:
			pause = writeEvery
		}
		if pause > 0 && !s.sleep(ctx, pause) {
			return nil
		}
	}
}

// reportedBefore are the objects that have the condition: there may be nothing to be said of them any more.
func (s *Server) reportedBefore(ctx context.Context, kinds map[string]reported) (out []policy.Ref) {
	for _, k := range slices.Sorted(maps.Keys(kinds)) {
		list := kinds[k].list
		if list == nil || !s.watching.watches(kinds[k].new()) {
			continue
		}
		if err := s.Cache.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
			s.Log.Error("look for conditions of policies that were written before", "error", err)
			continue
		}
		err := meta.EachListItem(list, func(o runtime.Object) error {
			c := o.(client.Object)
			if ref, ok := feed.Ref(c); ok && meta.FindStatusCondition(conditions(c), Programmed) != nil {
				out = append(out, ref)
			}
			return nil
		})
		if err != nil {
			s.Log.Error("look for conditions of policies that were written before", "error", err)
		}
	}
	return out
}

// tellAuthor writes a report: into the status, or as an event, once for each change.
func (s *Server) tellAuthor(ctx context.Context, k reported, ref policy.Ref, what report, said map[policy.Ref]report) (wrote bool, err error) {
	o := k.new()
	if !s.watching.watches(o) {
		return false, nil
	}
	from := client.Reader(s.Cache)
	if k.list == nil {
		if what.reason == "" {
			delete(said, ref)
			return false, nil
		}
		if said[ref] == what {
			return false, nil
		}
	}
	if ref.Kind == translate.KindNetworkPolicy {
		from = s.Live // the cache has another form of them
	}
	if err := from.Get(ctx, client.ObjectKey{Namespace: ref.Namespace, Name: ref.Name}, o); err != nil {
		delete(said, ref)
		return false, client.IgnoreNotFound(err)
	}
	o.GetObjectKind().SetGroupVersionKind(k.GroupVersionKind())
	if k.list == nil {
		said[ref] = what
		s.Events.Eventf(o, nil, corev1.EventTypeWarning, what.reason, "Reconcile", "%s", what.message)
		return true, nil
	}
	has := meta.FindStatusCondition(conditions(o), Programmed)
	want := []metav1.Condition{}
	switch {
	case what.reason == "" && has == nil:
		return false, nil
	case what.reason != "":
		c := metav1.Condition{
			Type: Programmed, Status: metav1.ConditionFalse, Reason: what.reason, Message: what.message,
			ObservedGeneration: o.GetGeneration(), LastTransitionTime: metav1.NewTime(s.Clock.Now().Truncate(time.Second)),
		}
		if has != nil && has.Status == c.Status {
			c.LastTransitionTime = has.LastTransitionTime
			if *has == c {
				return false, nil
			}
		}
		want = append(want, c)
	}
	// Applied: other conditions of the object are others'.
	body, err := json.Marshal(map[string]any{
		"apiVersion": k.APIVersion, "kind": k.Kind, "metadata": map[string]any{"name": ref.Name, "namespace": ref.Namespace, "uid": o.GetUID()},
		"status": map[string]any{"conditions": want},
	})
	if err != nil {
		return false, err
	}
	err = s.Client.Status().Patch(ctx, o, client.RawPatch(types.ApplyPatchType, body), client.FieldOwner(fieldOwner), client.ForceOwnership)
	if client.IgnoreNotFound(err) != nil {
		return false, fmt.Errorf("write the condition of %s: %w", ref, err)
	}
	return true, nil
}
