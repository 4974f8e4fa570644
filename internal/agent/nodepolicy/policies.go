package nodepolicy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"k8s.io/utils/clock"

	"terway.dev/terway/internal/agent/flowlog"
	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/policymap"
	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/node"
	"terway.dev/terway/internal/policy/wire"
)

// Options of New.
type Options struct {
	// Hub is how the hub is followed; its Consumer is not used.
	Hub node.Config
	// Maps returns the maps of bpf/policy.h, which stay the caller's. A datapath.UnsupportedError says that the kernel
	// cannot have them.
	Maps func() (map[string]*ebpf.Map, error)
	// Written makes programs look into the maps. It is called when the first part is in them, and again after an error.
	Written func() error
	// Denied returns how many packets programs have dropped, by direction.
	Denied func() (ingress, egress uint64, err error)
	// Lines gets a line of JSON for denied and logged flows.
	Lines io.Writer
	// Wait is how long a pod's start waits for a hub.
	Wait time.Duration
	// Alarm records a warning event on the node.
	Alarm func(reason, note string)
	Log   *slog.Logger
	Clock clock.Clock
}

const (
	// comparePeriod is how often the kernel's maps are compared with what was written.
	comparePeriod = 30 * time.Second
	// retryMaps is the pause after maps could not be made.
	retryMaps = 5 * time.Second
)

// Reasons of events on the node.
const (
	// reasonNotWritten: the maps cannot have what the policies say.
	reasonNotWritten = "PoliciesNotWritten"
	// reasonRepaired: somebody else changed the maps.
	reasonRepaired = "PolicyMapsRepaired"
	// reasonNotCompared: it is not known whether the maps are right.
	reasonNotCompared = "PolicyMapsNotCompared"
)

// Policies are those of the node.
type Policies struct {
	Options
	pods  pods
	turns turns
	since time.Time
	// again has capacity 1: the part has to be written again, because pods came or went.
	again chan struct{}
	// kernel is nil without maps. Only Start and Run use it.
	kernel *policymap.Writer
	// judging is the same with its maps, for all others.
	judging atomic.Pointer[judging]
	client  atomic.Pointer[node.Client]
	written atomic.Bool
	// told are the pods that started and whose addresses were told, late those that not all nodes had in time.
	told, late atomic.Uint64

	mu sync.Mutex
	// failure is why there are no maps; nil: there are, or are about to be. A datapath.UnsupportedError is for ever.
	failure error
	// claims are the addresses that the hub was told last, by pod.
	claims map[policy.NamespacedName][]netip.Addr
	// leaving are pods of which the hub is to be told that they have no addresses any more, and has not been; leavers
	// is how many goroutines tell it.
	leaving leaving
	leavers int
	// alarms are the last note and the number of alarms, by reason.
	alarms map[string]alarm
	// size is that of the part that was given last.
	size struct{ endpoints, ruleSets, addresses int }
}

// judging is what the programs judge by.
type judging struct {
	writer *policymap.Writer
	maps   map[string]*ebpf.Map
	flows  *flowlog.Log
}

type alarm struct {
	note  string
	count int
}

// New does nothing yet: Restore comes next, then Start, and then Run.
func New(o Options) *Policies {
	return &Policies{
		Options: o, again: make(chan struct{}, 1), since: o.Clock.Now(),
		claims: map[policy.NamespacedName][]netip.Addr{}, alarms: map[string]alarm{},
	}
}

// Restore is called for each attachment that there is already; the newest of a pod comes last.
func (p *Policies) Restore(pod policy.NamespacedName, addresses []netip.Addr) {
	p.pods.enter(pod, addresses)
	p.pods.start(pod, addresses)
	p.claims[pod] = addresses
}

// Start writes what is on disk into the maps, if there are maps. It comes before anything is done to pods.
func (p *Policies) Start() { p.fail(p.open()) }

// open opens the maps, and follows the hub with them. It does so too where the kernel cannot have maps: pods start there in namespaces in
// which no policy can deny them anything.
func (p *Policies) open() error {
	maps, err := p.Maps()
	if err != nil && !unsupported(err) {
		return err
	}
	if err == nil {
		w, failed := policymap.New(maps, policymap.DefaultLimits)
		if failed != nil {
			return failed
		}
		p.kernel = w
		p.judging.Store(&judging{w, maps, flowlog.New(flowlog.Options{
			Maps: maps, Rule: w.Decision, Pod: p.pods.at, Lines: p.Lines, Log: p.Log, Clock: p.Clock,
		})})
	}
	config := p.Hub
	config.Consumer = consumer{p, p.kernel}
	p.client.Store(node.New(config))
	return err
}

