package policyhub

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics have no label whose values grow with the cluster.
type metrics struct {
	settle *prometheus.HistogramVec
	apply  prometheus.Histogram
	errors prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, s *Server) *metrics {
	// The goal is 20 ms at the median and 150 ms at the 99th percentile.
	buckets := []float64{.001, .0025, .005, .01, .02, .04, .08, .15, .3, .6, 1.2, 2.5, 5, 10, 30}
	m := &metrics{
		settle: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "terway_policy_hub_settle_duration_seconds", Help: "From a change that the hub was told to the answer of a node that has it: change, or connect for all of a node's part when it connects.",
			Buckets: buckets,
		}, []string{"after"}),
		apply: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "terway_policy_hub_apply_duration_seconds", Help: "How long the hub took to compile what had changed since the time before.", Buckets: buckets,
		}),
		errors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "terway_policy_hub_apply_errors_total", Help: "Changes that the hub could not take: a fault of the program, after which this replica serves no node.",
		}),
	}
	counter := func(name, help string, value func() uint64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return float64(value()) })
	}
	gauge := func(name, help string, value func() int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(value()) })
	}
	stats := s.hub.Stats
	reg.MustRegister(m.settle, m.apply, m.errors,
		gauge("terway_policy_hub_nodes", "Nodes that follow this replica.", func() int { return stats().Nodes }),
		gauge("terway_policy_hub_synced", "1 when this replica has read the cluster, and nodes can follow it.", func() int {
			if s.Ready(nil) != nil {
				return 0
			}
			return 1
		}),
		gauge("terway_policy_hub_closed", "Rule sets beyond the budget, whose pods get no new connections.", func() int { return len(s.hub.Errors()) }),
		gauge("terway_policy_hub_reports", "Objects of which something is not enforced as it is written.", s.reports.count),
		counter("terway_policy_hub_refused_tokens_total", "Streams that were refused because of their token.", func() uint64 { return stats().Refused }),
		counter("terway_policy_hub_revisions_total", "Revisions that were sent to nodes.", func() uint64 { return stats().Sent }),
		counter("terway_policy_hub_refused_revisions_total", "Revisions that nodes could not do.", func() uint64 { return stats().Nacked }),
		counter("terway_policy_hub_resources_total", "Resources that were sent to nodes.", func() uint64 { return stats().Resources }),
		counter("terway_policy_hub_bytes_total", "Bytes of resources that were sent to nodes.", func() uint64 { return stats().Bytes }),
		counter("terway_policy_hub_addresses_total", "Addresses of starting pods that nodes told.", func() uint64 { return stats().Addresses }),
		counter("terway_policy_hub_late_addresses_total", "Addresses of starting pods that not all nodes had in time.", func() uint64 { return stats().Late }),
	)
	return m
}

func (m *metrics) settled(took time.Duration, first bool) {
	after := "change"
	if first {
		after = "connect"
	}
	m.settle.WithLabelValues(after).Observe(took.Seconds())
}

func (m *metrics) applied(took time.Duration, err error) {
	m.apply.Observe(took.Seconds())
	if err != nil {
		m.errors.Inc()
	}
}
