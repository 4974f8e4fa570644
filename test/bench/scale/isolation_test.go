//go:build bench

package scale

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/vpcsim/faults"
	"terway.dev/terway/test/bench/fleet"
	"terway.dev/terway/test/bench/report"
)

// trouble is a failure and the nodes that it may affect.
type trouble struct {
	name string
	// begin starts it; concerned reports whether a node may be affected.
	begin func(ctx context.Context, round int) (concerned func(*fleet.Node) bool, end func(), err error)
}

// hang makes a call block for a long time and then fail.
func hang(name, action string, match map[string]string) faults.Rule {
	return faults.Rule{Name: name, Action: action, Match: match, Latency: &faults.Latency{Fixed: faults.Duration(10 * time.Second)},
		Error: &faults.Error{Code: "ServiceUnavailable", Status: 503}}
}

// want adds pods that wait for more addresses, one node after the other at the rate of the
// steady load: all at once would be a burst of load, which is another test. The function that
// it returns waits until the pods have their addresses, so that the next measurement is not
// disturbed, and ends the pods. It waits for three minutes in all; if this is not enough, the
// report says so.
func (m *measured) want(ctx context.Context, l *load, prefix string, nodes ...*fleet.Node) (end func()) {
	pods := func(n *fleet.Node) []string { return named(prefix+"/"+n.Name, 10) }
	for _, n := range nodes {
		n.Add(func(time.Duration) {}, pods(n)...)
		time.Sleep(l.every())
	}
	return func() {
		ctx, cancel := context.WithTimeoutCause(ctx, 3*time.Minute, errors.New("not in three minutes"))
		defer cancel()
		if err := until(ctx, func() string {
			waiting, on := 0, []string(nil)
			for _, n := range nodes {
				if w := n.Waiting(); w > 0 {
					waiting, on = waiting+w, append(on, n.Name)
				}
			}
			if waiting == 0 {
				return ""
			}
			return fmt.Sprintf("%d pods of %d nodes wait for an address, the first is %s", waiting, len(on), on[0])
		}); err != nil {
			m.note("after trouble with %s: %v", prefix, err)
		}
		for _, n := range nodes {
			n.Delete(pods(n)...)
		}
	}
}

// troubled is the number of nodes that need what fails: fewer than the controller's workers
// (512), and fewer than the calls of CreateNetworkInterface that may run before the client
// defers others (50). So other nodes are affected by calls that hang and fail, not by a full
// queue.
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
			var ends []func()
			for _, name := range names {
				ends = append(ends, func() { m.cloud.RemoveFault(name) })
			}
			return on(n), all(append(ends, m.want(ctx, l, "node", n))), nil
		}},
		{"vswitch", func(ctx context.Context, round int) (func(*fleet.Node) bool, func(), error) {
			vswitch := m.cloud.pods[zoneIDs[0]][round%vswitchesPerZone]
			if err := m.cloud.AddFaults(faults.Rule{Name: "vswitch", VSwitchFull: []string{vswitch}}); err != nil {
				return nil, nil, err
			}
			var nodes []*fleet.Node
			for _, n := range l.nodes {
				// Few nodes: their requests count against the account's limit, and so against
				// the others.
				if n.Uses(vswitch) && len(nodes) < 3 {
					nodes = append(nodes, n)
				}
			}
			ends := []func(){func() { m.cloud.RemoveFault("vswitch") }, m.want(ctx, l, "vswitch", nodes...)}
			return func(n *fleet.Node) bool { return n.Uses(vswitch) }, all(ends), nil
		}},
		{"create", func(ctx context.Context, round int) (func(*fleet.Node) bool, func(), error) {
			if err := m.cloud.AddFaults(hang("create", "CreateNetworkInterface", nil)); err != nil {
				return nil, nil, err
			}
			var nodes []*fleet.Node
			for _, name := range m.names[round*troubled : (round+1)*troubled] {
				nodes = append(nodes, m.agents.Node(name))
			}
			return nil, all([]func(){func() { m.cloud.RemoveFault("create") }, m.want(ctx, l, "create", nodes...)}), nil
		}},
		{"describe", func(context.Context, int) (func(*fleet.Node) bool, func(), error) {
			if err := m.cloud.AddFaults(hang("describe", "DescribeVSwitches", nil)); err != nil {
				return nil, nil, err
			}
			return nil, func() { m.cloud.RemoveFault("describe") }, nil
		}},
	}
}

// isolation measures the other nodes' waiting times during a failure, alternating with a period
// without failures.
func (m *measured) isolation(ctx context.Context, p *controller, l *load, list []trouble, rounds int, d time.Duration) error {
	// A vSwitch stays parked for a while after it is no longer full.
	var earlier func(*fleet.Node) bool
	for round := range rounds {
		order := append([]trouble{{name: "none"}}, list...)
		if round%2 == 1 {
			slices.Reverse(order)
		}
		for _, tr := range order {
			var concerned func(*fleet.Node) bool
			end := func() {}
			before := m.cloud.calls()
			if tr.begin != nil {
				var err error
				if concerned, end, err = tr.begin(ctx, round); err != nil {
					return fmt.Errorf("make trouble with %s: %w", tr.name, err)
				}
			}
			limited, cancel := context.WithTimeoutCause(ctx, d+3*time.Minute, errors.New("not in three minutes"))
			was := earlier
			w, pods, err := l.run(limited, d, func(n *fleet.Node) bool {
				return concerned != nil && concerned(n) || was != nil && was(n)
			})
			earlier = concerned
			cancel()
			calls := m.cloud.calls().since(before)
			end()
			if err != nil {
				// A pod that waits for minutes is what this test looks for: the result is
				// recorded and the test continues.
				m.note("trouble with %s, round %d: %v", tr.name, round+1, err)
				w.of = append(w.of, slices.Repeat([]time.Duration{3 * time.Minute}, pods-w.count())...)
			}
			if err := p.alive(); err != nil {
				return err
			}
			m.figure(round, "p99_"+tr.name, w.quantile(0.99))
			m.progress("trouble with %s, round %d of %d: %d of %d other pods waited, p50 %.2f s, p99 %.2f s",
				tr.name, round+1, rounds, pods-w.atOnce, pods, w.quantile(0.5), w.quantile(0.99))
			m.progress("calls: %s; slowest: %s", calls, w.slowest(6))
			if err := m.settle(ctx); err != nil {
				m.note("after trouble with %s, round %d: %v", tr.name, round+1, err)
			}
		}
	}
	for _, tr := range list {
		m.line("p99_"+tr.name, "s", "p99_none", "no trouble", report.Goal{AtMost: 1.1})
	}
	return m.check(ctx)
}
