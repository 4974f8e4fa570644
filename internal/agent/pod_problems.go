package agent

import (
	"errors"

	"k8s.io/apimachinery/pkg/util/validation"

	"terway.dev/terway/internal/agent/journal"
	"terway.dev/terway/internal/datapath"
)

// Problems of single pods; the constants are the reasons of the pods' events.
const (
	// reasonNotRepaired: what the pod needs in the kernel cannot be repaired.
	reasonNotRepaired = "NetworkNotRepaired"
	// reasonPolicyRemoved, reasonLimitRemoved: the pod has removed what enforces its network policies or limits its
	// bandwidth; it was put back.
	reasonPolicyRemoved = "NetworkPolicyRemoved"
	reasonLimitRemoved  = "BandwidthLimitRemoved"
	// reasonNotRemoved: a sandbox is gone, and what it had in the kernel cannot be removed.
	reasonNotRemoved = "NetworkNotRemoved"
	// reasonStranded: no ENI of the node has the pod's address.
	reasonStranded = "AddressGone"
)

// PodRef names a pod as the runtime did in ADD.
type PodRef struct{ Namespace, Name, UID string }

// podProblem is what is wrong with one pod.
type podProblem struct {
	key journal.Key
	err error
}

// setProblems sets the current problems with one reason. Each is logged, and recorded as an event
// on the pod, once until it is over.
func (a *Agent) setProblems(reason string, found []podProblem) {
	now := map[journal.Key]error{}
	for _, t := range found {
		now[t.key] = t.err
	}
	var news []journal.Key
	of := map[journal.Key]PodRef{}
	a.mu.Lock()
	for key := range now {
		if !a.problems[reason][key] {
			news = append(news, key)
		}
		if e := a.entries[key]; e != nil {
			of[key] = PodRef{e.Namespace, e.Name, e.UID}
		}
	}
	if a.problems == nil {
		a.problems = map[string]map[journal.Key]bool{}
	}
	a.problems[reason] = map[journal.Key]bool{}
	for key := range now {
		a.problems[reason][key] = true
	}
	a.mu.Unlock()
	for _, key := range news {
		a.Log.Error("a pod has a problem", "reason", reason, "sandbox", key.Sandbox, "pod", of[key].Namespace+"/"+of[key].Name, "error", now[key])
		if pod := of[key]; a.PodEvent != nil && pod.Name != "" {
			a.PodEvent(pod, reason, clip(now[key].Error(), maxNote))
		}
	}
}

// maxNote is the maximum length of an event's text. An event's note may have 1 kB
// (events.k8s.io/v1), with the node's name appended.
const maxNote = 1024 - validation.DNS1123SubdomainMaxLength - len(" (node )")

// reasonsOfSync are those of what a Sync finds.
var reasonsOfSync = []string{reasonNotRepaired, reasonPolicyRemoved, reasonLimitRemoved}

// podProblems sorts the errors that a Sync returned for single pods by their reason.
func podProblems(errs []*datapath.PodError) map[string][]podProblem {
	found := map[string][]podProblem{}
	for _, e := range errs {
		reason := reasonNotRepaired
		var removed *datapath.Tampered
		if errors.As(e, &removed) {
			reason = map[datapath.Enforced]string{datapath.OfPolicies: reasonPolicyRemoved, datapath.OfLimits: reasonLimitRemoved}[removed.Of]
		}
		found[reason] = append(found[reason], podProblem{journal.Key{Sandbox: e.Sandbox, IfName: e.IfName}, e})
	}
	return found
}
