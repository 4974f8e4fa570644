package nodenetwork

import (
	"context"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/api/v1alpha1"
)

// The metrics count what exists, and no series has a node's name.
func TestMetrics(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/24"})
	g.addNode("n1", "ecs.g6.2xlarge")
	g.startPods("n1", 1)
	g.settle("n1", minute)
	leads := true
	reg := prometheus.NewPedanticRegistry()
	newCounters(reg, g.kube, func() bool { return leads })
	counts := func() map[string]float64 {
		families, err := reg.Gather()
		g.Must(err)
		got := map[string]float64{}
		for _, f := range families {
			for _, m := range f.Metric {
				key := f.GetName()
				for _, l := range m.Label {
					key += "/" + l.GetValue()
				}
				got[key] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
				if strings.Contains(key, "n1") {
					t.Errorf("series %s grows with the cluster", key)
				}
			}
		}
		return got
	}
	got := counts()
	for key, want := range map[string]float64{"terway_nodes/true": 1, "terway_enis/Ready": 1, "terway_addresses/assigned": 3, "terway_addresses/used": 1, "terway_pods_waiting": 0} {
		if v, ok := got[key]; !ok || v != want {
			t.Errorf("%s is %v, want %v; all: %v", key, v, want, got)
		}
	}
	// The last report of a dead agent makes no node ready.
	nn := g.nn("n1")
	meta.SetStatusCondition(&nn.Status.ControllerConditions, metav1.Condition{Type: v1alpha1.ConditionAgentAlive, Status: metav1.ConditionFalse, Reason: "LeaseExpired"})
	g.Must(g.kube.Status().Update(context.Background(), nn))
	if got := counts(); got["terway_nodes/false"] != 1 || got["terway_nodes/true"] != 0 {
		t.Errorf("with a silent agent: %v", got)
	}
	leads = false
	families, err := reg.Gather()
	g.Must(err)
	for _, f := range families {
		if strings.HasPrefix(f.GetName(), "terway_nodes") {
			t.Errorf("one that does not lead counts %s too", f.GetName())
		}
	}
}
