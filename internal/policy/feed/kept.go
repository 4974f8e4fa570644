package feed

import (
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"terway.dev/terway/internal/policy/translate"
)

// Kept returns what a cache keeps of an object that is told to a Feed: the object, or, of kinds of which a cluster has
// many and whose objects nobody else reads, a Pod or a NetworkPolicy.
func Kept(object metav1.Object) metav1.Object {
	switch o := object.(type) {
	case *corev1.Pod:
		p := &Pod{TypeMeta: o.TypeMeta, ObjectMeta: kept(o), pod: pod{translate.Pod(o), o.CreationTimestamp.Time}}
		p.pod.Addresses = oneOfEachFamily(p.pod.Addresses)
		return p
	case *networkingv1.NetworkPolicy:
		p := &NetworkPolicy{TypeMeta: o.TypeMeta, ObjectMeta: kept(o)}
		p.placed, p.notes = translate.NetworkPolicy(o)
		return p
	}
	return object
}

// kept is what a cache needs to tell objects and their versions apart.
func kept(o metav1.Object) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: o.GetNamespace(), Name: o.GetName(), UID: o.GetUID(), ResourceVersion: o.GetResourceVersion(), Generation: o.GetGeneration()}
}

// A Pod is what a cache keeps of one.
type Pod struct {
	metav1.TypeMeta
	metav1.ObjectMeta
	pod pod
}

// Node is the name of the pod's node.
func (p *Pod) Node() string { return p.pod.Node }

// DeepCopyObject implements runtime.Object. The copy shares what does not change.
func (p *Pod) DeepCopyObject() runtime.Object {
	out := *p
	p.DeepCopyInto(&out.ObjectMeta)
	return &out
}

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
