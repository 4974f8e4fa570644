// Package agent is terwayd: it answers the CNI plugin, keeps the journal, drives
// the datapath and reports to the controller.
//
// The journal is written before the kernel is touched and before a call is answered. While the
// agent waits, writes to disk or programs the kernel it holds no lock but the one of the attachment
// in question, so a slow pod does not delay others.
//
// More rules:
//
//   - Order is judged by what is durable, not by what this process has seen. The agent ignores a
//     NodeNetwork that is older than the one in the journal (NodeSync.last), and writes a report
//     only to the object that it was made for.
//   - A problem of one pod does not make the node unready. If a pod cannot be wired, repaired or
//     removed, the pod gets an event (setProblems). Only a problem that concerns all pods counts
//     against the node, because an unready node loses all its pods.
//   - Demand belongs to the pod, not to the attempt: it outlives the kubelet's pause between two
//     attempts (demand.go).
//   - The Lease is renewed only while the repair loop makes progress (lease.go).
//   - A waiting pod is told the reason as far as the node can know it: the controller's reason, that
//     the controller does not answer, or that it cannot be reached (contact.go).
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
	"terway.dev/terway/internal/datapath/object"
)

const waitForController = "the controller has not assigned ENIs and addresses to this node yet (is terway-controller running?)"

// Options configure an Agent.
type Options struct {
	Log     *slog.Logger
	Now     func() time.Time
	Journal *journal.Journal
	// Datapath programs the node for pods of every kind.
	Datapath Datapath
	// WaitForAddress bounds how long an ADD waits for the controller.
	WaitForAddress time.Duration
	// Alive reports whether a sandbox's network namespace still exists.
	Alive func(netns string) bool
	// Devices returns the node's links that may be ENIs, by MAC.
	Devices func() (map[string]Device, error)
	// WantsENI reports whether a pod requested an exclusive ENI (resource aliyun/eni). It is called
	// only on a node that offers some, or has offered some.
	WantsENI func(ctx context.Context, namespace, name string) (bool, error)
	// OfferENIs tells the kubelet how many pods can have an exclusive ENI; may be nil.
	OfferENIs func(n int)
	// PodEvent records a warning event on a pod; may be nil. It does not block.
	PodEvent func(pod PodRef, reason, note string)
	// Neighbours returns which other programs of the node manage an ENI's device, and how to stop
	// them; may be nil.
	Neighbours func(device string) []string
	// LeaseDuration is how long the agent's Lease is valid; 0 if it has none.
	LeaseDuration time.Duration
	// Policies are the node's; nil if policy is off.
	Policies Policies
	// Metrics may be nil.
	Metrics *Metrics
}

// Datapath is what the agent needs of a node; node.Node implements it and documents each call.
type Datapath interface {
	// Choices are the names of the kinds that new pods with shared ENIs may be of: the fastest
	// first, and last the one on which all others build.
	Choices() []string
	// Lacking returns why the node cannot run the other kinds, by name.
	Lacking() map[string]error
	AddPod(ctx context.Context, node datapath.Node, pod datapath.Pod) (datapath.Wiring, error)
	DelPod(ctx context.Context, pod datapath.Pod) error
	CheckPod(ctx context.Context, node datapath.Node, pod datapath.Pod) error
	Sync(ctx context.Context, node datapath.Node, pods []datapath.Pod) (repairs []datapath.Repair, err error)
	// Alive reports whether a wired pod still has its device. The device may exist while the path
	// of the pod's namespace is hidden from the agent.
	Alive(pod datapath.Pod) (bool, error)
	// Capacity says for people how many connections of pods of a kind the node can track; it is
	// empty if only the kernel does.
	Capacity(kind string) string
	// Counts returns what the queues of pods with a bandwidth limit have counted, by the pod's place
	// in the list, also after an error that concerns others.
	Counts(ctx context.Context, pods []datapath.Pod) ([][]object.Counts, error)
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
	waiting map[waiter]*demand // pods that wait for an address
	desired Desired            // desired state, from the controller
	// whyNoMore is why the controller assigns no more, as far as it is known; empty if it does.
	whyNoMore string
	node      datapath.Node // derived from desired and the devices
	kind      string        // of new pods with shared ENIs; empty until chosen
	// dpReason and dpWhy say why this kind was chosen (condition DatapathReady).
	dpReason, dpWhy string
	devices         devicesSeen
	// lost are the exclusive ENIs of pods, by MAC, whose device the last Sync did not find.
	lost map[string]bool
	// stranded are the attachments whose address is on no ENI, with the time at which that was
	// first seen.
	stranded map[journal.Key]time.Time
	contact  contact
	// problems are the attachments of pods with a problem, by event reason.
	problems  map[string]map[journal.Key]bool
	obstacles []string // what other programs of the node do that may break pods' traffic
	synced    bool     // one Sync has succeeded
	wasOK     bool     // ADD could be served at least once
	failed    int      // number of repairs in a row that failed
	failure   string   // error of the last failed repair
	// notOK is why ADD cannot be served, empty when it can; notOKReason is the condition reason.
	notOK, notOKReason string
	started            time.Time     // when the agent was made
	lastRound          time.Time     // when the repair loop last completed a round or began to wait
	closing            bool          // the agent is stopping: waiting calls fail at once
	closed             chan struct{} // closed then
	wake               chan struct{} // closed and replaced when an address may have become free
	dirty              chan struct{} // capacity 1: the status to report has changed
	repair             chan struct{} // capacity 1: look at the kernel now
}

