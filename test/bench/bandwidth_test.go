//go:build bench

package bench

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"terway.dev/terway/internal/bandwidth"
	"terway.dev/terway/test/bench/report"
	"terway.dev/terway/test/bench/traffic"
)

// limits are those that pods have here, in bits per second.
var limits = []float64{1e6, 10e6, 100e6, 1e9, 5e9}

// middle is the limit of what is measured with one limit.
const middle = 100e6

// sender is what uses a limit up.
type sender struct {
	name       string
	streams    int // 0: UDP
	congestion string
}

// cubic is the algorithm where one is enough.
const cubic = "cubic"

// senders returns all, of which the kernel has TCP's algorithm.
func senders() (list []sender, notes []string, err error) {
	text, err := os.ReadFile("/proc/sys/net/ipv4/tcp_available_congestion_control")
	if err != nil {
		return nil, nil, fmt.Errorf("TCP's congestion control: %w", err)
	}
	for _, name := range []string{cubic, "bbr"} {
		if !slices.Contains(strings.Fields(string(text)), name) {
			notes = append(notes, fmt.Sprintf("Not measured: %s; the kernel has %s.", name, strings.TrimSpace(string(text))))
			continue
		}
		for _, streams := range []int{1, 8} {
			s := sender{fmt.Sprintf("%d streams %s", streams, name), streams, name}
			if streams == 1 {
				s.name = "1 stream " + name
			}
			list = append(list, s)
		}
	}
	return append(list, sender{name: "UDP"}), notes, nil
}

// Sizes of a datagram's payload and of its frame.
const (
	datagram      = 1472
	datagramFrame = 1514
)

// start sends over the path; datagrams so many times faster than the limit, in bits per second.
func (s sender) start(p traffic.Path, limit, times float64) (*traffic.Load, error) {
	p.Congestion = s.congestion
	if s.streams == 0 {
		return p.Datagrams(datagram, times*limit/8/datagramFrame)
	}
	return p.Streams(s.streams)
}

// way is a path of a limited pod with the gauges of the direction that its limit holds back.
type way struct {
	name string
	pod  *limitedPod
	path traffic.Path
	at   []gauge
}

// order is the way's place among others.
func (w way) order() int { return slices.Index([]string{egress, ingress, nextPod, itself}, w.name) }

// read returns what the gauges have counted together.
func (w way) read() (sum traffic.Counted, err error) {
	for _, g := range w.at {
		c, err := g.Read(g.way)
		if err != nil {
			return sum, err
		}
		sum.Bytes += c.Bytes
		sum.Early += c.Early
	}
	return sum, nil
}

// Names of ways.
const (
	egress, ingress = "egress", "ingress"
	nextPod         = "to a pod of the node"
	itself          = "to itself by a Service"
)

// ways returns the ways of a node's pods with a limit: those to and from another node, and those on the node. Each has
// pods of its own.
func (l *limitedNode) ways(limit float64) (away, home []way) {
	p := l.of(limit)
	away = []way{{egress, p[0], p[0].to(), p[0].out}, {ingress, p[1], p[1].from(), p[1].in}}
	// The first of these counts what has passed the queues of both pods.
	return away, []way{
		{nextPod, p[2], traffic.Path{Client: p[2].NS, Server: p[3].NS, Address: p[3].V4}, p[3].in},
		{itself, p[4], p[4].toItself(), p[4].out},
	}
}

// settled is how long traffic flows before it is measured, and for how long it is measured then.
func settled(limit float64) (before, window time.Duration) {
	switch {
	case limit > 0 && limit < middle:
		return 1500 * time.Millisecond, 3 * time.Second
	case limit == middle:
		return 700 * time.Millisecond, 1500 * time.Millisecond
	}
	return 200 * time.Millisecond, 400 * time.Millisecond
}

// measured is the result of rate.
type measured struct {
	bits float64 // per second
	// again is how much of TCP's segments the client has sent again, in percent.
	again float64
	// slow: the sender of datagrams has sent less than the limit lets pass.
	slow bool
}

