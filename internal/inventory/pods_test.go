package inventory

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// A pod that has ended does not count for its node, and is still listed.
func TestPods(t *testing.T) {
	pod := func(node string, phase corev1.PodPhase) corev1.Pod {
		return corev1.Pod{Spec: corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{Phase: phase}}
	}
	all, count := Pods([]corev1.Pod{pod("a", corev1.PodRunning), pod("a", corev1.PodSucceeded), pod("b", corev1.PodFailed), pod("a", corev1.PodPending)})
	if len(all) != 4 || all[1].Phase != "Succeeded" || count["a"] != 2 || count["b"] != 0 {
		t.Errorf("%+v, by node %v", all, count)
	}
}

func TestUnready(t *testing.T) {
	ready := func(s corev1.ConditionStatus) []corev1.NodeCondition {
		return []corev1.NodeCondition{{Type: corev1.NodeReady, Status: s, Reason: "KubeletNotReady", Message: "no network"}}
	}
	for want, n := range map[string]corev1.Node{
		"":                            {Status: corev1.NodeStatus{Conditions: ready(corev1.ConditionTrue)}},
		"KubeletNotReady: no network": {Status: corev1.NodeStatus{Conditions: ready(corev1.ConditionFalse)}},
		"has taint t": {Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: "p", Effect: corev1.TaintEffectPreferNoSchedule}, {Key: "t", Effect: corev1.TaintEffectNoSchedule}}},
			Status: corev1.NodeStatus{Conditions: ready(corev1.ConditionTrue)}},
	} {
		if got := Unready(&n); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
