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

// wantsExclusive reports whether a pod gets an exclusive ENI: every pod on a node in mode
// exclusive, on other nodes those that have the resource. A pod with the annotation alone, created
// while the webhook did not run, was not counted by the scheduler: it gets an error, because an ENI
// would be missing for a pod that was counted, and a shared address is not what it asked for.
// counted reports whether the scheduler counted an ENI for the pod, sure whether that is known.
func (a *Agent) wantsExclusive(ctx context.Context, r *request.Request) (exclusive, counted, sure bool, err error) {
	asks, err := podeni.Asked(r.Annotations)
	if err != nil {
		return false, false, false, types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("pod %s/%s: %v", r.Namespace, r.Name, err), "")
	}
	if err := a.awaitDesired(ctx); err != nil {
		return false, false, false, err
	}
	a.mu.Lock()
	mode, offered := a.desired.Mode, a.desired.Offered
	a.mu.Unlock()
	if mode == claims.ModeExclusive {
		if a.WantsENI == nil || r.Name == "" {
			return true, false, true, nil
		}
		counted, err := a.WantsENI(ctx, r.Namespace, r.Name)
		if err != nil {
			// The pod gets its ENI anyway; the node offers one less until it is known.
			a.Log.Warn("it is not known whether the scheduler counted an ENI for a pod", "pod", r.Namespace+"/"+r.Name, "error", err)
		}
		return true, counted && err == nil, err == nil, nil
	}
	// A node that offers no more ENIs may still get pods that were counted before, or new sandboxes
	// of such pods.
	given := false
	if offered && a.WantsENI != nil && r.Name != "" {
		if given, err = a.WantsENI(ctx, r.Namespace, r.Name); err != nil {
			return false, false, false, tryAgain(fmt.Sprintf("it is not known whether the pod requested an exclusive ENI (resource %s)", claims.ResourceENI), err)
		}
	}
	if asks && !given {
		return false, false, false, types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf(
			"pod %s/%s requests an exclusive ENI by the annotation %s, but was created without the resource %s (is the chart value admission.enabled true?), so the scheduler did not count one for it: recreate the pod, or set limits {%s: 1}",
			r.Namespace, r.Name, claims.AnnotationExclusiveENI, claims.ResourceENI, claims.ResourceENI), "")
	}
	return given, given, true, nil
}

// recountTimeout bounds all kubelet calls of one recount: a kubelet that does not answer must not
// delay repairs.
const recountTimeout = 5 * time.Second

// recount asks whether the scheduler counted an ENI for those pods for which that was unknown when
// they were wired. Errors of the kubelet are only logged; the returned error is the journal's.
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
		if err := a.setCounted(e, counted); err != nil {
			return err
		}
	}
	return nil
}

// setCounted records whether the scheduler counted an ENI for a pod, unless a call works on the
// pod.
func (a *Agent) setCounted(e *journal.Entry, counted bool) error {
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
		return fmt.Errorf("record for pod %s whether the scheduler counted an ENI: %w", e.Pod(), err)
	}
	a.remember(&known)
	return nil
}

// awaitDesired waits for the desired state. Before it, an agent that has just started does not know
// whether the node has exclusive ENIs.
func (a *Agent) awaitDesired(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, a.WaitForAddress)
	defer cancel()
	for {
		a.mu.Lock()
		ready, wake := a.desired.Known || a.closing, a.wake
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

// eni returns an ENI of the desired state, nil if it has none with that MAC.
func (a *Agent) eni(mac string) *datapath.ENI {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, e := range a.desired.ENIs {
		if strings.EqualFold(e.MAC.String(), mac) {
			eni := e.ENI
			return &eni
		}
	}
	return nil
}

// ownerLocked returns the attachment that has an exclusive ENI, nil if there is none.
func (a *Agent) ownerLocked(mac string) *journal.Entry {
	for _, e := range a.entries {
		if e.Exclusive != nil && e.ENI == mac {
			return e
		}
	}
	return nil
}

// uncountedLocked returns how many ENIs are held by pods for which the scheduler did not count one.
func (a *Agent) uncountedLocked() int {
	n := 0
	for _, e := range a.entries {
		if e.Exclusive != nil && e.Uncounted {
			n++
		}
	}
	return n
}

// whyNoENI explains why there is no ENI for a pod that requests an exclusive one.
func (a *Agent) whyNoENI() string {
	total, held, uncounted := 0, 0, a.uncountedLocked()
	for _, e := range a.desired.ENIs {
		if e.Exclusive {
			total++
		}
	}
	for _, e := range a.entries {
		if e.Exclusive != nil {
			held++
		}
	}
	s := fmt.Sprintf("no ENI for the pod: the node may have %d exclusive ENIs; %d exist, pods hold %d of them", a.desired.ExclusiveENIs, total, held)
	room := min(a.desired.Offers+uncounted, a.desired.ExclusiveENIs)
	if room < a.desired.ExclusiveENIs {
		s += fmt.Sprintf("; shared ENIs, or ENIs that are not Terway's, still occupy the slots of %d", a.desired.ExclusiveENIs-room)
	}
	if a.desired.Mode == claims.ModeExclusive && held >= room {
		s += fmt.Sprintf("; in mode exclusive each pod takes one, but the scheduler counts only pods that ask for %s: make all pods request it, or set the kubelet's maxPods to %d and the pods on the node's own network", claims.ResourceENI, a.desired.ExclusiveENIs)
	}
	switch {
	case a.desired.ExclusiveENIs == 0:
		return s + "; set exclusive_enis in the ConfigMap eni-config, or run the pod on a node in mode exclusive"
	case a.whyNoMore != "":
		return s + "; " + a.whyNoMore
	case total > held:
		return s + "; one is on its way to the node (being attached, or coming back from a pod that has ended), or a load balancer still has it as a backend"
	case total < a.desired.ExclusiveENIs && a.silenceLocked() != "":
		return s + "; " + a.silenceLocked()
	case total < a.desired.ExclusiveENIs:
		return s + "; the controller has not attached more yet"
	}
	return s + "; wait for a pod to end"
}
