package inventory

import corev1 "k8s.io/api/core/v1"

// Pod is a pod and its address.
type Pod struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Node      string `json:"node"`
	Address   string `json:"address"`
	Phase     string `json:"phase"`
	// HostNetwork pods have their node's address.
	HostNetwork bool `json:"hostNetwork,omitempty"`
}

// Pods returns all pods in order, and the number of pods of each node that have not ended.
func Pods(pods []corev1.Pod) (all []Pod, byNode map[string]int) {
	byNode = map[string]int{}
	for _, p := range pods {
		all = append(all, Pod{p.Namespace, p.Name, p.Spec.NodeName, p.Status.PodIP, string(p.Status.Phase), p.Spec.HostNetwork})
		if p.Status.Phase == corev1.PodRunning || p.Status.Phase == corev1.PodPending {
			byNode[p.Spec.NodeName]++
		}
	}
	return all, byNode
}

// Unready returns why a node accepts no pods, or "".
func Unready(n *corev1.Node) string {
	for _, t := range n.Spec.Taints {
		if t.Effect == corev1.TaintEffectNoSchedule {
			return "has taint " + t.Key
		}
	}
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue {
			return c.Reason + ": " + c.Message
		}
	}
	return ""
}