// New restores an agent from its journal. It does not touch the kernel.
func New(o Options) (*Agent, error) {
	a := &Agent{
		Options: o,
		pool:    pool.New(),
		entries: map[journal.Key]*journal.Entry{},
		waiting: map[waiter]*demand{},
		notOK:   waitForController, notOKReason: "WaitingForController",
		wake:   make(chan struct{}),
		closed: make(chan struct{}),
		dirty:  make(chan struct{}, 1),
		repair: make(chan struct{}, 1),
	}
	a.monitor = a.newMonitor()
	entries, freed, err := o.Journal.Load()
	if err != nil {
		return nil, err
	}
	now := o.Now()
	a.started = now
	for addr, at := range freed {
		if at.After(now) {
			at = now // the clock was set back: limit the rest to the usual time
		}
		if err := a.pool.Restore(addr, "", nil, at); err != nil {
			return nil, err
		}
	}
	for i := range entries {
		e := &entries[i]
		if e.State == journal.Allocating {
			// The agent that worked on it is dead, so the runtime got no answer: the next repair
			// removes what was made.
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
	a.restorePolicies()
	return a, nil
}

// Dirty signals that the status has changed, Repairs that the kernel has to be compared now.
func (a *Agent) Dirty() <-chan struct{}   { return a.dirty }
func (a *Agent) Repairs() <-chan struct{} { return a.repair }

// RequestRepair requests a repair now.
func (a *Agent) RequestRepair() { signal(a.repair) }

// Ready reports whether ADD can be served, and if not, why.
func (a *Agent) Ready() (ok bool, why string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.notOK == "", a.notOK
}

// Close makes calls that wait for an address fail at once, so that the agent can stop.
func (a *Agent) Close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.closing {
		close(a.closed)
	}
	a.closing = true
	a.wakeLocked()
}

// Healthy reports whether the repair loop makes progress.
func (a *Agent) Healthy(within time.Duration) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.Now().Sub(a.lastRound) < within
}