// rate measures what passes the devices.
func (w way) rate(s sender) (m measured, err error) {
	first, err := w.read()
	if err != nil {
		return m, err
	}
	limit := w.pod.limit
	if limit == 0 {
		limit = limits[len(limits)-1]
	}
	load, err := s.start(w.path, limit, 1.25)
	if err != nil {
		return m, err
	}
	defer load.Stop()
	before, window := settled(w.pod.limit)
	time.Sleep(before)
	segments, again, err := w.pod.sent()
	if err != nil {
		return m, err
	}
	c, err := w.read()
	if err != nil {
		return m, err
	}
	start, sent := time.Now(), load.Sent()
	time.Sleep(window)
	took := time.Since(start)
	m.slow = s.streams == 0 && float64(load.Sent()-sent)/datagram*datagramFrame*8/took.Seconds() < 1.02*limit
	arrived := load.Received()
	last, err := w.read()
	if err != nil {
		return m, err
	}
	if passed := last.Bytes - first.Bytes; passed == 0 || int64(passed) < arrived {
		return m, fmt.Errorf("%d bytes of payload have arrived, of which %d have passed the pod's devices", arrived, passed)
	}
	m.bits = float64(last.Bytes-c.Bytes) * 8 / took.Seconds()
	if s, a, err := w.pod.sent(); err != nil {
		return m, err
	} else if s > segments {
		m.again = (a - again) / (s - segments) * 100
	}
	return m, nil
}

// beginning measures how much passes in the first 100 ms, as a multiple of the limit. The pod was idle.
func (w way) beginning(s sender) (float64, error) {
	for _, g := range w.at {
		if err := g.Reset(); err != nil {
			return 0, err
		}
	}
	load, err := s.start(w.path, w.pod.limit, 4)
	if err != nil {
		return 0, err
	}
	time.Sleep(2 * traffic.Beginning)
	load.Stop()
	c, err := w.read()
	if err == nil && c.Early == 0 {
		err = errors.New("nothing has passed the pod's devices")
	}
	return float64(c.Early) * 8 / (w.pod.limit * traffic.Beginning.Seconds()), err
}

// underLoad measures requests and answers while the limit is used up.
func (w way) underLoad(s sender) (l traffic.Latency, err error) {
	load, err := s.start(w.path, w.pod.limit, 1.25)
	if err != nil {
		return l, err
	}
	defer load.Stop()
	before, window := settled(w.pod.limit)
	time.Sleep(before)
	return w.path.RoundTrips(window + time.Second)
}

// bandwidthBench collects the lines of the report.
type bandwidthBench struct {
	*bench
	mu    sync.Mutex
	kinds []kind
	lines map[[5]int]report.Comparison // by kind and place
	slow  map[float64]int              // by limit, how often the sender of datagrams was slower
}

// place returns the place of a line about a limit.
func place(part int, limit float64, rest ...int) (at [4]int) {
	at[0], at[1] = part, len(limits) // no limit comes last
	if i := slices.Index(limits, limit); i >= 0 {
		at[1] = i
	}
	copy(at[2:], rest)
	return at
}

// line is a line without its values.
type line struct {
	// at is its place in the report of a kind.
	at                   [4]int
	name, unit, baseline string
	goal                 report.Goal
	cell                 report.Cell
}

// in returns the line as a cell of a table.
func (l line) in(row, column string) line {
	l.name, l.cell = row+", "+column, report.Cell{Row: row, Column: column}
	return l
}

// Parts of the report, in order.
const (
	partRates = iota
	partAgain
	partBeginnings
	partLatencies
	partBothDevices
	partProcessor
	partOthers
)

// add adds a value of a round, and its baseline's if it has one.
func (b *bandwidthBench) add(round int, k kind, l line, value, base float64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	of := report.Key{Datapath: k.name, Metric: l.name}
	c := report.Comparison{Name: l.name, Unit: l.unit, Of: of, Baseline: l.baseline, Goal: l.goal, Cell: l.cell}
	b.run.Add(round, of, value)
	if l.baseline != "" {
		c.To = report.Key{Datapath: k.name, Metric: l.name + " ÷"}
		b.run.Add(round, c.To, base)
	}
	at := slices.IndexFunc(b.kinds, func(o kind) bool { return o.name == k.name })
	b.lines[[5]int{at, l.at[0], l.at[1], l.at[2], l.at[3]}] = c
}

// Sums of limits, in bits per second, that leave most of the machine idle. Datagrams cost more than streams: all pass
// the kernel one by one.
const (
	idleMachine      = 1.3e9
	idleForDatagrams = 0.2e9
)

