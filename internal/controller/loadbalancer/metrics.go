package loadbalancer

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	failed prometheus.Counter
	drain  prometheus.Histogram
	added  prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		failed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "terway_loadbalancer_failed_syncs_total",
			Help: "Reconciles of Services in which something failed; the Service's events say what.",
		}),
		drain: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "terway_loadbalancer_drain_duration_seconds",
			Help:    "Time from the beginning of a pod's termination until its weight in a server group is 0.",
			Buckets: prometheus.ExponentialBuckets(0.25, 2, 10),
		}),
		added: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "terway_loadbalancer_backend_change_duration_seconds",
			Help:    "Duration of one call that changes the backends of a server group, until it is in force.",
			Buckets: prometheus.ExponentialBuckets(0.025, 2, 12),
		}),
	}
	if reg != nil {
		reg.MustRegister(m.failed, m.drain, m.added)
	}
	return m
}
