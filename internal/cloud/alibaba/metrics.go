package alibaba

import (
	"errors"
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"terway.dev/terway/internal/cloud"
)

// metrics only use labels with few possible values: actions, classes and reasons.
type metrics struct {
	duration *prometheus.HistogramVec
	wait     *prometheus.HistogramVec
	retries  *prometheus.CounterVec
	errors   *prometheus.CounterVec
	rate     *prometheus.GaugeVec
	deferred *prometheus.CounterVec
	expiry   prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "terway_cloud_request_duration_seconds",
			Help:    "Duration of one attempt of a cloud call, by action and result (ok or the error's class).",
			Buckets: prometheus.ExponentialBuckets(0.01, 2, 12),
		}, []string{"action", "result"}),
		wait: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "terway_cloud_wait_duration_seconds",
			Help:    "Time that a call waited for the client's own rate limit.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 9),
		}, []string{"action"}),
		retries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "terway_cloud_retries_total",
			Help: "Retries of calls, by action and the class of the error.",
		}, []string{"action", "class"}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "terway_cloud_errors_total",
			Help: "Failed calls, by action and reason (docs/errors.md).",
		}, []string{"action", "reason"}),
		rate: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "terway_cloud_rate_limit",
			Help: "Current rate limit of the client in calls per second, by action; it falls when the cloud throttles.",
		}, []string{"action"}),
	}
	m.deferred = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "terway_cloud_deferred_total",
		Help: "Calls that were deferred because too many calls were queued.",
	}, []string{"action"})
	m.expiry = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "terway_cloud_credential_expiry_timestamp_seconds",
		Help: "When the credential of the last call expires; it is renewed five minutes before, or after four fifths of its life. +Inf: it does not expire, or there was no call.",
	})
	m.expiry.Set(math.Inf(1))
	if reg == nil {
		return m, nil
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.duration, m.wait, m.retries, m.errors, m.rate, m.deferred, m.expiry} {
		errs = append(errs, reg.Register(c))
	}
	return m, errors.Join(errs...)
}

// signed records with which credential a request is sent.
func (m *metrics) signed(c Credential) {
	if c.Expires.IsZero() {
		m.expiry.Set(math.Inf(1))
		return
	}
	m.expiry.Set(float64(c.Expires.UnixMilli()) / 1000)
}

// attempt records one HTTP request.
func (m *metrics) attempt(action string, took time.Duration, err error) {
	result := "ok"
	if err != nil {
		result = string(cloud.ClassOf(err))
		m.errors.WithLabelValues(action, cloud.Explain(err).Reason).Inc()
	}
	m.duration.WithLabelValues(action, result).Observe(took.Seconds())
}