// SetDesired stores and applies the desired state.
func (a *Agent) SetDesired(w Desired) error {
	devices, err := a.Devices()
	if err != nil {
		return fmt.Errorf("list the node's devices: %w", err)
	}
	a.mu.Lock()
	if w.Generation != a.desired.Generation || !a.desired.Known {
		a.contact.heard = a.Now()
	}
	w.Offered = w.Offered || a.desired.Offered || w.ExclusiveENIs > 0 || w.Offers > 0
	a.desired = w
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

// SetWhyNoMore stores the controller's reason for assigning no more to the node; empty if it does
// assign. Waiting pods see the reason. It needs no repair.
func (a *Agent) SetWhyNoMore(why string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.whyNoMore != why {
		a.whyNoMore, a.contact.heard = why, a.Now()
	}
}

// refreshDevices lists the node's devices again, and nothing else.
func (a *Agent) refreshDevices() {
	devices, err := a.Devices()
	if err != nil {
		a.RequestRepair() // the repair reports the error
		return
	}
	a.mu.Lock()
	if !a.desired.Known {
		a.mu.Unlock()
		return
	}
	left := a.applyLocked(devices)
	a.mu.Unlock()
	a.forget(left)
}

// forget removes addresses that left the node from the journal, which keeps the times until which
// they rest.
func (a *Agent) forget(left []netip.Addr) {
	if err := a.Journal.Forget(left); err != nil {
		a.Log.Warn("cannot remove addresses that left the node from the journal", "addresses", left, "error", err)
	}
}

// applyLocked derives the pool and the node from the desired state and the devices.
func (a *Agent) applyLocked(devices map[string]Device) (left []netip.Addr) {
	a.pool.SetCooling(a.desired.Cooling)
	a.node = a.desired.Node
	a.node.ENIs, a.node.Kind = nil, a.kind
	var offers []pool.Offer
	a.recordDevicesLocked(devices)
	for _, e := range a.desired.ENIs {
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
			offers = append(offers, pool.Offer{Address: addr.Address, ENI: e.MAC.String(), Usable: present && e.Ready, Releasing: addr.Releasing, Held: addr.Held, Exclusive: e.Exclusive})
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

// chooseLocked chooses the kind of new pods. A pod keeps the kind with which it was wired.
func (a *Agent) chooseLocked() error {
	choices, lacking := a.Datapath.Choices(), a.Datapath.Lacking()
	if len(choices) == 0 {
		return errors.New("this agent has no datapath")
	}
	// All kinds build on the last one.
	if base := choices[len(choices)-1]; lacking[base] != nil {
		err := fmt.Errorf("no datapath works on this node: all of them need %s: %w", base, lacking[base])
		a.dpReason, a.dpWhy = v1alpha1.ReasonDatapathRefused, err.Error()
		return err
	}
	defer func() { a.node.Kind = a.kind }()
	asked := a.desired.Datapath
	if asked == "" || asked == claims.Auto {
		a.kind, a.dpReason = choices[0], v1alpha1.ReasonDatapathAuto
		if len(lacking) > 0 {
			a.dpReason = v1alpha1.ReasonDatapathAutoLacking
		}
		a.dpWhy = "auto takes the fastest datapath that this agent and kernel support: " + a.kind
		for _, name := range slices.Sorted(maps.Keys(lacking)) {
			a.dpWhy += fmt.Sprintf("; not %s: %v", name, lacking[name])
		}
		return nil
	}
	if slices.Contains(choices, asked) {
		a.kind, a.dpReason, a.dpWhy = asked, "Configured", "chosen by spec.datapath"
		return nil
	}
	err := fmt.Errorf("datapath %q is not known to this agent: want auto or one of %v", asked, choices)
	if why := lacking[asked]; why != nil {
		err = fmt.Errorf("datapath %q does not work on this node: %w; want auto or one of %v", asked, why, choices)
	}
	if a.kind == "" {
		a.dpReason, a.dpWhy = v1alpha1.ReasonDatapathRefused, err.Error()
		return err
	}
	// A node that serves pods goes on serving.
	a.dpReason, a.dpWhy = v1alpha1.ReasonDatapathKept, fmt.Sprintf("%v; until the agent is restarted new pods get %s", err, a.kind)
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

// PodOf converts an entry for the datapath. Only a Ready entry counts as wired: Sync leaves the
// others to the call that works on them.
func PodOf(e *journal.Entry) datapath.Pod {
	p := datapath.Pod{
		Sandbox: e.Sandbox, IfName: e.IfName, NetNS: e.NetNS, Namespace: e.Namespace, Name: e.Name,
		Addresses: e.Addresses, ENI: e.ENI, Exclusive: e.Exclusive, Kind: e.Datapath, Limits: e.Limits, Priority: e.Priority,
	}
	switch {
	case e.Exclusive != nil:
		p.Kind = claims.Exclusive
	case p.Kind == "":
		p.Kind = claims.Route // written by a version that had no other kinds
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
