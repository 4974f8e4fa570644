package flowlog

import (
	"container/list"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"
	"k8s.io/utils/clock"

	"terway.dev/terway/internal/agent/policyapi"
	"terway.dev/terway/internal/datapath/bpfobj"
	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/compile"
)

const (
	// MostFlows is how many flows are kept; those that were not seen for the longest time go first.
	MostFlows = 16384
	// KeptFor is how long a flow is kept after its last connection.
	KeptFor = time.Hour

	// linesPerSecond and mostLines at once are written of denied and logged flows, of each one at most one in lineEvery.
	linesPerSecond, mostLines = 10, 100
	lineEvery                 = time.Minute

	// mostSaid is how many decisions are remembered, so that flows share them.
	mostSaid = 4096
	// backlog is how many flows may wait for one who follows.
	backlog = 1024
	// lookEvery is how often flows are looked for that are too old.
	lookEvery = time.Minute
)

// Options of New.
type Options struct {
	// Maps are those of bpf/flows.h, which stay the caller's and are not used after Run.
	Maps map[string]*ebpf.Map
	// Rule returns what rules' numbers stand for, false if nobody knows them any more.
	Rule func(compile.VerdictRow) (policy.Decision, bool)
	// Pod returns the pod of this node that has an address.
	Pod func(netip.Addr) (policy.NamespacedName, bool)
	// Lines gets a line of JSON for denied and logged flows.
	Lines io.Writer
	Log   *slog.Logger
	Clock clock.PassiveClock
}

// A Log has the flows of the last hour.
type Log struct {
	Options
	limit *rate.Limiter

	mu sync.Mutex
	// flows are by what makes them one, order has the same, the newest first.
	flows map[key]*list.Element
	order *list.List
	// said are decisions, which flows share. A rule's number is never another's.
	said map[compile.VerdictRow]*policyapi.Decision
	// followers get what happens. skipped is how many lines were not written since the last one.
	followers map[chan policyapi.Flow]*uint64
	skipped   uint64
	lost      Lost
}

// key is what makes connections one flow. Another pod with the address of one that has gone has flows of its own.
type key struct {
	src, dst, pod netip.Addr
	from, to      policy.NamespacedName // zero: no pod of this node
	rule, log     [2]uint32
	dport         uint16
	proto         uint8
	icmp          [2]uint8
	flags         uint8
}

type kept struct {
	key
	policyapi.Flow
	logged time.Time
}

// Lost are events and flows that are not in a Log, by why.
type Lost struct {
	// Full: the agent was too slow. Pace: the programs tell so many in a second. Rule: a rule's decisions were not counted.
	Full, Pace, Rule uint64
	// Unknown: events that make no sense, or of rules that nobody knows any more. Forgotten: flows of the last hour, when there were too many.
	// Lines: lines that were not written, when there were too many.
	Unknown, Forgotten, Lines uint64
}

// New returns a Log without flows.
func New(o Options) *Log {
	return &Log{Options: o, limit: rate.NewLimiter(linesPerSecond, mostLines), flows: map[key]*list.Element{}, order: list.New(), said: map[compile.VerdictRow]*policyapi.Decision{}, followers: map[chan policyapi.Flow]*uint64{}}
}

// Run reads events until the context is done. What was told before, when an earlier process ran, is skipped: nobody knows its rules.
func (l *Log) Run(ctx context.Context) error {
	events := l.Maps[mapEvents]
	if events == nil {
		return fmt.Errorf("map %s is not there", mapEvents)
	}
	r, err := ringbuf.NewReader(events)
	if err != nil {
		return fmt.Errorf("read map %s: %w", mapEvents, err)
	}
	defer r.Close()
	defer context.AfterFunc(ctx, func() { _ = r.Close() })() // it ends Read
	var record ringbuf.Record
	looked := l.Clock.Now()
	for {
		// The deadline is when flows are looked for that are too old, events or not.
		r.SetDeadline(time.Now().Add(lookEvery))
		err := r.ReadInto(&record)
		switch {
		case errors.Is(err, ringbuf.ErrClosed):
			return nil
		case err == nil:
			l.take(record.RawSample)
		case !isTimeout(err):
			return fmt.Errorf("read map %s: %w", mapEvents, err)
		}
		if now := l.Clock.Now(); now.Sub(looked) >= lookEvery {
			looked = now
			l.expire(now)
		}
	}
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// take takes an event as the kernel has it.
func (l *Log) take(b []byte) {
	e, err := read(b)
	if err != nil {
		l.Log.Debug("an event about a flow makes no sense", "why", err)
		l.unknown()
		return
	}
	now := l.Clock.Now()
	at := now
	var boot unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot); err == nil {
		if age := time.Duration(boot.Nano()) - e.at; age > 0 {
			at = now.Add(-age)
		}
	}
	if now.Sub(at) < KeptFor {
		l.add(e, at)
	}
}

func (l *Log) unknown() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lost.Unknown++
}

