package lint

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/policy"
)

// loose returns the pods that request an ENI of their own and may write and read its frames: with CAP_NET_RAW, which container runtimes
// give by default, they do it past the programs of policies, with CAP_NET_ADMIN they may remove these.
func loose(pods []*corev1.Pod) map[policy.NamespacedName]bool {
	found := map[policy.NamespacedName]bool{}
	for _, p := range pods {
		if ownENI(p) && slices.ContainsFunc(slices.Concat(p.Spec.InitContainers, p.Spec.Containers), ownsFrames) {
			found[policy.NamespacedName{Namespace: p.Namespace, Name: p.Name}] = true
		}
	}
	return found
}

// ownENI reports whether a pod requests one, by the annotation or the resource.
func ownENI(p *corev1.Pod) bool {
	return p.Annotations[claims.AnnotationExclusiveENI] == "true" || slices.ContainsFunc(slices.Concat(p.Spec.InitContainers, p.Spec.Containers), func(c corev1.Container) bool {
		_, has := c.Resources.Limits[claims.ResourceENI]
		return has
	})
}

// ownsFrames reports whether a container has one of the two capabilities.
func ownsFrames(c corev1.Container) bool {
	s := c.SecurityContext
	if s == nil {
		return true
	}
	var add, drop []corev1.Capability
	if s.Capabilities != nil {
		add, drop = s.Capabilities.Add, s.Capabilities.Drop
	}
	has := func(list []corev1.Capability, names ...corev1.Capability) bool {
		return slices.ContainsFunc(names, func(n corev1.Capability) bool { return slices.Contains(list, n) || slices.Contains(list, "CAP_"+n) })
	}
	return s.Privileged != nil && *s.Privileged || has(add, "NET_RAW", "NET_ADMIN", "ALL") || !has(drop, "NET_RAW", "ALL")
}

// ownENIs finds pods that a policy selects and does not hold at their own ENI.
func (l *linter) ownENIs(p policy.Policy, subjects []*policy.Pod) {
	var names []string
	for _, pod := range subjects {
		if l.loose[pod.NamespacedName] {
			names = append(names, pod.String())
		}
	}
	if len(names) > 0 {
		l.add(p.Ref, "", OwnENI, "selects %s with an ENI of their own, which pods with CAP_NET_RAW or CAP_NET_ADMIN use past their policies: drop both in each container (capabilities: {drop: [ALL]}), or let the pods share ENIs", list(names))
	}
}
