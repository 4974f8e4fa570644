//go:build bench

// Package scale runs the real terway-controller against the simulated cloud, a real API
// server and the agents of thousands of nodes, and measures what limits it. "make
// bench-controller" runs it; docs/benchmarks.md says how to read it.
package scale

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-logr/logr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/config"
	"terway.dev/terway/internal/kernel"
	"terway.dev/terway/internal/vpcsim/faults"
	"terway.dev/terway/test/bench/fleet"
	"terway.dev/terway/test/bench/report"
	"terway.dev/terway/test/bench/traffic"
)

// How a run is: the settings of the command.
type settings struct {
	nodes        int
	pods         int // of each node
	instanceType string
	cooling      int // seconds
	// factor is by what the cold start's cloud is faster than the real one.
	factor  float64
	latency time.Duration // of a call
	// spare nodes get no pods at the cold start.
	spare int
	// leases: the agents renew their Leases.
	leases bool
}

// measured is a run that goes on.
type measured struct {
	*cluster
	settings
	began time.Time
	name  string // of the report's table
	run   *report.Run
	list  []report.Comparison
	notes []string
	peak  float64 // MiB, of any controller
}

func (m *measured) progress(format string, args ...any) {
	fmt.Printf("%5.0f s  %s: %s\n", time.Since(m.began).Seconds(), m.name, fmt.Sprintf(format, args...))
}

// figure adds a measured value.
func (m *measured) figure(round int, metric string, v float64) {
	m.run.Add(round, report.Key{Datapath: m.name, Metric: metric}, v)
}

// line adds a line of the report.
func (m *measured) line(metric, unit, to, baseline string, g report.Goal) {
	c := report.Comparison{Name: metric, Unit: unit, Of: report.Key{Datapath: m.name, Metric: metric}, Baseline: baseline, Goal: g}
	if to != "" {
		c.To = report.Key{Datapath: m.name, Metric: to}
	}
	m.list = append(m.list, c)
}

// against is figure and line of a value and what it is compared with.
func (m *measured) against(metric, unit string, v, to float64, baseline string, g report.Goal) {
	m.figure(0, metric, v)
	if to == 0 {
		m.line(metric, unit, "", "", report.Goal{})
		return
	}
	m.figure(0, metric+" (to)", to)
	m.line(metric, unit, metric+" (to)", baseline, g)
}

func newMeasured(t testing.TB, s settings, run *report.Run) *measured {
	ctrl.SetLogger(logr.Discard()) // what the agents' watch would say
	m := &measured{settings: s, began: time.Now(), name: fmt.Sprintf("%d nodes", s.nodes), run: run}
	m.progress("making the cloud, the API server and %d Nodes", s.nodes)
	m.cluster = newCluster(t, s)
	return m
}

