package agent

import (
	"net/netip"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/api/v1alpha1"
)

// maxMessage is what a condition's message may hold (metav1.Condition).
const maxMessage = 32768

// Status is what the controller is told. Conditions keep the transition times of prev.
func (a *Agent) Status(prev v1alpha1.NodeNetworkStatus) v1alpha1.NodeNetworkStatus {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.Now()
	used, cooling, released := a.pool.Report(now)
	st := v1alpha1.NodeNetworkStatus{
		ObservedGeneration: a.want.Generation,
		Demand:             len(a.waiting),
		UsedCount:          len(used),
		Cooling:            strs(cooling),
		Released:           strs(released),
		Conditions:         prev.Conditions,
	}
	for _, u := range used {
		st.Used = append(st.Used, v1alpha1.UsedAddress{Address: u.Address.String(), Pod: u.Pod, Sandbox: u.Sandbox})
	}
	ready := metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: "Serving",
		Message: "pods can be wired", ObservedGeneration: a.want.Generation, LastTransitionTime: metav1.NewTime(now)}
	if a.notOK != "" {
		ready.Status, ready.Reason, ready.Message = metav1.ConditionFalse, "NotReady", clip(a.notOK)
	}
	dp := metav1.Condition{Type: v1alpha1.ConditionDatapathReady, Status: metav1.ConditionFalse, Reason: "NotChosen",
		Message: "no datapath runs yet", ObservedGeneration: a.want.Generation, LastTransitionTime: metav1.NewTime(now)}
	if a.dp != nil {
		st.Datapath = a.dp.Name()
		dp.Status, dp.Reason, dp.Message = metav1.ConditionTrue, "Chosen", a.dpWhy
	}
	st.Conditions = append([]metav1.Condition(nil), prev.Conditions...)
	meta.SetStatusCondition(&st.Conditions, ready)
	meta.SetStatusCondition(&st.Conditions, dp)
	return st
}

func strs(in []netip.Addr) []string {
	var out []string
	for _, a := range in {
		out = append(out, a.String())
	}
	return out
}

func clip(s string) string {
	if len(s) > maxMessage {
		return s[:maxMessage]
	}
	return s
}
