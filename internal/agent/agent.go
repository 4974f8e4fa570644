// Package agent is terwayd: it answers the CNI plugin, keeps the journal, drives
// the datapath and reports to the controller.
//
// One rule holds everywhere: the journal is written before the kernel is touched
// and before anybody is answered. No lock is held while waiting, while the disk
// is written or while the kernel is programmed, except the one of the attachment
// at hand; so a slow pod never stops another.
//
// And these, each of which was learnt:
//
//   - Order is judged by what is durable, not by what this process has seen: no word of the
//     controller is acted on that is older than the journal's (NodeSync.last), and a report
//     is for the one object that it was made for.
//   - One pod's trouble is never the node's. What cannot be wired, repaired or taken down of
//     a pod is its own trouble, with an event (note); only what concerns all counts against
//     the node, because a node that is not ready loses all its pods.
//   - Demand is the pod's, not the attempt's: it outlives the kubelet's pause (demand.go).
//   - What is said of life must be true: the Lease is renewed only while the repair loop comes
//     round (lease.go).
//   - Who waits is told why, as far as the node can know: the controller's reason, that it does
//     not answer, or that it cannot be reached (talk.go).
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/agent/journal"
	"terway.dev/terway/internal/agent/pool"
	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/monitor"
)

const waitForController = "the controller has not said yet which ENIs and addresses this node may use (is terway-controller running?)"

// Options are what an Agent is made of.
type Options struct {
	Log     *slog.Logger
	Now     func() time.Time
	Journal *journal.Journal
	// Datapath programs the node, for pods of every kind.
	Datapath Datapath
	// WaitForAddress bounds how long an ADD waits for the controller.
	WaitForAddress time.Duration
	// Alive reports whether a sandbox's network namespace still exists.
	Alive func(netns string) bool
	// Devices finds the node's links that may be ENIs, by MAC.
	Devices func() (map[string]Device, error)
	// WantsENI reports whether a pod asked for an ENI of its own (resource aliyun/eni).
	// It is asked only on a node that offers some, or has offered some.
	WantsENI func(ctx context.Context, namespace, name string) (bool, error)
	// OfferENIs tells the kubelet how many pods can have an ENI of their own; may be nil.
	OfferENIs func(n int)
	// Tell makes a warning event on a pod; may be nil. It does not wait.
	Tell func(pod PodRef, reason, note string)
	// Neighbours says which other programs of the node have an ENI's device for theirs, and
	// what to do about it; may be nil.
	Neighbours func(device string) []string
	// LeaseDuration is how long the agent's Lease is good; 0 if it has none.
	LeaseDuration time.Duration
	// Metrics may be nil.
	Metrics *Metrics
}

// Datapath is what the agent asks of a node; node.Node, which says what each call does, is one.
type Datapath interface {
	// Choices are the names of the kinds that new pods which share ENIs may be of, the fastest
	// first and what all build on last.
	Choices() []string
	// Lacking says why the node has no other kinds, by name.
	Lacking() map[string]error
	AddPod(ctx context.Context, node datapath.Node, pod datapath.Pod) (datapath.Wiring, error)
	DelPod(ctx context.Context, pod datapath.Pod) error
	CheckPod(ctx context.Context, node datapath.Node, pod datapath.Pod) error
	Sync(ctx context.Context, node datapath.Node, pods []datapath.Pod) (repairs []string, err error)
	// Alive reports whether a wired pod still has its device, though its namespace may be out of
	// sight.
	Alive(pod datapath.Pod) (bool, error)
}

// Device is a link of the node that may be an ENI.
type Device struct {
	Name string
	MTU  int
}

// Agent is the node's agent.
type Agent struct {
	Options

	keys    keyLocks
	monitor *monitor.Monitor

	mu      sync.Mutex
	pool    *pool.Pool
	entries map[journal.Key]*journal.Entry
	waiting map[claim]*wish // pods for which there is no address
	want    Want            // the controller's last word
	// whyNoMore is why the controller gives no more, as far as it is known; empty: it gives.
	whyNoMore string
	node      datapath.Node // derived from want and the devices
	kind      string        // of new pods that share ENIs; empty until chosen
	// dpReason and dpWhy say why this one (condition DatapathReady).
	dpReason, dpWhy string
	devices         devicesSeen
	// lost are the exclusive ENIs of pods, by MAC, whose device the last Sync found nowhere.
	lost map[string]bool
	// stranded are the attachments whose address no ENI has, by since when.
	stranded map[journal.Key]time.Time
	talk     talk
	// troubled are the attachments of pods in trouble, by its kind.
	troubled  map[string]map[journal.Key]bool
	obstacles []string // what of others on the node is in the pods' way
	synced    bool     // the kernel has agreed with us at least once
	wasOK     bool     // ADD could be served at some time
	failed    int      // repairs in a row that failed
	failure   string   // the last one's error
	// notOK is why ADD cannot be served, empty when it can; notOKReason is it in a word.
	notOK, notOKReason string
	began              time.Time     // when the agent was made
	looked             time.Time     // when the repair loop last came round
	closing            bool          // the agent is stopping: nobody waits any more
	wake               chan struct{} // closed and replaced when an address may have become free
	dirty              chan struct{} // capacity 1: the status to report has changed
	repair             chan struct{} // capacity 1: look at the kernel now
}