// coldStart starts the first controller in a cluster whose nodes have nothing, sends each its
// pods when the scheduler would, and waits until all have addresses.
func (m *measured) coldStart(ctx context.Context) (*controller, error) {
	if err := m.cloud.pace(ctx, m.factor, m.latency); err != nil {
		return nil, err
	}
	calls, writes, err := m.counters(ctx)
	if err != nil {
		return nil, err
	}
	w := &waits{}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Spare nodes get what fits on their first ENI: what they want later is a new one.
	const minimum = config.DefaultMinPool
	full := perENI(m.t, m.instanceType) - minimum
	pods := 0
	for i, name := range m.names {
		n, size := m.agents.Node(name), m.pods
		if i < m.spare {
			size = full
		}
		pods += size
		go func() {
			select {
			case <-n.Open():
			case <-ctx.Done():
				return
			}
			for i := range size {
				n.Add(fmt.Sprintf("default/%s-%d", name, i), w.got)
			}
		}()
	}
	need := least(m.nodes-m.spare, m.pods, perENI(m.t, m.instanceType))
	for action, n := range least(m.spare, full, perENI(m.t, m.instanceType)) {
		if m.spare > 0 && need[action] != 1 {
			need[action] += n
		}
	}
	longest, by := bound(need, m.factor)
	m.progress("cold start; %s alone takes %.0f s", by, longest.Seconds())
	usedBefore := m.cpu(nil)
	began := time.Now()
	p := m.start(m.factor)
	told := time.Now()
	err = until(ctx, func() string {
		if err := p.alive(); err != nil {
			cancel()
			return err.Error()
		}
		if time.Since(told) > 20*time.Second {
			told = time.Now()
			m.progress("%d of %d pods have an address", w.count(), pods)
		}
		if n := w.count(); n < pods {
			return fmt.Sprintf("%d of %d pods wait for an address", pods-n, pods)
		}
		return ""
	})
	if err != nil {
		return p, fmt.Errorf("cold start: %w; the controller's log ends:\n%s", err, p.tail())
	}
	took := time.Since(began)
	u, err := useOf(p.cmd.Process.Pid)
	if err != nil {
		return p, err
	}
	m.used("cold start", usedBefore, p, took)
	m.peak = max(m.peak, u.peak)
	// What the last pods made necessary is still under way: pools, reports.
	if err := m.settle(ctx); err != nil {
		return p, err
	}
	after, written, err := m.counters(ctx)
	if err != nil {
		return p, err
	}
	did, wrote := after.since(calls), written.since(writes)
	m.against("cold_start", "s", took.Seconds(), longest.Seconds(), "the bound of "+by, report.Goal{AtMost: 1.15})
	m.perPod(did, need, pods)
	m.against("cold_start_cpu_per_1000_pods", "CPU-s", u.cpu.Seconds()*1000/float64(pods), 0, "", report.Goal{})
	m.against("cold_start_writes_per_pod", "writes", (wrote.of("nodenetworks")+wrote.of("nodes"))/float64(pods), 0, "", report.Goal{})
	m.against("cold_start_kib_per_pod", "KiB", wrote.bytes/1024/float64(pods), 0, "", report.Goal{})
	m.wrote("cold start", wrote, pods)
	m.progress("cold start took %.0f s, %.2f of the bound; %.0f MiB", took.Seconds(), took.Seconds()/longest.Seconds(), u.peak)
	return p, m.check(ctx)
}

// perPod reports the cloud's calls for each 1,000 pods.
func (m *measured) perPod(did calls, need map[string]int, pods int) {
	throttled := 0
	for _, action := range did.actions() {
		throttled += did[action].Throttled
		of := 1000 / float64(pods)
		m.against("calls_"+action, "for 1,000 pods", float64(did[action].Calls)*of, float64(need[action])*of, "the fewest possible", report.Goal{})
	}
	m.notes = append(m.notes, fmt.Sprintf("%s: %d calls of the cold start were throttled by the cloud; an AttachNetworkInterface took %.0f ms in the mean.",
		m.name, throttled, 1000*did.latencyOf("AttachNetworkInterface")))
}

// cpu is the processor time by program so far.
func (m *measured) cpu(p *controller) map[string]time.Duration {
	out := map[string]time.Duration{}
	pids := map[string]int{"kube-apiserver": m.api.PID, "etcd": m.api.EtcdPID, "cloud and agents": os.Getpid()}
	if p != nil {
		pids["controller"] = p.cmd.Process.Pid
	}
	for name, pid := range pids {
		if u, err := useOf(pid); err == nil { // one that has ended fails the test elsewhere
			out[name] = u.cpu
		}
	}
	return out
}

// used notes what the programs took of the machine: where it is nearly all, the machine is
// what was measured.
func (m *measured) used(when string, before map[string]time.Duration, p *controller, took time.Duration) {
	now := m.cpu(p)
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(now)) {
		parts = append(parts, fmt.Sprintf("%s %.0f %%", name, 100*(now[name]-before[name]).Seconds()/took.Seconds()))
	}
	m.notes = append(m.notes, fmt.Sprintf("%s, %s: of one of %d CPUs: %s.", m.name, when, runtime.NumCPU(), strings.Join(parts, ", ")))
}

// wrote notes who wrote what to the API server.
func (m *measured) wrote(when string, w writes, pods int) {
	var parts []string
	for _, key := range slices.Sorted(maps.Keys(w.requests)) {
		if n := w.requests[key] / float64(pods); n >= 0.005 {
			parts = append(parts, fmt.Sprintf("%s %.2f", key, n))
		}
	}
	m.notes = append(m.notes, fmt.Sprintf("%s, %s: writes for each pod: %s.", m.name, when, strings.Join(parts, ", ")))
}

