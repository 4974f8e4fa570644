package migrate

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"

	v3 "terway.dev/terway/api/calico/v3"
	"terway.dev/terway/internal/policy/translate"
)

// OldAPI is the API that objects are moved from.
const OldAPI = "crd.projectcalico.org/v1"

// Annotations of old objects that are not the users'.
const (
	// annotationMetadata has the labels, annotations and owners of the object, as JSON
	// (Calico: libcalico-go/lib/backend/k8s/resources/resources.go). Before 3.28 labels and
	// annotations were the old object's own; both are read.
	annotationMetadata = "projectcalico.org/metadata"
	// annotationApplied has the old object as kubectl applied it.
	annotationApplied = "kubectl.kubernetes.io/last-applied-configuration"
)

// labelTier is set by Calico on policies, to spec.tier.
const labelTier = "projectcalico.org/tier"

// Object is one of projectcalico.org/v3.
type Object interface {
	runtime.Object
	metav1.Object
}

// kind is one that is moved.
type kind struct {
	name       string
	namespaced bool
}

// kinds are those that are moved. What others refer to is before them.
var kinds = []kind{
	{"Tier", false}, {"GlobalNetworkSet", false}, {"NetworkSet", true}, {"HostEndpoint", false},
	{"GlobalNetworkPolicy", false}, {"NetworkPolicy", true},
	{"StagedGlobalNetworkPolicy", false}, {"StagedNetworkPolicy", true}, {"StagedKubernetesNetworkPolicy", true},
}

func place(name string) int {
	return slices.IndexFunc(kinds, func(k kind) bool { return k.name == name })
}

// Moves says whether a kind of OldAPI is about policies, and so has one in projectcalico.org/v3.
func Moves(kind string) bool { return place(kind) >= 0 }

// Namespaced says whether objects of such a kind are in namespaces.
func Namespaced(kind string) bool { return Moves(kind) && kinds[place(kind)].namespaced }

// A Move is what becomes of an old object.
type Move struct {
	Old *unstructured.Unstructured
	// New is what it becomes, nil if Err.
	New Object
	// Notes say what is not as it was written.
	Notes []string
	// Err says why it cannot be moved.
	Err error
}

// Plan says what becomes of objects of OldAPI, whose kinds are all moved. Moves are in the order in
// which the new objects should be created.
func Plan(olds []*unstructured.Unstructured) ([]Move, error) {
	scheme := runtime.NewScheme()
	if err := v3.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("register kinds: %w", err)
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	var moves []Move
	for _, old := range olds {
		m := Move{Old: old}
		m.New, m.Notes, m.Err = convert(decoder, old)
		moves = append(moves, m)
	}
	slices.SortStableFunc(moves, func(a, b Move) int {
		return cmp.Or(
			cmp.Compare(place(a.Old.GetKind()), place(b.Old.GetKind())),
			strings.Compare(a.Old.GetNamespace(), b.Old.GetNamespace()),
			strings.Compare(a.Old.GetName(), b.Old.GetName()),
		)
	})
	refuseTwins(moves)
	return moves, nil
}

// refuseTwins refuses objects whose new name is that of another one: of "web" and "default.web" the
// first keeps its name.
func refuseTwins(moves []Move) {
	taken := map[Key]string{}
	for _, renamed := range []bool{false, true} {
		for i := range moves {
			m := &moves[i]
			if m.Err != nil || renamed != (m.New.GetName() != m.Old.GetName()) {
				continue
			}
			k := KeyOf(m.New)
			if other, there := taken[k]; there {
				m.New, m.Err = nil, fmt.Errorf("becomes %s, which is what %s becomes, too: delete one of the two", k.Name, other)
				continue
			}
			taken[k] = m.Old.GetName()
		}
	}
}

// convert makes the new object of an old one. The notes say what is not as it was written.
func convert(decoder runtime.Decoder, old *unstructured.Unstructured) (Object, []string, error) {
	spec, _, err := unstructured.NestedMap(old.Object, "spec")
	if err != nil {
		return nil, nil, errors.New("spec: want an object")
	}
	// Without a spec a policy would select all pods and allow nothing. It is what an API server
	// stores that knows no fields of the kind, whatever was written.
	if len(spec) == 0 && old.GetKind() != translate.KindTier {
		return nil, nil, errors.New("has no spec: write it again in projectcalico.org/v3, or delete it")
	}
	meta, notes, err := metadata(old)
	if err != nil {
		return nil, nil, err
	}
	if spec == nil {
		spec = map[string]any{}
	}
	text, err := json.Marshal(map[string]any{"apiVersion": v3.GroupVersion.String(), "kind": old.GetKind(), "metadata": meta, "spec": spec})
	if err != nil {
		return nil, nil, fmt.Errorf("encode it: %w", err)
	}
	decoded, _, err := decoder.Decode(text, nil, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("is not an object of projectcalico.org/v3: %w", err)
	}
	object, ok := decoded.(Object)
	if !ok {
		return nil, nil, fmt.Errorf("kind %s is not moved", old.GetKind())
	}
	tidy(object)
	if p, preDNAT := policySpec(object); p != nil {
		if p.Tier == "" || p.Tier == translate.TierDefault {
			if name := strings.TrimPrefix(object.GetName(), translate.TierDefault+"."); name != "" {
				object.SetName(name)
			}
		}
		// To Calico's engine a stored policy without types is for both directions. calicoctl
		// writes them; kubectl does not (felix/calc/policy_sorter.go).
		switch {
		case len(p.Types) > 0:
		case preDNAT:
			p.Types = []v3.PolicyType{v3.PolicyTypeIngress}
		default:
			p.Types = []v3.PolicyType{v3.PolicyTypeIngress, v3.PolicyTypeEgress}
			notes = append(notes, "has no spec.types: it gets Ingress and Egress, as Calico enforces it")
		}
	}
	if err := refused(object); err != nil {
		return nil, nil, err
	}
	return object, notes, nil
}