// New restores an agent from its journal. It touches no kernel object yet.
func New(o Options) (*Agent, error) {
	a := &Agent{
		Options: o,
		pool:    pool.New(),
		entries: map[journal.Key]*journal.Entry{},
		waiting: map[claim]*wish{},
		notOK:   waitForController, notOKReason: "WaitingForController",
		wake:   make(chan struct{}),
		dirty:  make(chan struct{}, 1),
		repair: make(chan struct{}, 1),
	}
	a.monitor = a.newMonitor()
	entries, freed, err := o.Journal.Load()
	if err != nil {
		return nil, err
	}
	now := o.Now()
	a.began = now
	for addr, at := range freed {
		if at.After(now) {
			at = now // the clock was set back: rest the usual time, not longer
		}
		if err := a.pool.Restore(addr, "", nil, at); err != nil {
			return nil, err
		}
	}
	for i := range entries {
		e := &entries[i]
		if e.State == journal.Allocating {
			// The agent that was at it is dead, so the runtime never had an answer:
			// the next repair undoes what there may be.
			e.State = journal.Releasing
		}
		a.entries[e.Key] = e
		for _, addr := range e.Addresses {
			h := holder(e)
			if err := a.pool.Restore(addr, e.ENI, &h, time.Time{}); err != nil {
				return nil, fmt.Errorf("journal: %w", err)
			}
		}
	}
	return a, nil
}

// Dirty signals that the status has changed; Repairs that the kernel should be looked at.
func (a *Agent) Dirty() <-chan struct{}   { return a.dirty }
func (a *Agent) Repairs() <-chan struct{} { return a.repair }

// Poke asks for a repair now.
func (a *Agent) Poke() { signal(a.repair) }

// Ready reports whether ADD can be served, and if not why.
func (a *Agent) Ready() (ok bool, why string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.notOK == "", a.notOK
}

// Close lets calls that wait for an address fail at once, so that the agent can stop.
func (a *Agent) Close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closing = true
	a.wakeLocked()
}

// Healthy reports whether the repair loop still comes round.
func (a *Agent) Healthy(within time.Duration) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.Now().Sub(a.looked) < within
}

// SetWant takes the controller's word.
func (a *Agent) SetWant(w Want) error {
	devices, err := a.Devices()
	if err != nil {
		return fmt.Errorf("list the node's devices: %w", err)
	}
	a.mu.Lock()
	if w.Generation != a.want.Generation || !a.want.Known {
		a.talk.heard = a.Now()
	}
	w.Offered = w.Offered || a.want.Offered || w.ExclusiveENIs > 0 || w.Offers > 0
	a.want = w
	left := a.applyLocked(devices)
	a.mu.Unlock()
	if a.OfferENIs != nil {
		a.OfferENIs(w.Offers)
	}
	signal(a.dirty)
	signal(a.repair)
	a.forget(left)
	return nil
}

// SetWhyNoMore takes the controller's reason for not giving the node more; empty: it gives.
// Waiting pods hear of it. No more follows from it, so nothing is repaired.
func (a *Agent) SetWhyNoMore(why string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.whyNoMore != why {
		a.whyNoMore, a.talk.heard = why, a.Now()
	}
}

// lookForDevices takes the devices that there are now, and looks at nothing else.
func (a *Agent) lookForDevices() {
	devices, err := a.Devices()
	if err != nil {
		a.Poke() // whose error is noted
		return
	}
	a.mu.Lock()
	if !a.want.Known {
		a.mu.Unlock()
		return
	}
	left := a.applyLocked(devices)
	a.mu.Unlock()
	a.forget(left)
}

