package lab

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"terway.dev/terway/internal/datapath/claims"
)

// AskForENI makes a pod request an exclusive ENI.
func AskForENI(spec *corev1.PodSpec) {
	spec.Containers[0].Resources.Limits = corev1.ResourceList{claims.ResourceENI: resource.MustParse("1")}
}

// CountENIs returns how many exclusive ENIs a node offers and how many of its pods use one.
// Like the scheduler, it ignores pods that have ended.
func CountENIs(node *corev1.Node, pods []corev1.Pod) (offered, taken int) {
	q := node.Status.Allocatable[claims.ResourceENI]
	for _, p := range pods {
		if p.Spec.NodeName == node.Name && !Ended(&p) &&
			slices.ContainsFunc(p.Spec.Containers, func(c corev1.Container) bool { return !c.Resources.Limits.Name(claims.ResourceENI, "").IsZero() }) {
			taken++
		}
	}
	return int(q.Value()), taken
}

// Ended reports whether a pod no longer counts on its node.
func Ended(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}
