//go:build bench

package scale

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"terway.dev/terway/test/bench/fleet"
	"terway.dev/terway/test/bench/report"
)

// waits records how long pods waited for an address.
type waits struct {
	mu     sync.Mutex
	at     []time.Time // when each got it
	of     []time.Duration
	atOnce int
	groups []group
	used   []sample
}

// sample is the processor time by program until a moment.
type sample struct {
	at  time.Time
	cpu map[string]time.Duration
}

// group is a set of pods that start on one node at once.
type group struct {
	node string
	// enis is the number of the node's ENIs before and after.
	enis [2]int
	came time.Time
	wait time.Duration // of the last pod
}

// slowest formats the groups that waited longest.
func (w *waits) slowest(n int) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	sorted := slices.Clone(w.groups)
	slices.SortFunc(sorted, func(a, b group) int { return cmp.Compare(b.wait, a.wait) })
	var parts []string
	for _, g := range sorted[:min(n, len(sorted))] {
		parts = append(parts, fmt.Sprintf("%s %.2f s (ENIs %d, then %d)", g.node, g.wait.Seconds(), g.enis[0], g.enis[1]))
	}
	if len(sorted) > 0 {
		parts = append(parts, "meanwhile "+w.usedWhile(sorted[0].came, sorted[0].came.Add(sorted[0].wait)))
	}
	return strings.Join(parts, ", ")
}

// usedWhile is what the programs took of one CPU at a time: it tells a controller that does nothing
// from a machine that has nothing left for it.
func (w *waits) usedWhile(from, to time.Time) string {
	first := sort.Search(len(w.used), func(i int) bool { return w.used[i].at.After(from) }) - 1
	last := sort.Search(len(w.used), func(i int) bool { return !w.used[i].at.Before(to) })
	if first < 0 || last >= len(w.used) {
		return "no CPU times"
	}
	a, b := w.used[first], w.used[last]
	return shares(a.cpu, b.cpu, b.at.Sub(a.at))
}

// sample adds the processor times until ctx ends.
func (w *waits) sample(ctx context.Context, cpu func() map[string]time.Duration) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		now := sample{time.Now(), cpu()}
		w.mu.Lock()
		w.used = append(w.used, now)
		w.mu.Unlock()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (w *waits) got(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if d == 0 {
		w.atOnce++
		return
	}
	w.of, w.at = append(w.of, d), append(w.at, time.Now())
}

// count returns the number of pods with an address.
func (w *waits) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.of) + w.atOnce
}

// quantile returns a quantile of the waiting times, in seconds; 0 if no pod waited.
func (w *waits) quantile(q float64) float64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.of) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(w.of))
	return sorted[min(len(sorted)-1, int(math.Ceil(q*float64(len(sorted))))-1)].Seconds()
}

// ends returns when the first and the last of the waiting pods got an address.
func (w *waits) ends() (first, last time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.at) == 0 {
		return first, last
	}
	return w.at[0], w.at[len(w.at)-1]
}

// load is a steady churn: groups of pods that start on a node at once, as with a Job or a
// scaled Deployment.
type load struct {
	nodes []*fleet.Node
	// next is the node for the next group. Nodes take turns, so that a node's addresses have
	// cooled before its next turn.
	next, serial int
	perSecond    float64 // pods
	group        int
	life         time.Duration
	// cpu is the processor time by program so far; nil if nobody asks.
	cpu func() map[string]time.Duration
}

// every returns the interval between groups.
func (l *load) every() time.Duration {
	return time.Duration(float64(l.group) / l.perSecond * float64(time.Second))
}

// named returns the names of n pods.
func named(prefix string, n int) (names []string) {
	for i := range n {
		names = append(names, fmt.Sprintf("%s-%d", prefix, i))
	}
	return names
}

