package agent

import (
	"errors"
	"strconv"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/prometheus/client_golang/prometheus"

	"terway.dev/terway/internal/agent/request"
)

// Metrics are the agent's measurements. A nil *Metrics measures nothing.
type Metrics struct {
	calls   *prometheus.CounterVec
	took    *prometheus.HistogramVec
	wait    prometheus.Histogram
	sync    *prometheus.HistogramVec
	repairs prometheus.Counter
	reports *prometheus.CounterVec
}

// seconds are bucket bounds, from a warm ADD (milliseconds) to the kubelet's timeout.
var seconds = []float64{.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 20, 30, 60, 120}

// NewMetrics makes the measurements and registers them.
func NewMetrics(r prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "terway_cni_calls_total", Help: "CNI calls, by verb and CNI error code (0: success).",
		}, []string{"verb", "code"}),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "terway_cni_call_seconds", Help: "How long CNI calls took in the agent, by verb.", Buckets: seconds,
		}, []string{"verb"}),
		wait: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "terway_address_wait_seconds", Help: "How long pods waited for an address when none was free.", Buckets: seconds,
		}),
		sync: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "terway_datapath_sync_seconds", Help: "How long it took to compare the kernel with the desired state, by result.", Buckets: seconds,
		}, []string{"result"}),
		repairs: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "terway_datapath_repairs_total", Help: "Pieces of the datapath that were missing or wrong and were repaired.",
		}),
		reports: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "terway_status_reports_total", Help: "Writes of NodeNetwork's status, by result.",
		}, []string{"result"}),
	}
	for _, c := range []prometheus.Collector{m.calls, m.took, m.wait, m.sync, m.repairs, m.reports} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *Metrics) called(v request.Verb, took time.Duration, err error) {
	if m == nil {
		return
	}
	code := uint(0)
	if err != nil {
		code = types.ErrInternal
		var e *types.Error
		if errors.As(err, &e) {
			code = e.Code
		}
	}
	m.calls.WithLabelValues(string(v), strconv.FormatUint(uint64(code), 10)).Inc()
	m.took.WithLabelValues(string(v)).Observe(took.Seconds())
}

func (m *Metrics) waited(d time.Duration) {
	if m != nil {
		m.wait.Observe(d.Seconds())
	}
}

func (m *Metrics) synced(d time.Duration, repairs int, err error) {
	if m != nil {
		m.sync.WithLabelValues(outcome(err)).Observe(d.Seconds())
		m.repairs.Add(float64(repairs))
	}
}

func (m *Metrics) reported(err error) {
	if m != nil {
		m.reports.WithLabelValues(outcome(err)).Inc()
	}
}

func outcome(err error) string {
	if err != nil {
		return "error"
	}
	return "ok"
}

// Collector returns a collector that reads the pool when it is scraped.
func (a *Agent) Collector() prometheus.Collector {
	return &poolCollector{
		agent:     a,
		addresses: prometheus.NewDesc("terway_addresses", "Addresses of the node, by state.", []string{"state"}, nil),
		waiting:   prometheus.NewDesc("terway_waiting_pods", "Pods that wait for an address, or did so less than a minute ago and are tried again.", nil, nil),
		ready:     prometheus.NewDesc("terway_ready", "1 if pods can be wired.", nil, nil),
		limit:     prometheus.NewDesc("terway_pod_bandwidth_limit_bits_per_second", "Limits of pods' bandwidth, by direction.", ofPod, nil),
		passed:    prometheus.NewDesc("terway_pod_bandwidth_bytes_total", "Bytes that have passed the queue of a limit, with Ethernet headers.", ofPod, nil),
		dropped:   prometheus.NewDesc("terway_pod_bandwidth_dropped_packets_total", "Packets that were dropped because the queue of a limit was full.", ofPod, nil),
	}
}

// ofPod are the labels of metrics of one direction of a pod, ingress or egress.
var ofPod = []string{"namespace", "pod", "direction"}

type poolCollector struct {
	agent                     *Agent
	addresses, waiting, ready *prometheus.Desc
	limit, passed, dropped    *prometheus.Desc
}

func (c *poolCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.addresses
	ch <- c.waiting
	ch <- c.ready
	ch <- c.limit
	ch <- c.passed
	ch <- c.dropped
}

func (c *poolCollector) Collect(ch chan<- prometheus.Metric) {
	a := c.agent
	a.mu.Lock()
	n, ready := a.pool.Count(a.Now()), 0.0
	addresses, enis := a.demandLocked()
	if a.notOK == "" {
		ready = 1
	}
	a.mu.Unlock()
	for state, count := range map[string]int{
		"used": n.Used, "free": n.Free, "cooling": n.Cooling, "held": n.Held, "releasing": n.Releasing, "unusable": n.Unusable,
	} {
		ch <- prometheus.MustNewConstMetric(c.addresses, prometheus.GaugeValue, float64(count), state)
	}
	ch <- prometheus.MustNewConstMetric(c.waiting, prometheus.GaugeValue, float64(addresses+enis))
	ch <- prometheus.MustNewConstMetric(c.ready, prometheus.GaugeValue, ready)
	c.collectLimits(ch)
}

// collectLimits tells of the queues of pods with a bandwidth limit.
func (c *poolCollector) collectLimits(ch chan<- prometheus.Metric) {
	for _, q := range c.agent.queues() {
		direction := "ingress"
		if q.fromPod {
			direction = "egress"
		}
		ch <- prometheus.MustNewConstMetric(c.limit, prometheus.GaugeValue, float64(q.limit), q.pod.Namespace, q.pod.Name, direction)
		if q.counts != nil {
			ch <- prometheus.MustNewConstMetric(c.passed, prometheus.CounterValue, float64(q.counts.Bytes), q.pod.Namespace, q.pod.Name, direction)
			ch <- prometheus.MustNewConstMetric(c.dropped, prometheus.CounterValue, float64(q.counts.Drops), q.pod.Namespace, q.pod.Name, direction)
		}
	}
}
