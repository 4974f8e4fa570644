package feed

import (
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"terway.dev/terway/internal/policy/translate"
)

// A NetworkPolicy is what a cache keeps of one that is told to a Feed: a NetworkPolicy has no status, so nobody
// reads it again. It says nothing of the policy's rules once it has been told: the compiler has them.
type NetworkPolicy struct {
	metav1.TypeMeta
	metav1.ObjectMeta
	// told: a Feed has the rest.
	told   bool
	placed *translate.Placed
	notes  []translate.Note
}

// Translate returns what a cache keeps of a NetworkPolicy until and after Feed.Set.
func Translate(o *networkingv1.NetworkPolicy) *NetworkPolicy {
	p := &NetworkPolicy{TypeMeta: o.TypeMeta}
	p.Namespace, p.Name, p.UID, p.ResourceVersion, p.Generation = o.Namespace, o.Name, o.UID, o.ResourceVersion, o.Generation
	p.placed, p.notes = translate.NetworkPolicy(o)
	return p
}

// DeepCopyObject implements runtime.Object. The copy says nothing to a Feed.
func (p *NetworkPolicy) DeepCopyObject() runtime.Object {
	out := &NetworkPolicy{TypeMeta: p.TypeMeta, told: true}
	p.DeepCopyInto(&out.ObjectMeta)
	return out
}

// tell gives the translation to a Feed, once. told: it had it before, so that nothing has changed.
func (p *NetworkPolicy) tell() (placed *translate.Placed, notes []translate.Note, told bool) {
	placed, notes, told = p.placed, p.notes, p.told
	p.placed, p.notes, p.told = nil, nil, true
	return placed, notes, told
}
