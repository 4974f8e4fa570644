package migrate

import (
	corev1 "k8s.io/api/core/v1"

	"terway.dev/terway/internal/datapath/claims"
)

// Step is one thing that is done to a node. Each may be done again: after an interrupt a node begins with
// the first.
type Step string

const (
	Cordon   Step = "cordon"
	Drain    Step = "drain"
	Switch   Step = "switch"
	Disable  Step = "disable"
	Teardown Step = "teardown"
	Enable   Step = "enable"
	Return   Step = "return"
	Uncordon Step = "uncordon"
	Ready    Step = "ready"
	OldReady Step = "old-ready"
	Renew    Step = "renew"
	Release  Step = "release"
)

// Forward are the steps of a node to Terway. It is uncordoned before it is ready, because the controller
// itself may have to run on it; the taint keeps other pods away until the controller removes it. The CNI
// configuration is disabled when the old network's pods, which write it at their start, have left the node.
func Forward() []Step { return []Step{Cordon, Drain, Switch, Disable, Uncordon, Ready, Renew} }

// Back are the steps of a node back to the old network. The last needs Terway's controller, the others do not:
// what does not work may be the reason to go back.
func Back() []Step {
	return []Step{Cordon, Drain, Return, Teardown, Enable, OldReady, Uncordon, Renew, Release}
}

// About says what a step does.
func (s Step) About() string {
	return map[Step]string{
		Cordon:   "no new pods: unschedulable, and the taint " + claims.TaintNotReady,
		Drain:    "its pods with an address are evicted, as their PodDisruptionBudgets let them",
		Disable:  "the old network's CNI configuration gets another name, so that the runtime does not find it",
		Switch:   "it loses the label " + claims.LabelIgnore + ": the old network's pods leave it, Terway's agent comes",
		Uncordon: "schedulable again, if it was before",
		Ready:    "until the controller removes the taint: the node has ENIs and its agent is ready",
		Renew:    "pods that tolerate the taint, and so still have an address of the other network, are evicted",
		Return:   "it gets the label " + claims.LabelIgnore + ": Terway's agent leaves it, the old network's pods come",
		Teardown: "what the agent has made on the node is removed; pods that tolerate the taint have no network until they are renewed",
		Enable:   "the old network's CNI configuration gets its name back, and the old network's pods on the node are started again",
		OldReady: "until the old network's pods on the node are ready; then the taint is removed",
		Release:  "until the controller gives the node's ENIs back",
	}[s]
}

// Tolerates reports whether a pod may come to a node with the taint.
func Tolerates(pod *corev1.Pod) bool {
	for _, t := range pod.Spec.Tolerations {
		key := t.Key == claims.TaintNotReady || t.Key == "" && t.Operator == corev1.TolerationOpExists
		value := t.Operator == corev1.TolerationOpExists || t.Value == ""
		if key && value && (t.Effect == "" || t.Effect == corev1.TaintEffectNoSchedule) {
			return true
		}
	}
	return false
}
