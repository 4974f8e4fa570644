package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"terway.dev/terway/internal/agent/journal"
	"terway.dev/terway/internal/datapath"
)

// tolerated is how many repairs in a row may fail before the node counts as not ready. A dump that
// raced with a change must not evict pods; a kernel that cannot be programmed must get no new ones.
const tolerated = 3

// RepairLoop repairs at once when requested, and once every period. Requests within pause of each
// other cause one repair. It calls ready after each repair.
func (a *Agent) RepairLoop(ctx context.Context, period, pause time.Duration, ready func(ok bool) error) {
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		if err := a.Repair(ctx); err != nil && ctx.Err() == nil {
			a.Log.Error("repair", "error", err)
		}
		ok, _ := a.Ready()
		if err := ready(ok); err != nil {
			a.Log.Error("publish readiness", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		if !a.awaitRepair(ctx, tick.C) {
			return
		}
	}
}

// awaitRepair waits for the next round. The wait does not count as hanging, however long the period
// is.
func (a *Agent) awaitRepair(ctx context.Context, tick <-chan time.Time) bool {
	alive := time.NewTicker(stuck / 4)
	defer alive.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-tick:
			return true
		case <-a.Repairs():
			return true
		case <-alive.C:
			a.mu.Lock()
			a.lastRound = a.Now()
			a.mu.Unlock()
		}
	}
}

// Repair makes pool, journal and kernel agree: it frees attachments whose sandbox is gone, brings
// the datapath to the desired state, and decides readiness. It runs at start, after a change and
// periodically.
func (a *Agent) Repair(ctx context.Context) error {
	err := a.repairOnce(ctx)
	a.mu.Lock()
	if err != nil {
		a.failed++
		a.failure = err.Error()
	} else {
		a.failed, a.failure = 0, ""
	}
	a.notOKReason, a.notOK = a.judgeLocked()
	if a.notOK == "" {
		a.wasOK = true
	}
	a.lastRound = a.Now()
	a.mu.Unlock()
	signal(a.dirty)
	return err
}

func (a *Agent) repairOnce(ctx context.Context) error {
	devices, err := a.Devices()
	if err != nil {
		return fmt.Errorf("list the node's devices: %w", err)
	}
	a.mu.Lock()
	if !a.desired.Known {
		a.mu.Unlock()
		return nil
	}
	left := a.applyLocked(devices)
	chosen := a.chooseLocked()
	kind := a.kind
	a.mu.Unlock()

	a.forget(left)
	if kind == "" {
		return chosen
	}
	a.setProblems(reasonNotRemoved, a.reap(ctx))
	if err := a.limit(); err != nil {
		return err
	}
	a.setProblems(reasonStranded, a.strandedPods())
	// The kubelet comes last: it may be slow to answer.
	return errors.Join(chosen, a.sync(ctx), a.recount(ctx))
}

// judgeLocked returns why ADD cannot be served, as a condition reason and a message; both are empty
// if it can.
//
// That no address is free is not a reason: the node would become NotReady and lose its pods. Nor is
// a lost ENI once the node has served pods.
func (a *Agent) judgeLocked() (reason, why string) {
	switch {
	case !a.desired.Known:
		return "WaitingForController", waitForController
	case !a.synced && a.failure != "", a.failed >= tolerated:
		return "DatapathFailed", a.failure
	case !a.synced:
		return "DatapathNotProgrammed", "the datapath is not programmed yet"
	case !a.wasOK && a.desired.MinPool > 0 && len(a.node.ENIs) == 0:
		why = "no ENI for pods is attached yet"
		if a.whyNoMore != "" {
			why += ": " + a.whyNoMore
		}
		return "NoENI", why
	}
	return "", ""
}

// reap frees attachments that are being released, and those whose sandbox disappeared without a DEL
// because the runtime or the node died. An attachment that cannot be freed is a problem of that
// pod: the others are served.
func (a *Agent) reap(ctx context.Context) (left []podProblem) {
	a.mu.Lock()
	all := make([]*journal.Entry, 0, len(a.entries))
	for _, e := range a.entries {
		all = append(all, e)
	}
	a.mu.Unlock()
	for _, e := range all {
		gone, err := a.gone(e)
		if err != nil {
			left = append(left, podProblem{e.Key, err})
		}
		if err != nil || !gone {
			continue
		}
		unlock, ok := a.keys.try(e.Key)
		if !ok {
			continue // an ADD or DEL works on it
		}
		if a.lookup(e.Key) == e { // else it has changed since the list was made
			a.Log.Info("freeing the address of a pod sandbox that is gone", "pod", e.Pod(), "sandbox", e.Sandbox, "addresses", e.Addresses, "state", e.State)
			if err := a.release(ctx, e, cool); err != nil {
				left = append(left, podProblem{e.Key, err})
			}
		}
		unlock()
	}
	return left
}