// run runs the load for a time, without the nodes for which skip returns true, and waits until
// every pod has got its address. It returns the number of pods.
func (l *load) run(ctx context.Context, d time.Duration, skip func(*fleet.Node) bool) (w *waits, pods int, err error) {
	w = &waits{}
	var ends, samples sync.WaitGroup
	if l.cpu != nil {
		sampled, enough := context.WithCancel(ctx)
		samples.Go(func() { w.sample(sampled, l.cpu) })
		defer samples.Wait()
		defer enough()
	}
	tick := time.NewTicker(l.every())
	defer tick.Stop()
	for end := time.Now().Add(d); time.Now().Before(end); {
		n := l.nodes[l.next%len(l.nodes)]
		l.next++
		if skip != nil && skip(n) {
			continue
		}
		l.serial++
		names := named(fmt.Sprintf("churn/group-%d", l.serial), l.group)
		var longest atomic.Int64
		g := group{node: n.Name, enis: [2]int{n.ENIs()}, came: time.Now()}
		n.Add(func(d time.Duration) {
			longest.Store(max(longest.Load(), int64(d)))
			w.got(d)
		}, names...)
		pods += l.group
		ends.Go(func() {
			defer func() {
				g.wait, g.enis[1] = time.Duration(longest.Load()), n.ENIs()
				w.mu.Lock()
				defer w.mu.Unlock()
				w.groups = append(w.groups, g)
			}()
			// A waiting pod lives until it has got its address.
			for began := time.Now(); time.Since(began) < l.life || n.Waiting() > 0; {
				select {
				case <-time.After(l.life / 4):
				case <-ctx.Done():
					return
				}
			}
			n.Delete(names...)
		})
		select {
		case <-tick.C:
		case <-ctx.Done():
			return w, pods, context.Cause(ctx)
		}
	}
	err = until(ctx, func() string {
		if n := w.count(); n < pods {
			return fmt.Sprintf("%d of %d pods wait for an address", pods-n, pods)
		}
		return ""
	})
	ends.Wait()
	return w, pods, err
}

// until polls until missing returns nothing; if ctx ends, its last result is in the error.
func until(ctx context.Context, missing func() string) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		what := missing()
		if what == "" {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, context.Cause(ctx))
		}
	}
}

// churn measures a steady churn.
func (m *measured) churn(ctx context.Context, p *controller, l *load, d time.Duration) error {
	calls, writes, err := m.counters(ctx)
	if err != nil {
		return err
	}
	usedBefore := m.cpu(p)
	began := time.Now()
	m.progress("churn of %.0f pods/s for %s", l.perSecond, d)
	w, pods, err := l.run(ctx, d, nil)
	if err != nil {
		return fmt.Errorf("churn: %w", err)
	}
	took := time.Since(began)
	m.used("churn", usedBefore, p, took)
	now := m.cpu(p)
	after, written, err := m.counters(ctx)
	if err != nil {
		return err
	}
	did, wrote := after.since(calls), written.since(writes)
	call := did.latencyOf("AssignPrivateIpAddresses")
	m.against("churn_p50", "s", w.quantile(0.5), call, "one call of the cloud", report.Goal{})
	m.against("churn_p99", "s", w.quantile(0.99), call, "one call of the cloud", report.Goal{AtMost: 2})
	m.against("churn_waited", "% of pods", 100*float64(pods-w.atOnce)/float64(pods), 0, "", report.Goal{})
	m.against("churn_cpu", "% of a CPU", 100*(now["controller"]-usedBefore["controller"]).Seconds()/took.Seconds(), 0, "", report.Goal{})
	m.against("churn_writes_per_pod", "writes", (wrote.of("nodenetworks")+wrote.of("nodes"))/float64(pods), 0, "", report.Goal{})
	m.against("churn_kib_per_pod", "KiB", wrote.bytes/1024/float64(pods), 0, "", report.Goal{})
	for _, action := range did.actions() {
		m.against("churn_calls_"+action, "for 1,000 pods", float64(did[action].Calls)*1000/float64(pods), 0, "", report.Goal{})
	}
	m.wrote("churn", wrote, pods)
	m.progress("churn: %d of %d pods waited, p50 %.2f s, p99 %.2f s; a call takes %.2f s", pods-w.atOnce, pods, w.quantile(0.5), w.quantile(0.99), call)
	m.progress("churn: slowest: %s", w.slowest(8))
	return m.check(ctx)
}