func (m *measured) counters(ctx context.Context) (calls, writes, error) {
	w, err := m.writes(ctx)
	return m.cloud.calls(), w, err
}

// settle waits until nobody reports or calls any more for a while.
func (m *measured) settle(ctx context.Context) error {
	const quiet = 3 * time.Second
	ctx, cancel := context.WithTimeoutCause(ctx, 3*time.Minute, errors.New("it does not come to rest"))
	defer cancel()
	changes := func() int64 {
		n := m.agents.Reports.Load()
		for action, a := range m.cloud.calls() {
			if !strings.HasPrefix(action, "Describe") {
				n += int64(a.Calls)
			}
		}
		return n
	}
	last, at := changes(), time.Now()
	return until(ctx, func() string {
		if n := changes(); n != last {
			// Addresses that have rested are told in the course of a minute.
			if n-last > int64(1+m.nodes/1000) {
				at = time.Now()
			}
			last = n
		}
		if time.Since(at) < quiet {
			return "reports and calls go on"
		}
		return ""
	})
}

// check compares all that was given out with the cloud.
func (m *measured) check(ctx context.Context) error {
	there, err := m.cloud.addresses(ctx)
	if err != nil {
		return err
	}
	var errs []error
	holders := map[netip.Addr]string{}
	for i, name := range m.names {
		instance := m.cloud.machines[i].id
		m.agents.Node(name).Addresses(func(pod string, a netip.Addr) {
			if other, taken := holders[a]; taken {
				errs = append(errs, fmt.Errorf("%s is of pod %s and of pod %s", a, other, pod))
			}
			holders[a] = pod
			if there[a] != instance {
				errs = append(errs, fmt.Errorf("pod %s of node %s (%s) has %s, which the cloud has on an ENI of %q", pod, name, instance, a, there[a]))
			}
		})
	}
	return errors.Join(errs[:min(len(errs), 10)]...)
}

// failover kills the leader, has pods wait on so many nodes, and waits until a second
// controller, which was there already, has given all of them addresses.
func (m *measured) failover(ctx context.Context, leader *controller, waiting int) (*controller, error) {
	if err := m.cloud.pace(ctx, 1, m.latency); err != nil {
		return nil, err
	}
	next := m.start(1)
	was, err := m.leader(ctx)
	if err != nil {
		return next, err
	}
	time.Sleep(3 * time.Second) // until it stands by
	calls := m.cloud.calls()
	killed := time.Now()
	leader.end(syscall.SIGKILL)
	const each = 10
	w := &waits{}
	// The last ones: they have rested when the churn comes to them.
	busy := m.names[max(m.spare, len(m.names)-waiting):]
	for _, name := range busy {
		for i := range each {
			m.agents.Node(name).Add(fmt.Sprintf("failover/%s-%d", name, i), w.got)
		}
	}
	limited, stop := context.WithCancel(ctx)
	defer stop()
	if err := until(limited, func() string {
		if now, err := m.leader(ctx); err != nil || now == was || now == "" {
			return "nobody leads"
		}
		return ""
	}); err != nil {
		return next, err
	}
	leads := time.Now()
	m.progress("failover: %d pods wait on %d nodes; another leads after %.1f s", len(busy)*each-w.count(), len(busy), leads.Sub(killed).Seconds())
	if err := until(limited, func() string {
		if err := next.alive(); err != nil {
			stop()
			return err.Error()
		}
		if n := w.count(); n < len(busy)*each {
			return fmt.Sprintf("failover: %d pods wait for an address", len(busy)*each-n)
		}
		return ""
	}); err != nil {
		return next, fmt.Errorf("%w; the controller's log ends:\n%s", err, next.tail())
	}
	first, last := w.ends()
	need, _ := bound(map[string]int{"AssignPrivateIpAddresses": len(busy)}, 1)
	m.against("failover_first", "s", first.Sub(leads).Seconds(), 0, "", report.Goal{})
	m.against("failover_last", "s", last.Sub(leads).Seconds(), need.Seconds(), fmt.Sprintf("%d assigns at the limit", len(busy)), report.Goal{})
	m.against("failover_takeover", "s", leads.Sub(killed).Seconds(), 0, "", report.Goal{})
	did := m.cloud.calls().since(calls)
	var parts []string
	for _, action := range did.actions() {
		parts = append(parts, fmt.Sprintf("%s %d", action, did[action].Calls))
	}
	m.notes = append(m.notes, fmt.Sprintf("%s, failover: calls until the last pod had its address: %s.", m.name, strings.Join(parts, ", ")))
	m.progress("failover: the first address %.1f s, the last %.1f s after that", first.Sub(leads).Seconds(), last.Sub(leads).Seconds())
	for _, name := range busy {
		for i := range each {
			m.agents.Node(name).Delete(fmt.Sprintf("failover/%s-%d", name, i))
		}
	}
	return next, m.check(ctx)
}

