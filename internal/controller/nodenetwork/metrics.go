package nodenetwork

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/cloud"
)

// The states of orphans.
const (
	orphanAvailable = "available"
	orphanAttached  = "attached"
)

// counters are the reconciler's metrics. No label contains a node's name: the number of series must
// not grow with the cluster.
type counters struct {
	actions     *prometheus.CounterVec
	differences prometheus.Counter
	orphans     *prometheus.GaugeVec
	creation    prometheus.Histogram
	attachment  prometheus.Histogram
}

func newCounters(reg prometheus.Registerer, c client.Reader, leads func() bool) *counters {
	m := &counters{
		actions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "terway_controller_actions_total", Help: "What the controller did to ENIs and addresses, by outcome (ok, or the class of the error).",
		}, []string{"action", "outcome"}),
		differences: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "terway_controller_differences_total", Help: "Differences between spec and cloud that were repaired.",
		}),
		orphans: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "terway_controller_orphan_enis", Help: "ENIs with the cluster's tag that no node has, as of the last sweep: available (attached nowhere), attached (to an instance that is no node).",
		}, []string{"state"}),
	}
	// From a fraction of a second to those that never end; an ENI that moves is looked at once a second.
	buckets := []float64{.5, 1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 60, 120, 300, 600}
	m.creation = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "terway_eni_creation_duration_seconds", Help: "From the first request to create an ENI until it can be attached, as polled once a second.", Buckets: buckets,
	})
	m.attachment = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "terway_eni_attachment_duration_seconds", Help: "From the first request to attach a new ENI until it is attached, as polled once a second.", Buckets: buckets,
	})
	if reg != nil {
		unread := prometheus.NewCounter(prometheus.CounterOpts{
			Name: "terway_controller_unread_total", Help: "How often nodes, ENIs and addresses could not be counted because the cache was not available.",
		})
		reg.MustRegister(m.actions, m.differences, m.orphans, m.creation, m.attachment, unread, &population{client: c, leads: leads, unread: unread, reasons: map[string]bool{}})
		m.orphans.WithLabelValues(orphanAvailable)
		m.orphans.WithLabelValues(orphanAttached)
	}
	return m
}

func (m *counters) did(action string, err error) {
	outcome := "ok"
	if err != nil {
		outcome = string(cloud.ClassOf(err))
	}
	m.actions.WithLabelValues(action, outcome).Inc()
}

// population counts nodes, ENIs and addresses in the cache at each scrape. Only the leader does, so
// that a sum over all replicas is right.
type population struct {
	client client.Reader
	leads  func() bool
	unread prometheus.Counter

	mu sync.Mutex
	// reasons are those for which a node was short once: a reason that no node has any more is 0.
	reasons map[string]bool
}

var (
	nodesDesc = prometheus.NewDesc("terway_cluster_nodes", "Nodes, by whether their pods can get a network (true, false).", []string{"ready"}, nil)
	shortDesc = prometheus.NewDesc("terway_cluster_nodes_short",
		"Nodes that cannot get the addresses they need, by the reason of their condition AddressesAvailable (docs/errors.md).", []string{"reason"}, nil)
	enisDesc      = prometheus.NewDesc("terway_cluster_enis", "ENIs for pods, by phase (Creating, Attaching, Ready, Detaching); all phases.", []string{"phase"}, nil)
	enisMaxDesc   = prometheus.NewDesc("terway_cluster_eni_limit", "How many ENIs for pods the instance types of all nodes allow, the primary ones not included.", nil, nil)
	addressesDesc = prometheus.NewDesc("terway_cluster_addresses",
		"Addresses for pods, by state, each in one: used, free, cooling (after use), held (by a load balancer), releasing (on the way back to the cloud), unusable (their ENI is not attached); all states.",
		[]string{"state"}, nil)
	addressesMaxDesc = prometheus.NewDesc("terway_cluster_address_limit", "How many addresses for pods the instance types of all nodes allow.", nil, nil)
	demandDesc       = prometheus.NewDesc("terway_cluster_pods_waiting", "Pods that wait for an address or an exclusive ENI.", nil, nil)
)

func (p *population) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{nodesDesc, shortDesc, enisDesc, enisMaxDesc, addressesDesc, addressesMaxDesc, demandDesc} {
		ch <- d
	}
}

// listTimeout bounds a scrape while the cache is not available yet.
const listTimeout = 2 * time.Second

