package agent

import (
	"net/netip"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/agent/journal"
	"terway.dev/terway/internal/datapath/claims"
)

// maxMessage is the maximum length of a condition's message (metav1.Condition).
const maxMessage = 32768

// Status returns the agent's report. Conditions keep the transition times of prev.
func (a *Agent) Status(prev v1alpha1.NodeNetworkStatus) v1alpha1.NodeNetworkStatus {
	var hasPolicies bool
	var whyPolicies [2]string
	if a.Policies != nil {
		hasPolicies, whyPolicies[0], whyPolicies[1] = a.Policies.State()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.Now()
	used, cooling, released := a.pool.Report(now)
	st := v1alpha1.NodeNetworkStatus{
		ObservedGeneration: a.desired.Generation,
		UsedCount:          len(used),
		Cooling:            strs(cooling),
		Released:           strs(released),
		MissingENIs:        a.missingLocked(),
		UncountedENIs:      a.uncountedLocked(),
		LeaseSeconds:       int(a.LeaseDuration / time.Second),
	}
	st.Demand, st.ENIDemand = a.demandLocked()
	st.WaitingSandboxes = a.waitingSandboxesLocked()
	for _, u := range used {
		e := a.entries[journal.Key{Sandbox: u.Sandbox, IfName: strings.TrimPrefix(u.Key, u.Sandbox+"/")}]
		st.Used = append(st.Used, v1alpha1.UsedAddress{Address: u.Address.String(), Pod: u.Pod, Sandbox: u.Sandbox, Limits: reportLimits(e), Priority: a.reportPriorityLocked(e)})
	}
	ready := a.conditionLocked(v1alpha1.ConditionReady, a.notOK == "", a.notOKReason, a.notOK)
	if a.notOK == "" {
		ready.Reason, ready.Message = "Serving", "pods can be wired"
	}
	dp := a.conditionLocked(v1alpha1.ConditionDatapathReady, false, "NotChosen", "no datapath runs yet")
	st.Datapath = a.datapathLocked()
	if a.kind != "" {
		why := a.dpWhy
		if capacity := a.Datapath.Capacity(a.kind); capacity != "" {
			why += "; " + capacity
		}
		dp = a.conditionLocked(v1alpha1.ConditionDatapathReady, true, a.dpReason, why)
		if a.desired.Mode == claims.ModeExclusive {
			dp = a.conditionLocked(v1alpha1.ConditionDatapathReady, true, "ModeExclusive",
				"each pod has an exclusive ENI; it reaches Services and the node by a veth")
		}
	}
	switch {
	case a.kind == "" && a.dpReason != "":
		dp = a.conditionLocked(v1alpha1.ConditionDatapathReady, false, a.dpReason, a.dpWhy)
	case a.failure != "":
		dp = a.conditionLocked(v1alpha1.ConditionDatapathReady, false, "NotProgrammed", a.failure)
	case len(a.obstacles) > 0:
		dp = a.conditionLocked(v1alpha1.ConditionDatapathReady, false, v1alpha1.ReasonDatapathObstructed, strings.Join(a.obstacles, "; "))
	}
	st.Conditions = append([]metav1.Condition(nil), prev.Conditions...)
	if a.Policies == nil {
		meta.RemoveStatusCondition(&st.Conditions, v1alpha1.ConditionPolicyReady)
	} else {
		meta.SetStatusCondition(&st.Conditions, a.conditionLocked(v1alpha1.ConditionPolicyReady, hasPolicies, whyPolicies[0], whyPolicies[1]))
	}
	if a.startingLocked() && meta.FindStatusCondition(prev.Conditions, v1alpha1.ConditionReady) != nil {
		st.Datapath = prev.Datapath
		return st
	}
	meta.SetStatusCondition(&st.Conditions, ready)
	meta.SetStatusCondition(&st.Conditions, dp)
	return st
}

// datapathLocked returns the datapath in use, that of new pods; empty until one is chosen.
func (a *Agent) datapathLocked() string {
	if a.kind != "" && a.desired.Mode == claims.ModeExclusive {
		return claims.Exclusive
	}
	return a.kind
}

// startGrace is how long an agent may take to find out the node's state.
const startGrace = time.Minute

// startingLocked reports whether the agent has not found out the node's state yet. Until then the
// report of the previous agent stands: otherwise each restart would keep pods away from the node.
func (a *Agent) startingLocked() bool {
	return !a.synced && a.failure == "" && a.Now().Sub(a.started) < startGrace
}

func (a *Agent) conditionLocked(kind string, ok bool, reason, message string) metav1.Condition {
	c := metav1.Condition{Type: kind, Status: metav1.ConditionFalse, Reason: reason, Message: clip(message, maxMessage),
		ObservedGeneration: a.desired.Generation, LastTransitionTime: metav1.NewTime(a.Now())}
	if ok {
		c.Status = metav1.ConditionTrue
	}
	return c
}

func strs(in []netip.Addr) []string {
	var out []string
	for _, a := range in {
		out = append(out, a.String())
	}
	return out
}

func clip(s string, most int) string {
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "")
	}
	return s
}