// latencyOf is how long a call of an action took in the mean, in seconds.
func (c calls) latencyOf(action string) float64 {
	if c[action].Calls == 0 {
		return 0
	}
	return c[action].Seconds / float64(c[action].Calls)
}

// churn measures a steady coming and going.
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
	return m.check(ctx)
}

// trouble is something that fails, and whom it may touch.
type trouble struct {
	name string
	// begin makes it; concerned says whom it may touch.
	begin func(ctx context.Context, round int) (concerned func(*fleet.Node) bool, end func(), err error)
}

// hang is a call that does not come back for long and then fails.
func hang(name, action string, match map[string]string) faults.Rule {
	return faults.Rule{Name: name, Action: action, Match: match, Latency: &faults.Latency{Fixed: faults.Duration(10 * time.Second)},
		Error: &faults.Error{Code: "ServiceUnavailable", Status: 503}}
}

// want has a node's pods wait for more addresses; it returns what ends their wait.
func want(n *fleet.Node, prefix string, pods int) func() {
	for i := range pods {
		n.Add(fmt.Sprintf("%s/%s-%d", prefix, n.Name, i), func(time.Duration) {})
	}
	return func() {
		for i := range pods {
			n.Delete(fmt.Sprintf("%s/%s-%d", prefix, n.Name, i))
		}
	}
}

// troubled is how many nodes want what fails: more than the controller has workers.
const troubled = 20

func (m *measured) troubles(l *load) []trouble {
	on := func(nodes ...*fleet.Node) func(*fleet.Node) bool {
		return func(n *fleet.Node) bool { return slices.Contains(nodes, n) }
	}
	all := func(list []func()) func() {
		return func() {
			for _, f := range list {
				f()
			}
		}
	}
	return []trouble{
		{"node", func(ctx context.Context, _ int) (func(*fleet.Node) bool, func(), error) {
			n := l.nodes[len(l.nodes)-1]
			nn := &v1alpha1.NodeNetwork{}
			if err := m.kube.Get(ctx, client.ObjectKey{Name: n.Name}, nn); err != nil {
				return nil, nil, err
			}
			var names []string
			for _, e := range nn.Spec.ENIs {
				names = append(names, "node-"+e.ID)
				if err := m.cloud.AddFaults(hang("node-"+e.ID, "*", map[string]string{"NetworkInterfaceId": e.ID})); err != nil {
					return nil, nil, err
				}
			}
			ends := []func(){want(n, "node", 10)}
			for _, name := range names {
				ends = append(ends, func() { m.cloud.RemoveFault(name) })
			}
			return on(n), all(ends), nil
		}},
		{"vswitch", func(_ context.Context, round int) (func(*fleet.Node) bool, func(), error) {
			vswitch := m.cloud.pods[zoneIDs[0]][round%vswitchesPerZone]
			if err := m.cloud.AddFaults(faults.Rule{Name: "vswitch", VSwitchFull: []string{vswitch}}); err != nil {
				return nil, nil, err
			}
			ends := []func(){func() { m.cloud.RemoveFault("vswitch") }}
			for _, n := range l.nodes {
				// Few: what they get counts against the account's limit, and so against the others.
				if n.Uses(vswitch) && len(ends) <= 3 {
					ends = append(ends, want(n, "vswitch", 10))
				}
			}
			return func(n *fleet.Node) bool { return n.Uses(vswitch) }, all(ends), nil
		}},
		{"create", func(_ context.Context, round int) (func(*fleet.Node) bool, func(), error) {
			if err := m.cloud.AddFaults(hang("create", "CreateNetworkInterface", nil)); err != nil {
				return nil, nil, err
			}
			ends := []func(){func() { m.cloud.RemoveFault("create") }}
			for _, name := range m.names[round*troubled : (round+1)*troubled] {
				ends = append(ends, want(m.agents.Node(name), "create", 10))
			}
			return nil, all(ends), nil
		}},
		{"describe", func(context.Context, int) (func(*fleet.Node) bool, func(), error) {
			if err := m.cloud.AddFaults(hang("describe", "DescribeVSwitches", nil)); err != nil {
				return nil, nil, err
			}
			return nil, func() { m.cloud.RemoveFault("describe") }, nil
		}},
	}
}