// Run follows the hub until the context is done. What it made in the kernel goes then, unless programs have it.
func (p *Policies) Run(ctx context.Context) {
	if !p.retry(ctx) {
		return
	}
	client := p.client.Load()
	var all sync.WaitGroup
	all.Go(func() { client.Run(ctx) })
	all.Go(func() { p.follow(ctx) })
	if p.kernel != nil {
		all.Go(func() { p.compare(ctx) })
		all.Go(func() {
			if err := p.judging.Load().flows.Run(ctx); err != nil {
				p.Log.Error("flows are not recorded until the agent is restarted", "error", err)
			}
		})
	}
	all.Wait()
	if p.kernel == nil {
		return
	}
	if err := p.kernel.Close(); err != nil {
		p.Log.Error("give up the policies' maps", "error", err)
	}
}

// retry opens the maps if Start could not; false: the context is done.
func (p *Policies) retry(ctx context.Context) bool {
	for p.client.Load() == nil {
		select {
		case <-p.Clock.After(retryMaps):
			p.fail(p.open())
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// unsupported says whether maps failed because the kernel lacks what they need.
func unsupported(failure error) bool {
	var lacks *datapath.UnsupportedError
	return errors.As(failure, &lacks)
}

func (p *Policies) failed() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failure
}

func (p *Policies) fail(err error) {
	p.mu.Lock()
	p.failure = err
	p.mu.Unlock()
	switch {
	case unsupported(err):
		p.alarm(reasonNotWritten, fmt.Sprintf("network policies are not enforced on this node, and pods start only where none can deny them anything: %v", err))
	case err != nil:
		p.alarm(reasonNotWritten, fmt.Sprintf("the kernel does not take policies, so no pod starts on this node: %v", err))
	}
}

// A consumer writes parts.
type consumer struct {
	*Policies
	w *policymap.Writer // nil: the kernel cannot have them
}

// Apply implements node.Consumer.
func (c consumer) Apply(part *wire.Part, keys *wire.Keys) error {
	if c.w == nil {
		return nil
	}
	here := c.pods.keep(part.Node(), part.Open)
	c.mu.Lock()
	c.size.endpoints, c.size.ruleSets, c.size.addresses = len(here.Endpoints), len(here.RuleSets), len(here.Addresses)
	c.mu.Unlock()
	write := c.w.Write
	if keys != nil && !keys.Rules() {
		write = c.w.WriteEndpoints
	}
	err := write(here)
	if c.pods.wrote(err == nil) {
		signal(c.again)
	}
	if err == nil && !c.written.Load() {
		if err = c.Written(); err == nil {
			c.written.Store(true)
		}
	}
	if err != nil {
		c.alarm(reasonNotWritten, fmt.Sprintf("what policies say cannot be written: pods keep the rules that they have, and new pods are closed: %v", err))
		return err
	}
	c.over(reasonNotWritten)
	return nil
}

// follow writes the part again when pods came or went.
func (p *Policies) follow(ctx context.Context) {
	for {
		select {
		case <-p.again:
			_ = p.client.Load().Again() // Apply reports what is wrong, and is tried again
		case <-ctx.Done():
			return
		}
	}
}

// compare compares the kernel's maps with what was written.
func (p *Policies) compare(ctx context.Context) {
	for {
		select {
		case <-p.Clock.After(comparePeriod):
		case <-ctx.Done():
			return
		}
		differ, err := p.kernel.Repair()
		if len(differ) > 0 {
			p.alarm(reasonRepaired, fmt.Sprintf("somebody changed the policies' maps; %d differences were repaired: %s", len(differ), strings.Join(differ[:min(3, len(differ))], "; ")))
		}
		if err != nil {
			p.alarm(reasonNotCompared, err.Error())
		} else {
			p.over(reasonNotCompared)
		}
	}
}

// alarm logs and counts what is wrong, and records an event if it is something else than before.
func (p *Policies) alarm(reason, note string) {
	p.mu.Lock()
	was := p.alarms[reason]
	p.alarms[reason] = alarm{note, was.count + 1}
	p.mu.Unlock()
	p.Log.Error("policies", "reason", reason, "note", note)
	if was.note != note {
		p.Alarm(reason, note)
	}
}

// over says that something is wrong no more.
func (p *Policies) over(reason string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.alarms[reason] = alarm{count: p.alarms[reason].count}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
