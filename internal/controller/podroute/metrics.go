package podroute

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/controller/podroute/entries"
)

// gauges are metrics of the last plan and of the calls so far. No label contains a node's name: the
// number of series must not grow with the cluster.
type gauges struct {
	calls   *prometheus.CounterVec
	changes *prometheus.CounterVec

	mu    sync.Mutex
	plan  entries.Plan
	quota int
	nodes map[string]int
}

var (
	entriesDesc = prometheus.NewDesc("terway_route_entries",
		"Entries of a route table: wanted by nodes, own (with the cluster's mark), right (own and as wanted), foreign (inside the pod CIDR, not own), custom (all that count against the quota), planned (custom after all changes), moving (being created or deleted).",
		[]string{"table", "kind"}, nil)
	quotaDesc = prometheus.NewDesc("terway_route_quota", "How many custom entries a route table may have, as configured.", nil, nil)
	nodesDesc = prometheus.NewDesc("terway_route_nodes", "Nodes by the reason of their condition NetworkUnavailable.", []string{"state"}, nil)
)

func newGauges(reg prometheus.Registerer) *gauges {
	m := &gauges{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "terway_route_calls_total", Help: "Calls that create or delete route entries, by outcome (ok, partial, or the class of the error).",
		}, []string{"action", "outcome"}),
		changes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "terway_route_changes_total", Help: "Route entries that were to be created or deleted, by outcome (ok, or the reason in docs/errors.md).",
		}, []string{"action", "outcome"}),
	}
	if reg != nil {
		reg.MustRegister(m.calls, m.changes, m)
	}
	return m
}

func (m *gauges) called(action string, err error, done int, failures []cloud.RouteFailure) {
	switch {
	case err != nil:
		m.calls.WithLabelValues(action, string(cloud.ClassOf(err))).Inc()
		return
	case len(failures) == 0:
		m.calls.WithLabelValues(action, "ok").Inc()
	case done > 0:
		m.calls.WithLabelValues(action, "partial").Inc()
	default:
		m.calls.WithLabelValues(action, string(cloud.ClassOf(failures[0].Err))).Inc()
	}
	m.changes.WithLabelValues(action, "ok").Add(float64(done))
	for _, f := range failures {
		m.changes.WithLabelValues(action, cloud.Explain(f.Err).Reason).Inc()
	}
}

func (m *gauges) show(p entries.Plan, quota int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.plan, m.quota = p, quota
}

// setNodes sets the number of nodes in each state; a state that no node has any more is 0.
func (m *gauges) setNodes(nodes map[string]int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for state := range m.nodes {
		nodes[state] += 0
	}
	m.nodes = nodes
}

// Describe implements prometheus.Collector.
func (m *gauges) Describe(ch chan<- *prometheus.Desc) {
	ch <- entriesDesc
	ch <- quotaDesc
	ch <- nodesDesc
}

// Collect implements prometheus.Collector.
func (m *gauges) Collect(ch chan<- prometheus.Metric) {
	m.mu.Lock()
	defer m.mu.Unlock()
	send := func(d *prometheus.Desc, n int, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), labels...)
	}
	for _, c := range m.plan.Changes {
		if c.Table == "" {
			continue // no table is known yet
		}
		send(entriesDesc, m.plan.Wanted, c.Table, "wanted")
		send(entriesDesc, c.Own, c.Table, "own")
		send(entriesDesc, c.Right, c.Table, "right")
		send(entriesDesc, len(c.Foreign), c.Table, "foreign")
		send(entriesDesc, c.Custom, c.Table, "custom")
		send(entriesDesc, c.Planned, c.Table, "planned")
		send(entriesDesc, len(c.Moving), c.Table, "moving")
	}
	send(quotaDesc, m.quota)
	for state, n := range m.nodes {
		send(nodesDesc, n, state)
	}
}