// isolation measures the others' waits while something fails, by turns with a time in which
// nothing does.
func (m *measured) isolation(ctx context.Context, p *controller, l *load, rounds int, d time.Duration) error {
	list := m.troubles(l)
	for round := range rounds {
		order := append([]trouble{{name: "none"}}, list...)
		if round%2 == 1 {
			slices.Reverse(order)
		}
		for _, tr := range order {
			var concerned func(*fleet.Node) bool
			end := func() {}
			if tr.begin != nil {
				var err error
				if concerned, end, err = tr.begin(ctx, round); err != nil {
					return fmt.Errorf("make trouble with %s: %w", tr.name, err)
				}
			}
			limited, cancel := context.WithTimeoutCause(ctx, d+3*time.Minute, errors.New("not in three minutes"))
			w, pods, err := l.run(limited, d, concerned)
			cancel()
			end()
			if err != nil {
				// A pod that waits for minutes is what this looks for: it goes on with that as the figure.
				m.progress("trouble with %s: %v", tr.name, err)
				m.notes = append(m.notes, fmt.Sprintf("%s, trouble with %s, round %d: %v", m.name, tr.name, round+1, err))
				w.of = append(w.of, slices.Repeat([]time.Duration{3 * time.Minute}, pods-w.count())...)
			}
			if err := p.alive(); err != nil {
				return err
			}
			m.figure(round, "p99_"+tr.name, w.quantile(0.99))
			m.progress("trouble with %s, round %d of %d: %d of %d other pods waited, p50 %.2f s, p99 %.2f s",
				tr.name, round+1, rounds, pods-w.atOnce, pods, w.quantile(0.5), w.quantile(0.99))
			if err := m.settle(ctx); err != nil {
				m.progress("after trouble with %s: %v", tr.name, err)
			}
		}
	}
	for _, tr := range list {
		m.line("p99_"+tr.name, "s", "p99_none", "no trouble", report.Goal{AtMost: 1.1})
	}
	return m.check(ctx)
}

// prefer puts the session's group of processes before other sessions' during the run, as
// the other benchmarks do (Linux sched_autogroup_enabled).
func prefer(t testing.TB) {
	const file = "/proc/self/autogroup"
	group, err := os.ReadFile(file)
	if err != nil {
		return // no groups
	}
	var name, word, was string
	if _, err := fmt.Sscan(string(group), &name, &word, &was); err != nil {
		t.Fatalf("%s %q: %v", file, group, err)
	}
	set := func(nice string) {
		if err := os.WriteFile(file, []byte(nice), 0); err != nil {
			t.Logf("set the session's nice value: %v", err)
		}
	}
	t.Cleanup(func() { set(was) })
	set(strconv.Itoa(traffic.Priority))
}

// number reads a setting of the command, for example NODES=1000 make bench-controller.
func number(t testing.TB, name string, usual float64) float64 {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return usual
	}
	n, err := strconv.ParseFloat(s, 64)
	if err != nil || n <= 0 {
		t.Fatalf("%s=%q: want a number above 0", name, s)
	}
	return n
}

