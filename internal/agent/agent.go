// Package agent is terwayd: it answers the CNI plugin, keeps the journal, drives
// the datapath and reports to the controller.
//
// One rule holds everywhere: the journal is written before the kernel is touched
// and before anybody is answered. No lock is held while waiting, while the disk
// is written or while the kernel is programmed, except the one of the attachment
// at hand; so a slow pod never stops another.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"terway.dev/terway/internal/agent/journal"
	"terway.dev/terway/internal/agent/pool"
	"terway.dev/terway/internal/datapath"
)

// Options are what an Agent is made of.
type Options struct {
	Log     *slog.Logger
	Now     func() time.Time
	Journal *journal.Journal
	// Datapaths are the ones this agent can run, the preferred first.
	Datapaths []datapath.Datapath
	// WaitForAddress bounds how long an ADD waits for the controller.
	WaitForAddress time.Duration
	// Alive reports whether a sandbox's network namespace still exists.
	Alive func(netns string) bool
	// Devices finds the node's links by MAC.
	Devices func() (map[string]Device, error)
}

// Device is a link of the node that may be an ENI.
type Device struct {
	Name string
	MTU  int
}

// Agent is the node's agent.
type Agent struct {
	Options

	keys keyLocks

	mu      sync.Mutex
	pool    *pool.Pool
	entries map[journal.Key]*journal.Entry
	waiting map[journal.Key]struct{} // ADDs for which there is no address
	want    Want                     // the controller's last word
	node    datapath.Node            // derived from want and the devices
	dp      datapath.Datapath        // nil until chosen
	dpWhy   string
	notOK   string        // why ADD cannot be served; empty when it can
	wake    chan struct{} // closed and replaced when an address may have become free
	dirty   chan struct{} // capacity 1: the status to report has changed
	repair  chan struct{} // capacity 1: look at the kernel now
}

