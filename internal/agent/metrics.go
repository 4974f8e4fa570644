package agent

import (
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/prometheus/client_golang/prometheus"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/agent/journal"
	"terway.dev/terway/internal/agent/request"
	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/claims"
)

// Metrics are the agent's measurements. A nil *Metrics measures nothing.
type Metrics struct {
	calls   *prometheus.CounterVec
	took    *prometheus.HistogramVec
	wait    prometheus.Histogram
	sync    *prometheus.HistogramVec
	repairs *prometheus.CounterVec
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
			Name: "terway_cni_call_duration_seconds", Help: "How long CNI calls took in the agent, by verb.", Buckets: seconds,
		}, []string{"verb"}),
		wait: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "terway_address_wait_duration_seconds", Help: "How long pods waited for an address when none was free.", Buckets: seconds,
		}),
		sync: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "terway_datapath_sync_duration_seconds", Help: "How long it took to compare the kernel with the desired state, by result.", Buckets: seconds,
		}, []string{"result"}),
		repairs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "terway_datapath_repairs_total",
			Help: "What was missing or wrong in the kernel and was corrected, by the datapath whose it is and by piece: routing, nftables, firewall (other programs' rules), enis (programs and devices on ENIs), pods (all that belongs to one pod), remains (of deleted pods), or a feature (bandwidth limits, network priorities, network policies).",
		}, []string{"datapath", "piece"}),
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

func (m *Metrics) synced(d time.Duration, repairs []datapath.Repair, err error) {
	if m != nil {
		m.sync.WithLabelValues(outcome(err)).Observe(d.Seconds())
		for _, r := range repairs {
			m.repairs.WithLabelValues(r.Kind, r.Piece).Inc()
		}
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

// Collector returns a collector that reads the agent's state when it is scraped.
func (a *Agent) Collector() prometheus.Collector { return stateCollector{a} }

// ofPod are the labels of metrics of one direction of a pod, ingress or egress.
var ofPod = []string{"namespace", "pod", "direction"}

var (
	addressesDesc = prometheus.NewDesc("terway_node_addresses",
		"Addresses of the node for pods, by state, each in one: used, free, cooling (after use), held (by a load balancer), releasing (on the way back to the cloud), unusable (their ENI is not attached); all states.",
		[]string{"state"}, nil)
	addressesMaxDesc = prometheus.NewDesc("terway_node_address_limit", "How many addresses for pods the instance type allows; 0 while that is unknown.", nil, nil)
	enisDesc         = prometheus.NewDesc("terway_node_enis", "ENIs of the node for pods, by phase (Creating, Attaching, Ready, Detaching); all phases.", []string{"phase"}, nil)
	enisMaxDesc      = prometheus.NewDesc("terway_node_eni_limit", "How many ENIs for pods the instance type allows, the primary one not included; 0 while that is unknown.", nil, nil)
	waitingDesc      = prometheus.NewDesc("terway_node_pods_waiting", "Pods that wait for an address or an exclusive ENI, or did so less than a minute ago and are tried again.", nil, nil)
	readyDesc        = prometheus.NewDesc("terway_node_ready", "1 if pods can be wired, else 0.", nil, nil)
	datapathDesc     = prometheus.NewDesc("terway_node_datapath_info", "1 for the datapath of new pods, 0 for the others that the kernel supports.", []string{"datapath"}, nil)
	podsDesc         = prometheus.NewDesc("terway_node_pods", "Pods that the node has wired, by datapath; all datapaths that the kernel supports.", []string{"datapath"}, nil)
	limitDesc        = prometheus.NewDesc("terway_pod_bandwidth_limit_bits_per_second", "Limits of pods' bandwidth, by direction.", ofPod, nil)
	passedDesc       = prometheus.NewDesc("terway_pod_bandwidth_bytes_total", "Bytes that have passed the queue of a limit, with Ethernet headers.", ofPod, nil)
	droppedDesc      = prometheus.NewDesc("terway_pod_bandwidth_dropped_packets_total", "Packets that were dropped because the queue of a limit was full.", ofPod, nil)
)

type stateCollector struct{ agent *Agent }

func (c stateCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{addressesDesc, addressesMaxDesc, enisDesc, enisMaxDesc, waitingDesc, readyDesc, datapathDesc, podsDesc, limitDesc, passedDesc, droppedDesc} {
		ch <- d
	}
}

func (c stateCollector) Collect(ch chan<- prometheus.Metric) {
	a := c.agent
	a.mu.Lock()
	n, ready := a.pool.Count(a.Now()), 0
	addresses, enis := a.demandLocked()
	if a.notOK == "" {
		ready = 1
	}
	most, mostENIs := a.desired.Limit, a.desired.ENILimit
	phases := map[v1alpha1.ENIPhase]int{v1alpha1.ENICreating: 0, v1alpha1.ENIAttaching: 0, v1alpha1.ENIReady: 0, v1alpha1.ENIDetaching: 0}
	for phase := range phases {
		phases[phase] = a.desired.Phases[phase]
	}
	chosen, pods := map[string]int{}, map[string]int{}
	for _, kind := range slices.Concat(a.Datapath.Choices(), []string{claims.Exclusive}) {
		chosen[kind], pods[kind] = 0, 0
	}
	if kind := a.datapathLocked(); kind != "" {
		chosen[kind] = 1
	}
	for _, e := range a.entries {
		if e.State == journal.Ready {
			pods[e.Datapath]++
		}
	}
	a.mu.Unlock()
	gauge := func(d *prometheus.Desc, v int, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	for state, count := range map[string]int{
		"used": n.Used, "free": n.Free, "cooling": n.Cooling, "held": n.Held, "releasing": n.Releasing, "unusable": n.Unusable,
	} {
		gauge(addressesDesc, count, state)
	}
	for phase, count := range phases {
		gauge(enisDesc, count, string(phase))
	}
	for kind, count := range chosen {
		gauge(datapathDesc, count, kind)
	}
	for kind, count := range pods {
		gauge(podsDesc, count, kind)
	}
	gauge(addressesMaxDesc, most)
	gauge(enisMaxDesc, mostENIs)
	gauge(waitingDesc, addresses+enis)
	gauge(readyDesc, ready)
	c.collectLimits(ch)
}

// collectLimits tells of the queues of pods with a bandwidth limit.
func (c stateCollector) collectLimits(ch chan<- prometheus.Metric) {
	for _, q := range c.agent.queues() {
		direction := "ingress"
		if q.fromPod {
			direction = "egress"
		}
		ch <- prometheus.MustNewConstMetric(limitDesc, prometheus.GaugeValue, float64(q.limit), q.pod.Namespace, q.pod.Name, direction)
		if q.counts != nil {
			ch <- prometheus.MustNewConstMetric(passedDesc, prometheus.CounterValue, float64(q.counts.Bytes), q.pod.Namespace, q.pod.Name, direction)
			ch <- prometheus.MustNewConstMetric(droppedDesc, prometheus.CounterValue, float64(q.counts.Drops), q.pod.Namespace, q.pod.Name, direction)
		}
	}
}