// each runs f for every way, for all at once if their sum is not more than most.
func each(list []way, most float64, f func(way) error) error {
	threads, sum := len(list), 0.0
	for _, w := range list {
		if sum += w.pod.limit; sum > most || w.pod.limit == 0 {
			threads = 1
		}
	}
	var wg sync.WaitGroup
	turns := make(chan struct{}, threads)
	errs := make([]error, len(list))
	for i, w := range list {
		turns <- struct{}{}
		wg.Go(func() {
			defer func() { <-turns }()
			if err := f(w); err != nil {
				errs[i] = fmt.Errorf("%s, %s, %s: %w", w.pod.on.name, w.name, text(w.pod.limit), err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// text is a limit for people.
func text(limit float64) string {
	if limit == 0 {
		return "no limit"
	}
	return bandwidth.Rate(uint64(limit))
}

// newBandwidthBench begins a part of the report about these kinds.
func newBandwidthBench(t *testing.T, part string, kinds []kind) *bandwidthBench {
	b := &bandwidthBench{bench: begin(t, "bench-bandwidth"), kinds: kinds, lines: map[[5]int]report.Comparison{}, slow: map[float64]int{}}
	b.part = part
	return b
}

// all returns the lines in order.
func (b *bandwidthBench) all() (list []report.Comparison) {
	for _, at := range slices.SortedFunc(maps.Keys(b.lines), func(x, y [5]int) int { return slices.Compare(x[:], y[:]) }) {
		list = append(list, b.lines[at])
	}
	return list
}

// TestBandwidthTraffic measures how close pods' rates come to their limits, and what limits cost those without.
func TestBandwidthTraffic(t *testing.T) {
	rounds := number(t, "ROUNDS", 3)
	list, notes := chosen(t)
	b := newBandwidthBench(t, "traffic", list)
	runtime.GOMAXPROCS(4 * traffic.Threads)
	all, more, err := senders()
	if err != nil {
		t.Fatal(err)
	}
	nodes := limitedNodes(b.bench, list, limits)
	for round := range rounds {
		for _, measure := range []func(int, []*limitedNode, []sender) error{b.rates, b.beginnings, b.latencies, b.bothDevices, b.processor} {
			if err := measure(round, nodes, all); err != nil {
				t.Fatal(err)
			}
		}
	}
	window := time.Duration(number(t, "WINDOW", 200)) * time.Millisecond
	for round := range rounds * perRound {
		if err := b.others(round, nodes, window); err != nil {
			t.Fatal(err)
		}
		b.progress("pods without a limit, round %d of %d", round+1, rounds*perRound)
	}
	notes = append(append(notes, more...), "Rates are of frames with their headers, at the pod's devices.")
	for _, limit := range slices.Sorted(maps.Keys(b.slow)) {
		notes = append(notes, fmt.Sprintf("UDP, %s: in %d measurements the sender itself sent less than 1.02 of the limit.", text(limit), b.slow[limit]))
	}
	b.finish(b.all(), notes)
}

// rates measures every limit with every sender.
func (b *bandwidthBench) rates(round int, nodes []*limitedNode, all []sender) error {
	low := func(limit float64) bool { return limit > 0 && limit < middle }
	var groups [][]way
	for _, limit := range append([]float64{0}, limits...) {
		var away, home []way
		for _, l := range nodes {
			x, y := l.ways(limit)
			away = append(away, x...)
			if limit > 0 && limit < 2e9 {
				home = append(home, y...)
			}
		}
		if last := len(groups) - 1; low(limit) && low(groups[last][0].pod.limit) {
			groups[last] = slices.Concat(groups[last], away, home)
			continue
		}
		groups = append(groups, away)
		if low(limit) {
			groups[len(groups)-1] = append(away, home...)
		} else if len(home) > 0 {
			groups = append(groups, home)
		}
	}
	if round%2 == 1 {
		slices.Reverse(groups)
	}
	for _, group := range groups {
		for i, s := range all {
			most := idleMachine
			if s.streams == 0 {
				most = idleForDatagrams
			}
			if err := each(group, most, func(w way) error {
				m, err := w.rate(s)
				if err != nil {
					return err
				}
				b.addRate(round, w, i, s, m)
				return nil
			}); err != nil {
				return err
			}
			b.progress("round %d: %s, %s", round+1, text(group[len(group)-1].pod.limit), s.name)
		}
	}
	return nil
}

func (b *bandwidthBench) addRate(round int, w way, i int, s sender, m measured) {
	limit := w.pod.limit
	if m.slow && limit > 0 {
		b.mu.Lock()
		b.slow[limit]++
		b.mu.Unlock()
	}
	l := line{at: place(partRates, limit, w.order(), i), unit: "Mbit/s", baseline: "limit"}.in(w.name+", "+text(limit), s.name)
	switch {
	case limit == 0:
		l.baseline = ""
	case limit > 2e9: // printed
	case limit < 2e6:
		l.goal = report.Goal{AtLeast: 0.90, AtMost: 1.05}
	case s.streams == 1:
		l.goal = report.Goal{AtLeast: 0.93}
	default:
		l.goal = report.Goal{AtLeast: 0.97, AtMost: 1.02}
	}
	b.add(round, w.pod.on.kind, l, m.bits/1e6, limit/1e6)
	if w.name == egress && limit == middle && s.streams > 1 {
		b.add(round, w.pod.on.kind, line{at: place(partAgain, limit, w.order(), i), unit: "%", goal: report.Goal{AtMost: 0.1}}.in("sent again, "+l.cell.Row, s.name), m.again, 0)
	}
}

// beginnings measures what passes after idle.
func (b *bandwidthBench) beginnings(round int, nodes []*limitedNode, _ []sender) error {
	for _, limit := range limits {
		for i, s := range []sender{{name: "UDP"}, {"8 streams " + cubic, 8, cubic}} {
			time.Sleep(time.Second)
			for _, l := range nodes {
				away, _ := l.ways(limit)
				for _, w := range away {
					times, err := w.beginning(s)
					if err != nil {
						return fmt.Errorf("%s, %s, %s: first 100 ms: %w", l.name, w.name, text(limit), err)
					}
					b.add(round, l.kind, line{at: place(partBeginnings, limit, w.order(), i), unit: "× limit", goal: report.Goal{AtMost: 2}}.
						in(fmt.Sprintf("first 100 ms after idle, %s, %s", w.name, text(limit)), s.name), times, 0)
				}
			}
		}
	}
	b.progress("round %d: the first 100 ms after idle", round+1)
	return nil
}

// latencies measures requests and answers beside 8 streams that use the limit up.
func (b *bandwidthBench) latencies(round int, nodes []*limitedNode, all []sender) error {
	for _, limit := range limits {
		if limit < 10e6 || limit > 2e9 {
			continue
		}
		var list []way
		for _, l := range nodes {
			away, _ := l.ways(limit)
			list = append(list, away...)
		}
		for i, s := range all {
			if s.streams != 8 {
				continue
			}
			if err := each(list, idleMachine, func(w way) error {
				got, err := w.underLoad(s)
				if err != nil {
					return err
				}
				row := w.name + ", " + text(limit)
				ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
				b.add(round, w.pod.on.kind, line{at: place(partLatencies, limit, w.order(), 2*i), unit: "ms", goal: report.Goal{AtMost: 30}}.in("tcp_rr_p50, "+row, "beside "+s.name), ms(got.P50), 0)
				b.add(round, w.pod.on.kind, line{at: place(partLatencies, limit, w.order(), 2*i+1), unit: "ms", goal: report.Goal{AtMost: 60}}.in("tcp_rr_p99, "+row, "beside "+s.name), ms(got.P99), 0)
				return nil
			}); err != nil {
				return err
			}
			b.progress("round %d: requests beside %s, %s", round+1, s.name, text(limit))
		}
	}
	return nil
}

// bothDevices measures a pod with an exclusive ENI that uses both of its devices: the other node is at eth0, its own
// node at the other one.
func (b *bandwidthBench) bothDevices(round int, nodes []*limitedNode, _ []sender) error {
	s := sender{"8 streams " + cubic, 8, cubic}
	for _, l := range nodes {
		if !l.own {
			continue
		}
		for _, limit := range limits {
			if limit < 10e6 || limit > 2e9 {
				continue
			}
			x, y := l.of(limit)[0], l.of(limit)[1]
			for _, w := range []struct {
				way
				also traffic.Path
			}{{way{egress, x, x.to(), x.out}, x.toNode()}, {way{ingress, y, y.from(), y.in}, y.fromNode()}} {
				load, err := s.start(w.also, limit, 0)
				if err != nil {
					return err
				}
				m, err := w.rate(s)
				other := load.Received()
				load.Stop()
				if err == nil && float64(other) < limit/8/20 {
					err = fmt.Errorf("by the second device only %d bytes have arrived", other)
				}
				if err != nil {
					return fmt.Errorf("%s, both devices, %s, %s: %w", l.name, w.name, text(limit), err)
				}
				b.add(round, l.kind, line{
					at: place(partBothDevices, limit, w.order()), name: fmt.Sprintf("both devices at once, %s, %s", w.name, text(limit)), unit: "Mbit/s", baseline: "limit", goal: report.Goal{AtMost: 1.02},
				}, m.bits/1e6, limit/1e6)
			}
		}
	}
	b.progress("round %d: both devices", round+1)
	return nil
}

// processor compares the processor time of what passes a limit of 1 Gbit/s with that of pods without one.
func (b *bandwidthBench) processor(round int, nodes []*limitedNode, _ []sender) error {
	for _, l := range nodes {
		with, _ := l.ways(1e9)
		without, _ := l.ways(0)
		for i, w := range with {
			var cpu [2]float64
			for k, p := range []traffic.Path{w.path, without[i].path} {
				p.Congestion = cubic
				got, err := p.Stream(8, time.Second)
				if err != nil {
					return err
				}
				cpu[k] = got.CPU * 1000
			}
			b.add(round, l.kind, line{at: place(partProcessor, 0, w.order()), name: "cpu_per_gbit, " + w.name + ", 1 Gbit/s", unit: "CPU-ms", baseline: "no limit"}, cpu[0], cpu[1])
		}
	}
	b.progress("round %d: processor time", round+1)
	return nil
}

// perRound is how often the paths of pods without a limit are measured in a round: their figures are those of the
// whole machine, and vary with it.
const perRound = 3

// others measures pods without a limit: beside one that uses its limit up, and on a node with many limited ones. What they
// are compared with comes first in every other round.
func (b *bandwidthBench) others(round int, nodes []*limitedNode, window time.Duration) error {
	for _, l := range nodes {
		neighbour, busy := l.of(0)[0].to(), l.of(middle)[0]
		neighbour.Server, neighbour.Address = l.far[1], l.other.pod(2)
		for i, m := range metrics()[:4] {
			alone := func() ([]float64, error) { return m.take(neighbour, window) }
			beside := func() ([]float64, error) {
				load, err := busy.to().Streams(8)
				if err != nil {
					return nil, err
				}
				defer load.Stop()
				return m.take(neighbour, window)
			}
			plain := func() ([]float64, error) { return m.take(l.plain, window) }
			limited := func() ([]float64, error) { return m.take(l.beside, window) }
			for k, c := range []struct {
				suffix, baseline string
				goal             float64
				of, to           func() ([]float64, error)
			}{
				{", a neighbour uses its limit up", "alone", 0.97, beside, alone},
				{fmt.Sprintf(", %d limited pods", limitedPods), "none limited", noLoss, limited, plain},
			} {
				values, base, err := inTurn(round, c.of, c.to)
				if err != nil {
					return fmt.Errorf("%s%s: %w", l.name, c.suffix, err)
				}
				b.compare(round, l.kind, m, [2]int{k, i}, c.suffix, c.baseline, c.goal, values, base)
			}
		}
	}
	return nil
}

// inTurn takes the values of both, the second one first in every other round.
func inTurn(round int, of, to func() ([]float64, error)) (values, base []float64, err error) {
	if round%2 == 1 {
		base, values, err = inTurn(0, to, of)
		return values, base, err
	}
	if values, err = of(); err == nil {
		base, err = to()
	}
	return values, base, err
}

// compare adds a metric's values with the goal for their ratio.
func (b *bandwidthBench) compare(round int, k kind, m metric, at [2]int, suffix, baseline string, goal float64, values, base []float64) {
	for i, name := range m.names {
		l := line{at: [4]int{partOthers, at[0], at[1], i}, name: name + suffix, unit: m.units[i], baseline: baseline, goal: report.Goal{AtLeast: goal}}
		if m.units[i] == "µs" || m.units[i] == "CPU-ms" { // less is better
			l.goal = report.Goal{AtMost: 1 / goal}
		}
		if name == "tcp_rr_p99" { // it says more of the machine
			l.goal = report.Goal{}
		}
		b.add(round, k, l, values[i], base[i])
	}
}
