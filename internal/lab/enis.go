package lab

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"terway.dev/terway/internal/datapath/claims"
)

// AskForENI makes a pod ask for an ENI of its own.
func AskForENI(spec *corev1.PodSpec) {
	spec.Containers[0].Resources.Limits = corev1.ResourceList{claims.ResourceENI: resource.MustParse("1")}
}

// CountENIs says how many ENIs a node offers to pods that have one each and how many of
// the pods take one, as the scheduler counts: those that have ended take none.
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

// Ended says that a pod takes no place on its node any more.
func Ended(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}
