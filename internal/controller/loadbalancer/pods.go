package loadbalancer

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/internal/datapath/claims"
	lb "terway.dev/terway/internal/loadbalancer"
)

// indexGate indexes pods by the names of the Services whose readiness gates they have.
const indexGate = "terway.gate"

func gatesOf(o client.Object) []string { return lb.GatesOf(o.(*corev1.Pod)) }

// gated returns the Services for whose readiness gates a pod waits or has waited.
func gated(pod client.Object) []types.NamespacedName {
	var all []types.NamespacedName
	for _, name := range gatesOf(pod) {
		all = append(all, types.NamespacedName{Namespace: pod.GetNamespace(), Name: name})
	}
	return all
}

// CachedPods says which pods a manager's cache has, and what of them: those with a readiness gate, which the admission
// webhook labels, as an API server cannot select pods by gates; and of them what this package reads.
func CachedPods() cache.ByObject {
	return cache.ByObject{
		Label:     labels.SelectorFromSet(labels.Set{claims.LabelReadinessGate: "true"}),
		Transform: func(o any) (any, error) { return keep(o), nil },
	}
}

func keep(o any) any {
	p, ok := o.(*corev1.Pod)
	if !ok {
		return o // what is left of one that is gone
	}
	spec := corev1.PodSpec{NodeName: p.Spec.NodeName, ReadinessGates: p.Spec.ReadinessGates}
	for _, c := range lb.Serving(p) {
		if len(c.Ports) > 0 {
			spec.Containers = append(spec.Containers, corev1.Container{Ports: c.Ports})
		}
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: p.Namespace, Name: p.Name, UID: p.UID, ResourceVersion: p.ResourceVersion,
			Labels: p.Labels, Annotations: p.Annotations, DeletionTimestamp: p.DeletionTimestamp,
			DeletionGracePeriodSeconds: p.DeletionGracePeriodSeconds,
		},
		Spec:   spec,
		Status: corev1.PodStatus{Phase: p.Status.Phase, Conditions: p.Status.Conditions, PodIP: p.Status.PodIP, PodIPs: p.Status.PodIPs},
	}
}
