//go:build bench

package bench

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"terway.dev/terway/internal/bandwidth"
	"terway.dev/terway/internal/testutil"
	"terway.dev/terway/test/bench/report"
	"terway.dev/terway/test/bench/traffic"
)

// Totals of an ENI in Mbit/s: one that no sender here reaches, and one that three pods use up.
const (
	unreached = 1_000_000
	usedUp    = 200
)

// guaranteed is what the guaranteed pod sends, in bits per second with headers.
const guaranteed = 50e6

// prioritized are nodes of one kind, in pairs whose pods have paths from the first node to the second.
type prioritized struct {
	kind
	// queued have ENIs with a total that nobody reaches, plain none, and contended one that is used up.
	queued, plain, contended [2]*node
}

// TestBandwidthPriority measures what pods lose where ENIs have a queue by network priority, which all processors that send by it
// lock, and the program; and what a guaranteed pod keeps beside three that send all they can.
func TestBandwidthPriority(t *testing.T) {
	rounds := number(t, "ROUNDS", 3) * perRound
	list, notes := chosen(t)
	b := newBandwidthBench(t, "priority", list)
	v := newVPC(t)
	var nodes []*node
	pair := func(pods, first, second int) (p [2]*node) {
		for i, mbit := range []int{first, second} {
			p[i] = v.node(false)
			shared := v.eni(p[i], upTo(pods)...)
			p[i].shared, p[i].eniMbit = &shared, mbit
		}
		nodes = append(nodes, p[:]...)
		return p
	}
	var all []prioritized
	for _, k := range list {
		if k.own {
			continue
		}
		p := prioritized{k, pair(1, unreached, unreached), pair(1, 0, 0), pair(4, usedUp, 0)}
		p.contended[0].priorities = map[int]bandwidth.Priority{1: bandwidth.Guaranteed, 3: bandwidth.Burstable, 4: bandwidth.BestEffort}
		all = append(all, p)
	}
	if len(all) == 0 {
		b.progress("no datapath whose pods share ENIs")
		return
	}
	b.progress("%d instances on the fabric", len(nodes))
	v.open(nodes...)
	window := time.Duration(number(t, "WINDOW", 200)) * time.Millisecond
	var measure []func(round int) error
	for _, p := range all {
		queued, plain, contended := p.paths(t, p.queued, 1)[0], p.paths(t, p.plain, 1)[0], p.paths(t, p.contended, 4)
		measure = append(measure, func(round int) error {
			return b.queue(round, p.kind, queued, plain, window)
		}, func(round int) error { return b.beside(round, p.kind, contended[0], contended[1:]) })
	}
	for round := range rounds {
		for _, f := range measure {
			if err := f(round); err != nil {
				t.Fatal(err)
			}
		}
		b.progress("round %d of %d", round+1, rounds)
	}
	b.finish(b.all(), append(notes, "ENIs without such a queue have none at all."))
}

// paths makes pods on both nodes, and returns the paths from those of the first one.
func (p prioritized) paths(t *testing.T, nodes [2]*node, pods int) (list []traffic.Path) {
	var ends [2][]*testutil.NS
	for i, n := range nodes {
		var err error
		if ends[i], err = n.judge(p.kind, upTo(pods), 0, netip.Addr{}); err != nil {
			t.Fatal(err)
		}
		for _, ns := range ends[i] {
			// Few ports: closed connections must not fill the connection tables.
			ns.Sysctl("ipv4/ip_local_port_range", "32768 36863")
		}
	}
	for i := range pods {
		list = append(list, traffic.Path{Client: ends[0][i], Server: ends[1][i], Address: nodes[1].pod(i + 1)})
	}
	return list
}

// queue compares traffic by ENIs with such a queue with traffic by others.
func (b *bandwidthBench) queue(round int, k kind, queued, plain traffic.Path, window time.Duration) error {
	for i, m := range metrics()[:4] {
		take := func(p traffic.Path) func() ([]float64, error) {
			return func() ([]float64, error) { return m.take(p, window) }
		}
		values, base, err := inTurn(round, take(queued), take(plain))
		if err != nil {
			return fmt.Errorf("%s: %w", k.name, err)
		}
		for j, name := range m.names {
			b.add(round, k, line{at: [4]int{0, i, j}, name: name + ", ENIs with a queue by network priority", unit: m.units[j], baseline: "without"}, values[j], base[j])
		}
	}
	return nil
}

// beside measures a guaranteed pod beside others that send all that goes.
func (b *bandwidthBench) beside(round int, k kind, path traffic.Path, others []traffic.Path) error {
	for _, p := range others {
		load, err := p.Streams(8)
		if err != nil {
			return fmt.Errorf("%s: %w", k.name, err)
		}
		defer load.Stop()
	}
	load, err := path.Datagrams(datagram, guaranteed/8/datagramFrame)
	if err != nil {
		return fmt.Errorf("%s: %w", k.name, err)
	}
	defer load.Stop()
	before, window := settled(middle)
	time.Sleep(before)
	start, sent, arrived := time.Now(), load.Sent(), load.Received()
	latency, err := path.RoundTrips(window)
	if err != nil {
		return fmt.Errorf("%s: %w", k.name, err)
	}
	seconds := time.Since(start).Seconds()
	mbit := func(bytes int64) float64 { return float64(bytes) / datagram * datagramFrame * 8 / 1e6 / seconds }
	b.add(round, k, line{
		at: [4]int{1, 0}, name: "a guaranteed pod's datagrams, beside three pods", unit: "Mbit/s", baseline: "sent", goal: report.Goal{AtLeast: 0.95},
	}, mbit(load.Received()-arrived), mbit(load.Sent()-sent))
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	b.add(round, k, line{at: [4]int{1, 1}, name: "tcp_rr_p50 of a guaranteed pod, beside three pods", unit: "ms"}, ms(latency.P50), 0)
	b.add(round, k, line{at: [4]int{1, 2}, name: "tcp_rr_p99 of a guaranteed pod, beside three pods", unit: "ms", goal: report.Goal{AtMost: 20}}, ms(latency.P99), 0)
	return nil
}