// New restores an agent from its journal. It touches no kernel object yet.
func New(o Options) (*Agent, error) {
	a := &Agent{
		Options: o,
		pool:    pool.New(),
		entries: map[journal.Key]*journal.Entry{},
		waiting: map[journal.Key]struct{}{},
		notOK:   "the controller has not said yet which ENIs and addresses this node may use (is terway-controller running?)",
		wake:    make(chan struct{}),
		dirty:   make(chan struct{}, 1),
		repair:  make(chan struct{}, 1),
	}
	entries, freed, err := o.Journal.Load()
	if err != nil {
		return nil, err
	}
	for addr, at := range freed {
		if err := a.pool.Restore(addr, "", nil, at); err != nil {
			return nil, err
		}
	}
	for i := range entries {
		e := &entries[i]
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

// SetWant takes the controller's word.
func (a *Agent) SetWant(w Want) error {
	devices, err := a.Devices()
	if err != nil {
		return fmt.Errorf("list the node's devices: %w", err)
	}
	a.mu.Lock()
	a.want = w
	left := a.applyLocked(devices)
	a.mu.Unlock()
	signal(a.dirty)
	signal(a.repair)
	return a.Journal.Forget(left)
}

// applyLocked derives the pool and the node from want and the devices.
func (a *Agent) applyLocked(devices map[string]Device) (left []netip.Addr) {
	a.pool.SetCooling(a.want.Cooling)
	a.node = a.want.Node
	a.node.ENIs = nil
	var offers []pool.Offer
	for _, e := range a.want.ENIs {
		d, present := devices[e.MAC.String()]
		if present {
			eni := e.ENI
			eni.Device = d.Name
			if eni.MTU == 0 {
				eni.MTU = d.MTU
			}
			a.node.ENIs = append(a.node.ENIs, eni)
		}
		for _, addr := range e.Addresses {
			offers = append(offers, pool.Offer{Address: addr.Address, ENI: e.MAC.String(), Usable: present && e.Ready, Releasing: addr.Releasing})
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

// chooseLocked settles on a datapath once; a node keeps it while the agent runs.
func (a *Agent) chooseLocked() error {
	if a.dp != nil || len(a.Datapaths) == 0 {
		return nil
	}
	switch a.want.Datapath {
	case "", "auto":
		a.dp = a.Datapaths[0]
		a.dpWhy = "auto takes the fastest datapath that this agent and kernel have"
		return nil
	}
	var names []string
	for _, d := range a.Datapaths {
		if d.Name() == a.want.Datapath {
			a.dp, a.dpWhy = d, "chosen by configuration"
			return nil
		}
		names = append(names, d.Name())
	}
	return fmt.Errorf("datapath %q is not one that this agent has: want auto or one of %v", a.want.Datapath, names)
}

// Repair makes pool, journal and kernel agree: attachments whose sandbox is gone
// are freed, the datapath is brought to the desired state, and readiness is
// decided. It is called at start, on change and every few seconds.
func (a *Agent) Repair(ctx context.Context) error {
	devices, err := a.Devices()
	if err != nil {
		return fmt.Errorf("list the node's devices: %w", err)
	}
	a.mu.Lock()
	known := a.want.Known
	var left []netip.Addr
	if known {
		left = a.applyLocked(devices)
	}
	chosen := a.chooseLocked()
	dp := a.dp
	a.mu.Unlock()

	errs := []error{a.Journal.Forget(left), chosen}
	if known && chosen == nil && dp != nil {
		errs = append(errs, a.reap(ctx), a.sync(ctx, dp))
	}
	err = errors.Join(errs...)
	a.mu.Lock()
	switch {
	case !known:
	case err != nil:
		a.notOK = err.Error()
	case len(a.node.ENIs) == 0:
		a.notOK = "no ENI for pods is attached yet"
		if a.want.Why != "" {
			a.notOK += ": " + a.want.Why
		}
	default:
		a.notOK = ""
	}
	a.mu.Unlock()
	signal(a.dirty)
	return err
}

// reap frees attachments whose sandbox's network namespace is gone: the runtime
// or the node died before DEL.
func (a *Agent) reap(ctx context.Context) error {
	a.mu.Lock()
	var dead []journal.Key
	for k, e := range a.entries {
		if e.State == journal.Releasing || !a.Alive(e.NetNS) {
			dead = append(dead, k)
		}
	}
	a.mu.Unlock()
	var errs []error
	for _, k := range dead {
		unlock, ok := a.keys.try(k)
		if !ok {
			continue // an ADD or DEL is at work on it
		}
		a.mu.Lock()
		e := a.entries[k]
		a.mu.Unlock()
		if e != nil && (e.State == journal.Releasing || !a.Alive(e.NetNS)) {
			a.Log.Info("freeing the address of a pod sandbox that is gone", "pod", e.Pod(), "sandbox", k.Sandbox, "addresses", e.Addresses)
			errs = append(errs, a.release(ctx, e))
		}
		unlock()
	}
	return errors.Join(errs...)
}

func (a *Agent) sync(ctx context.Context, dp datapath.Datapath) error {
	a.mu.Lock()
	node := a.node
	var pods []datapath.Pod
	for _, e := range a.entries {
		pods = append(pods, podOf(e))
	}
	a.mu.Unlock()
	slices.SortFunc(pods, func(x, y datapath.Pod) int {
		if x.Sandbox < y.Sandbox {
			return -1
		}
		return 1
	})
	repairs, err := dp.Sync(ctx, node, pods)
	for _, r := range repairs {
		a.Log.Info("repaired", "what", r)
	}
	if err != nil {
		return fmt.Errorf("datapath %s: %w", dp.Name(), err)
	}
	return nil
}

// release undoes an attachment; the caller holds its key. The address rests from
// the moment at which no packet can reach the pod any more.
func (a *Agent) release(ctx context.Context, e *journal.Entry) error {
	a.mu.Lock()
	dp := a.dp
	a.mu.Unlock()
	if dp == nil {
		return errors.New("no datapath is chosen yet")
	}
	if e.State != journal.Releasing {
		gone := *e
		gone.State = journal.Releasing
		if err := a.Journal.Put(gone); err != nil {
			return err
		}
		a.remember(&gone)
		e = &gone
	}
	if err := dp.DelPod(ctx, podOf(e)); err != nil {
		return fmt.Errorf("unwire pod %s: %w", e.Pod(), err)
	}
	now := a.Now()
	if err := a.Journal.Free(e.Key, e.Addresses, now); err != nil {
		return err
	}
	a.mu.Lock()
	delete(a.entries, e.Key)
	for _, addr := range e.Addresses {
		a.pool.Free(addr, e.Key.String(), now)
	}
	a.wakeLocked()
	a.mu.Unlock()
	signal(a.dirty)
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

// podOf is an entry as a datapath sees it. Only a Ready one has a HostIfName: by
// that Sync knows which pods to leave to the call that is at work on them.
func podOf(e *journal.Entry) datapath.Pod {
	p := datapath.Pod{
		Sandbox: e.Sandbox, IfName: e.IfName, NetNS: e.NetNS, Namespace: e.Namespace, Name: e.Name,
		Addresses: e.Addresses, ENI: e.ENI,
	}
	if e.State == journal.Ready {
		p.HostIfName = e.HostIfName
	}
	return p
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
