package agent

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"terway.dev/terway/internal/agent/journal"
	"terway.dev/terway/internal/agent/request"
	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/podeni"
)

// wantsExclusive says whether a pod gets an ENI of its own: on a node in mode exclusive
// each one does, on others those that were given the resource. Those that asked by the
// annotation alone were not counted by the scheduler (nothing added the resource when
// they were made): they get neither an ENI that another pod counts on, nor a shared one. counted says
// whether the scheduler counted an ENI for it, sure whether that is known.
func (a *Agent) wantsExclusive(ctx context.Context, r *request.Request) (exclusive, counted, sure bool, err error) {
	asks, err := podeni.Asked(r.Annotations)
	if err != nil {
		return false, false, false, types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("pod %s/%s: %v", r.Namespace, r.Name, err), "")
	}
	if err := a.awaitWant(ctx); err != nil {
		return false, false, false, err
	}
	a.mu.Lock()
	mode, offered := a.want.Mode, a.want.Offered
	a.mu.Unlock()
	if mode == claims.ModeExclusive {
		if a.WantsENI == nil || r.Name == "" {
			return true, false, true, nil
		}
		counted, err := a.WantsENI(ctx, r.Namespace, r.Name)
		if err != nil {
			// The pod gets its ENI all the same; the node offers one less until it is known.
			a.Log.Warn("it is not known whether the scheduler counted an ENI for a pod", "pod", r.Namespace+"/"+r.Name, "error", err)
		}
		return true, counted && err == nil, err == nil, nil
	}
	// A node that offers none any more may still be sent pods that were counted before,
	// or make their sandboxes anew.
	given := false
	if offered && a.WantsENI != nil && r.Name != "" {
		if given, err = a.WantsENI(ctx, r.Namespace, r.Name); err != nil {
			return false, false, false, tryAgain(fmt.Sprintf("it is not known whether the pod asked for an ENI of its own (resource %s)", claims.ResourceENI), err)
		}
	}
	if asks && !given {
		return false, false, false, types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf(
			"pod %s/%s asks for an ENI of its own by the annotation %s, but was made without the resource %s (is the chart value admission.enabled true?), so the scheduler did not count one for it: make the pod anew, or with limits {%s: 1}",
			r.Namespace, r.Name, claims.AnnotationExclusiveENI, claims.ResourceENI, claims.ResourceENI), "")
	}
	return given, given, true, nil
}

// recountTimeout bounds the questions of one recount: a silent kubelet must not keep the
// node from being repaired.
const recountTimeout = 5 * time.Second

// recount finds out for which pods the scheduler counted an ENI, where that was not to be
// had when they were wired. The error is the journal's.
func (a *Agent) recount(ctx context.Context) error {
	if a.WantsENI == nil {
		return nil
	}
	a.mu.Lock()
	var unsure []*journal.Entry
	for _, e := range a.entries {
		if e.Unsure && e.State == journal.Ready {
			unsure = append(unsure, e)
		}
	}
	a.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, recountTimeout)
	defer cancel()
	for _, e := range unsure {
		counted, err := a.WantsENI(ctx, e.Namespace, e.Name)
		if err != nil {
			a.Log.Debug("it is still not known whether the scheduler counted an ENI for a pod", "pod", e.Pod(), "error", err)
			continue
		}
		if err := a.counts(e, counted); err != nil {
			return err
		}
	}
	return nil
}

// counts notes whether the scheduler counted an ENI for a pod, if nobody is at work on it.
func (a *Agent) counts(e *journal.Entry, counted bool) error {
	unlock, ok := a.keys.try(e.Key)
	if !ok {
		return nil
	}
	defer unlock()
	if a.lookup(e.Key) != e {
		return nil
	}
	known := *e
	known.Uncounted, known.Unsure = !counted, false
	if err := a.Journal.Put(known); err != nil {
		return fmt.Errorf("note for pod %s whether the scheduler counted an ENI: %w", e.Pod(), err)
	}
	a.remember(&known)
	return nil
}

// awaitWant waits for the controller's word. An agent that has just started does not
// know before it whether the node has ENIs for pods of their own.
func (a *Agent) awaitWant(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, a.WaitForAddress)
	defer cancel()
	for {
		a.mu.Lock()
		ready, wake := a.want.Known || a.closing, a.wake
		a.mu.Unlock()
		if ready {
			return nil
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return tryAgain(a.whyNone(false), nil)
		}
	}
}

// eni is what the controller said of an ENI; nil if it says nothing any more.
func (a *Agent) eni(mac string) *datapath.ENI {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, e := range a.want.ENIs {
		if strings.EqualFold(e.MAC.String(), mac) {
			eni := e.ENI
			return &eni
		}
	}
	return nil
}

// ownerLocked is the attachment that has an ENI, whole; nil if none has.
func (a *Agent) ownerLocked(mac string) *journal.Entry {
	for _, e := range a.entries {
		if e.Exclusive != nil && e.ENI == mac {
			return e
		}
	}
	return nil
}

// uncountedLocked is how many ENIs pods hold that the scheduler does not count.
func (a *Agent) uncountedLocked() int {
	n := 0
	for _, e := range a.entries {
		if e.Exclusive != nil && e.Uncounted {
			n++
		}
	}
	return n
}

// whyNoENI says in plain words why there is no ENI for a pod that wants its own.
func (a *Agent) whyNoENI() string {
	total, held, uncounted := 0, 0, a.uncountedLocked()
	for _, e := range a.want.ENIs {
		if e.Exclusive {
			total++
		}
	}
	for _, e := range a.entries {
		if e.Exclusive != nil {
			held++
		}
	}
	s := fmt.Sprintf("no ENI for the pod: the node may have %d for pods that have one to themselves; %d are there, pods hold %d of them", a.want.ExclusiveENIs, total, held)
	room := min(a.want.Offers+uncounted, a.want.ExclusiveENIs)
	if room < a.want.ExclusiveENIs {
		s += fmt.Sprintf("; shared ENIs, or ENIs that are not Terway's, still take the places of %d", a.want.ExclusiveENIs-room)
	}
	if a.want.Mode == claims.ModeExclusive && held >= room {
		s += fmt.Sprintf("; in mode exclusive each pod takes one, but the scheduler counts only pods that ask for %s: let all ask, or set the kubelet's maxPods to %d and the pods on the node's own network", claims.ResourceENI, a.want.ExclusiveENIs)
	}
	switch {
	case a.want.ExclusiveENIs == 0:
		return s + "; set exclusive_enis in the ConfigMap eni-config, or run the pod on a node in mode exclusive"
	case a.whyNoMore != "":
		return s + "; " + a.whyNoMore
	case total > held:
		return s + "; one is on its way to the node (being attached, or coming back from a pod that has ended)"
	case total < a.want.ExclusiveENIs && a.silenceLocked() != "":
		return s + "; " + a.silenceLocked()
	case total < a.want.ExclusiveENIs:
		return s + "; the controller has not attached more yet"
	}
	return s + "; wait for a pod to end"
}
