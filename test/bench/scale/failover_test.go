//go:build bench

package scale

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"terway.dev/terway/test/bench/report"
)

// failover kills the leader, adds waiting pods on a number of nodes, and waits until a second
// controller, which was on standby, has given addresses to all of them.
func (m *measured) failover(ctx context.Context, leader *controller, waiting int) (*controller, error) {
	if err := m.cloud.pace(ctx, 1, m.latency); err != nil {
		return nil, err
	}
	next := m.start(1)
	was, err := m.leader(ctx)
	if err != nil {
		return next, err
	}
	time.Sleep(3 * time.Second) // until it is on standby
	calls := m.cloud.calls()
	killed := time.Now()
	leader.end(syscall.SIGKILL)
	const each = 10
	w := &waits{}
	// The last nodes: their addresses have cooled when the churn reaches them.
	busy := m.names[max(m.spare, len(m.names)-waiting):]
	for _, name := range busy {
		m.agents.Node(name).Add(w.got, named("failover/"+name, each)...)
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
	m.notes = append(m.notes, fmt.Sprintf("%s, failover: calls until the last pod had its address: %s.", m.name, did))
	m.progress("failover: the first address %.1f s, the last %.1f s after that", first.Sub(leads).Seconds(), last.Sub(leads).Seconds())
	for _, name := range busy {
		m.agents.Node(name).Delete(named("failover/"+name, each)...)
	}
	return next, m.check(ctx)
}
