package nodenetwork

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/cloud"
)

// counters are the reconciler's metrics. No label contains a node's name: the number of series must
// not grow with the cluster.
type counters struct {
	actions     *prometheus.CounterVec
	differences prometheus.Counter
	orphans     *prometheus.GaugeVec
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
			Name: "terway_controller_orphan_enis", Help: "ENIs with the cluster's tag that no node has, as of the last sweep.",
		}, []string{"state"}),
	}
	if reg != nil {
		unread := prometheus.NewCounter(prometheus.CounterOpts{
			Name: "terway_controller_unread_total", Help: "How often nodes, ENIs and addresses could not be counted because the cache was not available.",
		})
		reg.MustRegister(m.actions, m.differences, m.orphans, unread, &population{client: c, leads: leads, unread: unread})
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
}

var (
	nodesDesc     = prometheus.NewDesc("terway_nodes", "Nodes by state of their network.", []string{"ready"}, nil)
	shortDesc     = prometheus.NewDesc("terway_nodes_short", "Nodes that cannot get the addresses they need, by reason.", []string{"reason"}, nil)
	enisDesc      = prometheus.NewDesc("terway_enis", "ENIs by phase.", []string{"phase"}, nil)
	addressesDesc = prometheus.NewDesc("terway_addresses", "Addresses by use.", []string{"use"}, nil)
	demandDesc    = prometheus.NewDesc("terway_pods_waiting", "Pods that wait for an address.", nil, nil)
)

func (p *population) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{nodesDesc, shortDesc, enisDesc, addressesDesc, demandDesc} {
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
	ready, short, enis, addresses := map[string]int{}, map[string]int{}, map[string]int{}, map[string]int{}
	demand := 0
	for i := range all.Items {
		nn := &all.Items[i]
		if serves(&nn.Status, nn.ControllerConditions()) {
			ready["true"]++
		} else {
			ready["false"]++
		}
		if c := meta.FindStatusCondition(nn.ControllerConditions(), v1alpha1.ConditionAddressesAvailable); c != nil && c.Status == metav1.ConditionFalse {
			short[c.Reason]++
		}
		demand += nn.Status.Demand
		total, releasing := 0, 0
		for _, e := range nn.Spec.ENIs {
			enis[string(e.Phase)]++
			for _, a := range e.Addresses {
				total++
				if a.Releasing {
					releasing++
				}
			}
		}
		addresses["used"] += len(nn.Status.Used)
		addresses["cooling"] += len(nn.Status.Cooling)
		addresses["releasing"] += releasing
		addresses["assigned"] += total
	}
	send := func(d *prometheus.Desc, of map[string]int) {
		for k, v := range of {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), k)
		}
	}
	send(nodesDesc, ready)
	send(shortDesc, short)
	send(enisDesc, enis)
	send(addressesDesc, addresses)
	ch <- prometheus.MustNewConstMetric(demandDesc, prometheus.GaugeValue, float64(demand))
}