// metadata is the new object's: the names, and what users wrote.
func metadata(old *unstructured.Unstructured) (*metav1.ObjectMeta, []string, error) {
	stored := metav1.ObjectMeta{}
	if text, ok := old.GetAnnotations()[annotationMetadata]; ok {
		if err := json.Unmarshal([]byte(text), &stored); err != nil {
			return nil, nil, fmt.Errorf("metadata.annotations[%s]: want the JSON that Calico writes: %w", annotationMetadata, err)
		}
	}
	meta := &metav1.ObjectMeta{Name: old.GetName(), Namespace: old.GetNamespace(), Labels: map[string]string{}, Annotations: map[string]string{}}
	maps.Copy(meta.Labels, old.GetLabels())
	maps.Copy(meta.Labels, stored.Labels)
	maps.Copy(meta.Annotations, old.GetAnnotations())
	maps.Copy(meta.Annotations, stored.Annotations)
	delete(meta.Annotations, annotationMetadata)
	delete(meta.Annotations, annotationApplied)
	var notes []string
	if len(old.GetOwnerReferences())+len(stored.OwnerReferences) > 0 {
		notes = append(notes, "its ownerReferences stay behind: the owner of the old object does not keep the new one")
	}
	if len(old.GetFinalizers())+len(stored.Finalizers) > 0 {
		notes = append(notes, "its finalizers stay behind")
	}
	return meta, notes, nil
}

// policySpec is what all of Calico's policies have, and whether it judges before addresses are
// translated; nil for other kinds.
func policySpec(o Object) (spec *v3.PolicySpec, preDNAT bool) {
	switch x := o.(type) {
	case *v3.NetworkPolicy:
		return &x.Spec, false
	case *v3.GlobalNetworkPolicy:
		return &x.Spec.PolicySpec, x.Spec.PreDNAT
	case *v3.StagedNetworkPolicy:
		return &x.Spec.PolicySpec, false
	case *v3.StagedGlobalNetworkPolicy:
		return &x.Spec.PolicySpec, x.Spec.PreDNAT
	}
	return nil, false
}

// tidy takes away what the old API stores and the new one refuses, though it means nothing: an
// element of a set that comes again. Empty lists become none.
func tidy(o Object) {
	switch x := o.(type) {
	case *v3.NetworkSet:
		x.Spec.Nets = distinct(x.Spec.Nets)
	case *v3.GlobalNetworkSet:
		x.Spec.Nets = distinct(x.Spec.Nets)
	case *v3.HostEndpoint:
		x.Spec.ExpectedIPs, x.Spec.Profiles = distinct(x.Spec.ExpectedIPs), distinct(x.Spec.Profiles)
	}
	p, _ := policySpec(o)
	if p == nil {
		return
	}
	p.Types, p.PerformanceHints = distinct(p.Types), distinct(p.PerformanceHints)
	for _, rules := range [][]v3.Rule{p.Ingress, p.Egress} {
		for i := range rules {
			for _, e := range []*v3.EntityRule{&rules[i].Source, &rules[i].Destination} {
				e.Nets, e.NotNets = distinct(e.Nets), distinct(e.NotNets)
				if a := e.ServiceAccounts; a != nil {
					a.Names = distinct(a.Names)
				}
				if len(e.Ports) == 0 {
					e.Ports = nil
				}
				if len(e.NotPorts) == 0 {
					e.NotPorts = nil
				}
			}
		}
	}
}

// distinct is the list without elements that come again; nil if it is empty.
func distinct[T comparable](list []T) (out []T) {
	for _, v := range list {
		if !slices.Contains(out, v) {
			out = append(out, v)
		}
	}
	return out
}

// refused says why the new API would not take an object, or nobody would apply it.
func refused(o Object) error {
	var notes []translate.Note
	switch x := o.(type) {
	case *v3.NetworkPolicy:
		_, notes = translate.CalicoPolicy(x)
	case *v3.GlobalNetworkPolicy:
		_, notes = translate.GlobalNetworkPolicy(x)
	case *v3.StagedNetworkPolicy:
		_, notes = translate.CalicoPolicy(&v3.NetworkPolicy{ObjectMeta: x.ObjectMeta, Spec: x.Spec.PolicySpec})
	case *v3.StagedGlobalNetworkPolicy:
		_, notes = translate.GlobalNetworkPolicy(&v3.GlobalNetworkPolicy{ObjectMeta: x.ObjectMeta, Spec: x.Spec.GlobalNetworkPolicySpec})
	case *v3.Tier:
		// That a tier is not as it is written is a refusal, too: the tiers that are always there.
		_, notes = translate.Arrange(nil, []*v3.Tier{x}, translate.Options{})
		for i := range notes {
			notes[i].Severity = translate.Refused
		}
	}
	var errs []string
	for _, n := range notes {
		if n.Severity == translate.Refused {
			errs = append(errs, fmt.Sprintf("%s %q: %s", n.Field, n.Value, n.Why))
		}
	}
	if len(errs) > 0 {
		return errors.New(strings.Join(errs, "; "))
	}
	return nil
}