// gone reports whether the attachment will never be used again. A pod whose namespace's path is not
// visible, but whose device still has its peer, is alive: the path is hidden (a mount that does not
// propagate into the agent's container), and freeing would cut off every pod of the node.
func (a *Agent) gone(e *journal.Entry) (bool, error) {
	switch {
	case e.State == journal.Releasing:
		return true, nil
	case a.Alive(e.NetNS):
		return false, nil
	case e.HostIfName == "":
		return true, nil
	}
	linked, err := a.Datapath.Alive(PodOf(e))
	if err != nil {
		return false, fmt.Errorf("find the link of pod %s: %w", e.Pod(), err)
	}
	if linked {
		a.Log.Warn("the network namespace of a sandbox is not visible, but its link exists; the address is kept",
			"pod", e.Pod(), "sandbox", e.Sandbox, "netns", e.NetNS, "link", e.HostIfName)
	}
	return !linked, nil
}

// sync brings the kernel to the desired state.
func (a *Agent) sync(ctx context.Context) error {
	a.mu.Lock()
	node := a.node
	pods := make([]datapath.Pod, 0, len(a.entries))
	for _, e := range a.entries {
		pods = append(pods, PodOf(e))
	}
	a.mu.Unlock()
	slices.SortFunc(pods, func(x, y datapath.Pod) int {
		return strings.Compare(x.Sandbox+"/"+x.IfName, y.Sandbox+"/"+y.IfName)
	})
	start := a.Now()
	repairs, err := a.Datapath.Sync(ctx, node, pods)
	a.Metrics.synced(a.Now().Sub(start), repairs, err)
	for _, r := range repairs {
		a.Log.Info("repaired", "datapath", r.Kind, "piece", r.Piece, "what", r.What)
	}
	single, obstacles, err := datapath.Sort(err)
	if err != nil {
		return fmt.Errorf("datapath %s: %w", node.Kind, err)
	}
	found := podProblems(single)
	if a.Neighbours != nil {
		for _, e := range node.ENIs {
			obstacles = append(obstacles, a.Neighbours(e.Device)...)
		}
	}
	// One pod that cannot be repaired does not stop the node from serving the others.
	for _, reason := range reasonsOfSync {
		a.setProblems(reason, found[reason])
	}
	a.mu.Lock()
	a.recordLostLocked(found[reasonNotRepaired])
	a.setObstaclesLocked(obstacles)
	first := !a.synced
	a.synced = true
	if first {
		a.wakeLocked()
	}
	a.mu.Unlock()
	return nil
}

// Whether freed addresses cool: only those that a pod may have used.
const (
	cool   = true
	noCool = false
)

// release undoes an attachment; the caller holds its key. The addresses cool from the moment at
// which no packet can reach the pod any more. If it fails, the entry stays in state Releasing and
// the repair loop continues.
func (a *Agent) release(ctx context.Context, e *journal.Entry, cool bool) error {
	if e.State != journal.Releasing {
		// In memory first, so that no Sync repairs what is being removed. The journal is written
		// only on failure: a removed pod in the journal is removed again by the runtime's next DEL
		// or when its namespace is gone.
		undoing := *e
		undoing.State = journal.Releasing
		e = &undoing
		a.remember(e)
	}
	pod := PodOf(e)
	if e.HostIfName != "" {
		pod.State = datapath.Wired // it was wired, so the devices with these names in the pod are Terway's
	}
	if err := a.Datapath.DelPod(ctx, pod); err != nil {
		return errors.Join(fmt.Errorf("unwire pod %s: %w", e.Pod(), err), a.Journal.Put(*e))
	}
	now := a.Now()
	var resting []netip.Addr
	if cool {
		resting = e.Addresses
	}
	if err := a.Journal.Free(e.Key, resting, now); err != nil {
		return err
	}
	a.leavePolicies(e) // before another pod can have the address
	a.mu.Lock()
	delete(a.entries, e.Key)
	for _, addr := range e.Addresses {
		if cool {
			a.pool.Free(addr, e.Key.String(), now)
		} else {
			a.pool.Return(addr, e.Key.String(), now)
		}
	}
	a.wakeLocked()
	a.mu.Unlock()
	if e.Exclusive != nil {
		a.refreshDevices() // the ENI's device is back, which the monitor ignores (wantsDevice)
	}
	signal(a.dirty)
	return nil
}