func (p *population) Collect(ch chan<- prometheus.Metric) {
	if !p.leads() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), listTimeout)
	defer cancel()
	var all v1alpha1.NodeNetworkList
	if err := p.client.List(ctx, &all, client.UnsafeDisableDeepCopy); err != nil {
		p.unread.Inc() // an invalid metric would hide all others
		return
	}
	ready := map[string]int{"true": 0, "false": 0}
	enis := map[string]int{}
	for _, phase := range []v1alpha1.ENIPhase{v1alpha1.ENICreating, v1alpha1.ENIAttaching, v1alpha1.ENIReady, v1alpha1.ENIDetaching} {
		enis[string(phase)] = 0
	}
	addresses := map[string]int{"used": 0, "free": 0, "cooling": 0, "held": 0, "releasing": 0, "unusable": 0}
	short := map[string]int{}
	demand, enisMax, addressesMax := 0, 0, 0
	for i := range all.Items {
		nn := &all.Items[i]
		ready[strconv.FormatBool(serves(&nn.Status, nn.ControllerConditions()))]++
		if c := meta.FindStatusCondition(nn.ControllerConditions(), v1alpha1.ConditionAddressesAvailable); c != nil && c.Status == metav1.ConditionFalse {
			short[c.Reason]++
		}
		demand += nn.Status.Demand + nn.Status.ENIDemand
		enisMax += max(nn.Spec.Limits.ENIs-1, 0)
		addressesMax += nn.Spec.Limits.MaxPods
		for j := range nn.Spec.ENIs {
			enis[string(nn.Spec.ENIs[j].Phase)]++
		}
		countAddresses(nn, addresses)
	}
	p.mu.Lock()
	for reason := range short {
		p.reasons[reason] = true
	}
	for reason := range p.reasons {
		short[reason] += 0
	}
	p.mu.Unlock()
	send := func(d *prometheus.Desc, of map[string]int) {
		for k, v := range of {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), k)
		}
	}
	send(nodesDesc, ready)
	send(shortDesc, short)
	send(enisDesc, enis)
	send(addressesDesc, addresses)
	for d, n := range map[*prometheus.Desc]int{demandDesc: demand, enisMaxDesc: enisMax, addressesMaxDesc: addressesMax} {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n))
	}
}

// countAddresses adds a node's addresses to their states, in the order in which the agent decides (pool.Count).
func countAddresses(nn *v1alpha1.NodeNetwork, states map[string]int) {
	reported := make(map[string]string, len(nn.Status.Cooling)+len(nn.Status.Used))
	for _, a := range nn.Status.Cooling {
		reported[a] = "cooling"
	}
	for _, u := range nn.Status.Used {
		reported[u.Address] = "used"
	}
	states["used"] += len(nn.Status.Used)
	for i := range nn.Spec.ENIs {
		e := &nn.Spec.ENIs[i]
		for _, a := range e.Addresses {
			switch state := reported[a.Address]; {
			case state == "used": // counted already: pods may also have addresses that are on no ENI any more
			case a.Releasing, a.Unassigning, e.Phase == v1alpha1.ENIDetaching:
				states["releasing"]++
			case state == "cooling":
				states["cooling"]++
			case a.Held:
				states["held"]++
			case e.Phase != v1alpha1.ENIReady:
				states["unusable"]++
			default:
				states["free"]++
			}
		}
	}
}

// freeAddresses tells of the free addresses of the configured vSwitches, of which there are few. Only the leader does:
// the others know nothing of them.
type freeAddresses struct{ *Reconciler }

var (
	freeDesc = prometheus.NewDesc("terway_vswitch_free_addresses",
		"Free addresses of each configured Pod vSwitch, as read from the cloud at most 30 s before the last scrape that could read them, less what the controller has taken since. No series: not known yet, or it does not exist.",
		[]string{"vswitch", "zone"}, nil)
	sizeDesc = prometheus.NewDesc("terway_vswitch_address_limit", "How many addresses each configured Pod vSwitch has in all, used and free, without those that the cloud reserves.", []string{"vswitch", "zone"}, nil)
)

func (f freeAddresses) Describe(ch chan<- *prometheus.Desc) {
	ch <- freeDesc
	ch <- sizeDesc
}

func (f freeAddresses) Collect(ch chan<- prometheus.Metric) {
	if !f.Leads() {
		return
	}
	for _, s := range f.vswitches.configured(f.Config.Get().VSwitches) {
		ch <- prometheus.MustNewConstMetric(freeDesc, prometheus.GaugeValue, float64(s.Available), s.ID, s.Zone)
		ch <- prometheus.MustNewConstMetric(sizeDesc, prometheus.GaugeValue, float64(uint64(1)<<(32-s.CIDR.Bits())-reserved), s.ID, s.Zone)
	}
}