// add adds an event to its flow.
func (l *Log) add(e event, at time.Time) {
	k := key{src: e.src, dst: e.dst, pod: e.pod, rule: e.rule, log: e.log, dport: e.dport, proto: e.proto, icmp: e.icmp, flags: e.flags}
	if e.flags&byEgress == 0 {
		k.rule[policy.Egress] = 0
	}
	if e.flags&byIngress == 0 {
		k.rule[policy.Ingress] = 0
	}
	opener := e.src
	if e.pod.IsValid() {
		opener = e.pod
	}
	k.from, _ = l.Pod(opener)
	k.to, _ = l.Pod(e.dst)
	l.mu.Lock()
	defer l.mu.Unlock()
	at = at.UTC().Truncate(time.Millisecond)
	item := l.flows[k]
	if item == nil {
		f, ok := l.describe(e, k)
		if !ok {
			l.lost.Unknown++
			return
		}
		f.First = at
		item = l.order.PushFront(&kept{key: k, Flow: f})
		l.flows[k] = item
		if len(l.flows) > MostFlows {
			l.forget(l.order.Back())
			l.lost.Forgotten++
		}
	}
	f := item.Value.(*kept)
	f.Count++
	f.Last, f.From.Port = at, e.sport
	l.order.MoveToFront(item)
	one := f.Flow
	one.Count = 1
	for follower, missed := range l.followers {
		one.Missed = *missed
		select {
		case follower <- one:
			*missed = 0
		default:
			*missed++
		}
	}
	if e.flags&isDenied != 0 || e.log != [2]uint32{} {
		l.write(f, at)
	}
}

// describe returns the flow of an event; false: nobody knows its rules. The caller holds the lock.
func (l *Log) describe(e event, k key) (f policyapi.Flow, ok bool) {
	f = policyapi.Flow{
		Verdict: policyapi.Allowed, Protocol: e.proto, ICMPType: e.icmp[0], ICMPCode: e.icmp[1],
		Running: e.flags&isRunning != 0, OwnNode: e.flags&toNode != 0,
		From: policyapi.End{Address: e.src.String()}, To: policyapi.End{Address: e.dst.String(), Port: e.dport},
	}
	if e.pod.IsValid() {
		f.From.Address, f.From.SeenAs = e.pod.String(), e.src.String()
	}
	if k.from != (policy.NamespacedName{}) {
		f.From.Pod = k.from.String()
	}
	if k.to != (policy.NamespacedName{}) {
		f.To.Pod = k.to.String()
	}
	// If egress denies nobody asks ingress: so one that both were asked of was denied by ingress.
	for _, by := range []struct {
		bit  uint8
		d    policy.Direction
		into **policyapi.Decision
	}{{byIngress, policy.Ingress, &f.Ingress}, {byEgress, policy.Egress, &f.Egress}} {
		if e.flags&by.bit == 0 {
			continue
		}
		action := policy.Allow
		if e.flags&isDenied != 0 && f.Verdict == policyapi.Allowed {
			action, f.Verdict = policy.Deny, policyapi.Denied
		}
		if *by.into = l.decision(compile.VerdictRow{Action: uint8(action), Rule: e.rule[by.d], Log: e.log[by.d]}); *by.into == nil {
			return f, false
		}
	}
	return f, true
}

// decision returns what is said of a verdict; nil: nobody knows its rules. The caller holds the lock.
func (l *Log) decision(row compile.VerdictRow) *policyapi.Decision {
	if said := l.said[row]; said != nil {
		return said
	}
	d, known := l.Rule(row)
	if !known {
		return nil
	}
	if len(l.said) >= mostSaid {
		clear(l.said)
	}
	said := policyapi.DecisionOf(d)
	l.said[row] = &said
	return &said
}

// write writes a line about a flow, if not too many are written. The caller holds the lock.
func (l *Log) write(f *kept, at time.Time) {
	if at.Sub(f.logged) < lineEvery {
		return
	}
	if !l.limit.AllowN(l.Clock.Now(), 1) {
		l.skipped++
		l.lost.Lines++
		return
	}
	f.logged = at
	line, err := json.Marshal(struct {
		Kind string `json:"kind"`
		policyapi.Flow
		Skipped uint64 `json:"skipped,omitempty"`
	}{"flow", f.Flow, l.skipped})
	if err == nil {
		l.skipped = 0
		_, err = l.Lines.Write(append(line, '\n'))
	}
	if err != nil {
		l.Log.Debug("a line about a flow was not written", "why", err)
	}
}

// forget forgets a flow. The caller holds the lock.
func (l *Log) forget(item *list.Element) {
	delete(l.flows, l.order.Remove(item).(*kept).key)
}

// expire forgets flows that are too old.
func (l *Log) expire(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for item := l.order.Back(); item != nil && now.Sub(item.Value.(*kept).Last) > KeptFor; item = l.order.Back() {
		l.forget(item)
	}
}

// Flows returns the flows of the last hour, the oldest first.
func (l *Log) Flows() []policyapi.Flow {
	l.expire(l.Clock.Now())
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]policyapi.Flow, 0, len(l.flows))
	for item := l.order.Back(); item != nil; item = item.Prev() {
		out = append(out, item.Value.(*kept).Flow)
	}
	return out
}

// Follow returns a channel that gets a flow for each connection from now on, until stop is called. One who is too slow misses some, and the
// next one says how many.
func (l *Log) Follow() (flows <-chan policyapi.Flow, stop func()) {
	c := make(chan policyapi.Flow, backlog)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.followers[c] = new(uint64)
	return c, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.followers, c)
	}
}

// Size returns the number of flows.
func (l *Log) Size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.flows)
}

// Lost returns what is not in the Log. What programs count outlives the process.
func (l *Log) Lost() (Lost, error) {
	l.mu.Lock()
	lost := l.lost
	l.mu.Unlock()
	tallies, err := bpfobj.Tallies(l.Maps)
	for _, t := range tallies {
		lost.Full += t.Full
		lost.Pace += t.Pace
		lost.Rule += t.Rule
	}
	return lost, err
}