// forget has the journal forget addresses that left. What it keeps are times at which
// addresses rest that the node has no longer.
func (a *Agent) forget(left []netip.Addr) {
	if err := a.Journal.Forget(left); err != nil {
		a.Log.Warn("the journal keeps what it could forget", "addresses", left, "error", err)
	}
}

// applyLocked derives the pool and the node from want and the devices.
func (a *Agent) applyLocked(devices map[string]Device) (left []netip.Addr) {
	a.pool.SetCooling(a.want.Cooling)
	a.node = a.want.Node
	a.node.ENIs, a.node.Kind = nil, a.kind
	var offers []pool.Offer
	a.lookForLocked(devices)
	for _, e := range a.want.ENIs {
		d, present := devices[e.MAC.String()]
		if present && !e.Exclusive {
			eni := e.ENI
			eni.Device = d.Name
			if eni.MTU == 0 {
				eni.MTU = d.MTU
			}
			a.node.ENIs = append(a.node.ENIs, eni)
		}
		for _, addr := range e.Addresses {
			offers = append(offers, pool.Offer{Address: addr.Address, ENI: e.MAC.String(), Usable: present && e.Ready, Releasing: addr.Releasing, Exclusive: e.Exclusive})
		}
	}
	left = a.pool.Update(offers)
	a.wakeLocked()
	return left
}

func (a *Agent) wakeLocked() {
	close(a.wake)
	a.wake = make(chan struct{})
}

// chooseLocked settles on the kind of new pods. Each pod keeps the one that it was wired as.
func (a *Agent) chooseLocked() error {
	choices, lacking := a.Datapath.Choices(), a.Datapath.Lacking()
	if len(choices) == 0 {
		return errors.New("this agent has no datapath")
	}
	// The last one is what all others build on.
	if base := choices[len(choices)-1]; lacking[base] != nil {
		err := fmt.Errorf("no datapath works on this node: %s, on which all build: %w", base, lacking[base])
		a.dpReason, a.dpWhy = v1alpha1.ReasonDatapathRefused, err.Error()
		return err
	}
	defer func() { a.node.Kind = a.kind }()
	asked := a.want.Datapath
	if asked == "" || asked == claims.Auto {
		a.kind, a.dpReason = choices[0], v1alpha1.ReasonDatapathAuto
		if len(lacking) > 0 {
			a.dpReason = v1alpha1.ReasonDatapathAutoLacking
		}
		a.dpWhy = "auto takes the fastest datapath that this agent and kernel have: " + a.kind
		for _, name := range slices.Sorted(maps.Keys(lacking)) {
			a.dpWhy += fmt.Sprintf("; not %s: %v", name, lacking[name])
		}
		return nil
	}
	if slices.Contains(choices, asked) {
		a.kind, a.dpReason, a.dpWhy = asked, "Configured", "chosen by spec.datapath"
		return nil
	}
	err := fmt.Errorf("datapath %q is not one that this agent has: want auto or one of %v", asked, choices)
	if why := lacking[asked]; why != nil {
		err = fmt.Errorf("datapath %q does not work on this node: %w; want auto or one of %v", asked, why, choices)
	}
	if a.kind == "" {
		a.dpReason, a.dpWhy = v1alpha1.ReasonDatapathRefused, err.Error()
		return err
	}
	// A node that serves pods does not stop for it.
	a.dpReason, a.dpWhy = v1alpha1.ReasonDatapathKept, fmt.Sprintf("%v; until the agent starts again new pods get %s", err, a.kind)
	return nil
}

func (a *Agent) remember(e *journal.Entry) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.entries[e.Key] = e
}

func (a *Agent) lookup(k journal.Key) *journal.Entry {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.entries[k]
}

func holder(e *journal.Entry) pool.Holder {
	return pool.Holder{Key: e.Key.String(), Pod: e.Pod(), Sandbox: e.Sandbox}
}

// PodOf is an entry as the datapath sees it. Only a Ready one counts as wired: the others Sync
// leaves to the call that is at work on them.
func PodOf(e *journal.Entry) datapath.Pod {
	p := datapath.Pod{
		Sandbox: e.Sandbox, IfName: e.IfName, NetNS: e.NetNS, Namespace: e.Namespace, Name: e.Name,
		Addresses: e.Addresses, ENI: e.ENI, Exclusive: e.Exclusive, Kind: e.Datapath,
	}
	switch {
	case e.Exclusive != nil:
		p.Kind = claims.Exclusive
	case p.Kind == "":
		p.Kind = claims.Route // written before there were others
	}
	if e.State == journal.Ready {
		p.State = datapath.Wired
	}
	return p
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