func text(name, usual string) string {
	if s := os.Getenv(name); s != "" {
		return s
	}
	return usual
}

// TestController measures the controller in clusters of each size.
func TestController(t *testing.T) {
	began := time.Now()
	load0, err := report.Load()
	if err != nil {
		t.Fatal(err)
	}
	prefer(t)
	rounds := int(number(t, "ROUNDS", 3))
	window := time.Duration(number(t, "WINDOW", 20) * float64(time.Second))
	r := report.Report{Command: "make bench-controller", Date: began, CPUs: runtime.NumCPU(), Rounds: rounds}
	run := &report.Run{}
	var lines []report.Comparison
	for _, size := range strings.Split(text("NODES", "1000,5000"), ",") {
		nodes, err := strconv.Atoi(size)
		if err != nil || nodes < 100 {
			t.Fatalf("NODES=%q: want numbers from 100 on, separated by commas", size)
		}
		s := settings{
			nodes: nodes, pods: int(number(t, "PODS", 30)), instanceType: text("TYPE", "ecs.g7.2xlarge"), cooling: int(number(t, "COOLING", 130)),
			factor: number(t, "LIMITS_FACTOR", 2), latency: time.Duration(number(t, "LATENCY", 300)) * time.Millisecond,
			spare: troubled * rounds, leases: float64(nodes) <= number(t, "LEASES", 1000),
		}
		t.Run(size, func(t *testing.T) {
			m := newMeasured(t, s, run)
			if err := m.all(t.Context(), rounds, window); err != nil {
				t.Error(err)
			}
			lines = append(lines, m.list...)
			r.Notes = append(r.Notes, fmt.Sprintf("%s of %s × %d pods, 3 zones with %d Pod vSwitches each; a call takes %s. Cold start: limits × %g, calls and ENIs as much faster. The rest: limits as documented.",
				m.name, s.instanceType, s.pods, vswitchesPerZone, s.latency, s.factor))
			r.Notes = append(r.Notes, m.notes...)
		})
	}
	if r.Results, err = run.Compare(lines); err != nil {
		t.Fatal(err)
	}
	if r.Kernel, err = kernel.Version(); err != nil {
		t.Fatal(err)
	}
	load1, err := report.Load()
	if err != nil {
		t.Fatal(err)
	}
	r.Load = [2]float64{load0, load1}
	fmt.Println()
	if err := r.WriteText(os.Stdout); err != nil {
		t.Fatal(err)
	}
	if path := os.Getenv("OUT"); path != "" {
		if err := r.WriteJSON(path); err != nil {
			t.Fatal(err)
		}
	}
	if os.Getenv("DOC") != "" && !t.Failed() {
		if err := r.WriteDoc("../../../docs/benchmarks.md", "bench-controller"); err != nil {
			t.Fatal(err)
		}
	}
}

// all is one size's measurements.
func (m *measured) all(ctx context.Context, rounds int, window time.Duration) error {
	p, err := m.coldStart(ctx)
	if err != nil {
		return err
	}
	if p, err = m.failover(ctx, p, m.nodes/10); err != nil {
		return err
	}
	l := &load{perSecond: number(m.t, "CHURN", 50), group: 10, life: 10 * time.Second}
	for _, name := range m.names[m.spare:] {
		l.nodes = append(l.nodes, m.agents.Node(name))
	}
	if err := m.settle(ctx); err != nil {
		return err
	}
	if err := m.churn(ctx, p, l, 3*window); err != nil {
		return err
	}
	// No node has its turn twice: what a group has left there would serve the next.
	left := len(l.nodes) - m.nodes/10 - l.next
	windows := window.Seconds() * float64(rounds*(1+len(m.troubles(l))))
	l.perSecond = min(l.perSecond, float64(left*l.group)/windows)
	if err := m.isolation(ctx, p, l, rounds, window); err != nil {
		return err
	}
	u, err := useOf(p.cmd.Process.Pid)
	if err != nil {
		return err
	}
	m.against("memory", "MiB", max(m.peak, u.peak), 1024, "1 GiB", report.Goal{AtMost: 1})
	return nil
}
