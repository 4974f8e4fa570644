package agent

import (
	"k8s.io/apimachinery/pkg/util/validation"

	"terway.dev/terway/internal/agent/journal"
	"terway.dev/terway/internal/datapath"
)

// Kinds of trouble with single pods; they are the reasons of the pods' events.
const (
	// reasonNotRepaired: what the pod needs in the kernel cannot be put right.
	reasonNotRepaired = "NetworkNotRepaired"
	// reasonNotRemoved: a sandbox is gone, and what it had cannot be taken down.
	reasonNotRemoved = "NetworkNotRemoved"
	// reasonStranded: no ENI of the node has the pod's address.
	reasonStranded = "AddressGone"
)

// PodRef names a pod as its sandbox's runtime did.
type PodRef struct{ Namespace, Name, UID string }

// trouble is what is wrong with one pod.
type trouble struct {
	key journal.Key
	err error
}

// note takes the trouble of one kind that there is now. The log and the pod hear of it
// once, until it is over: one pod's trouble is never the node's.
func (a *Agent) note(reason string, found []trouble) {
	now := map[journal.Key]error{}
	for _, t := range found {
		now[t.key] = t.err
	}
	var news []journal.Key
	of := map[journal.Key]PodRef{}
	a.mu.Lock()
	for key := range now {
		if !a.troubled[reason][key] {
			news = append(news, key)
		}
		if e := a.entries[key]; e != nil {
			of[key] = PodRef{e.Namespace, e.Name, e.UID}
		}
	}
	if a.troubled == nil {
		a.troubled = map[string]map[journal.Key]bool{}
	}
	a.troubled[reason] = map[journal.Key]bool{}
	for key := range now {
		a.troubled[reason][key] = true
	}
	a.mu.Unlock()
	for _, key := range news {
		a.Log.Error("trouble with a pod", "reason", reason, "sandbox", key.Sandbox, "pod", of[key].Namespace+"/"+of[key].Name, "error", now[key])
		if pod := of[key]; a.Tell != nil && pod.Name != "" {
			a.Tell(pod, reason, clip(now[key].Error(), maxNote))
		}
	}
}

// maxNote is for an event's note, which may hold 1 kB with the node's name behind it
// (events.k8s.io/v1).
const maxNote = 1024 - validation.DNS1123SubdomainMaxLength - len(" (node )")

// ofPods are a Sync's errors of single pods.
func ofPods(errs []*datapath.PodError) (list []trouble) {
	for _, e := range errs {
		list = append(list, trouble{journal.Key{Sandbox: e.Sandbox, IfName: e.IfName}, e})
	}
	return list
}
