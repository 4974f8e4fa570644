package nodenetwork

import (
	"context"
	"maps"
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
	for key, want := range map[string]float64{
		"terway_cluster_nodes/true": 1, "terway_cluster_nodes/false": 0, "terway_cluster_enis/Ready": 1, "terway_cluster_enis/Detaching": 0,
		"terway_cluster_eni_limit": 3, "terway_cluster_address_limit": 30, "terway_cluster_pods_waiting": 0,
		"terway_cluster_addresses/used": 1, "terway_cluster_addresses/free": 2, "terway_cluster_addresses/releasing": 0,
	} {
		if v, ok := got[key]; !ok || v != want {
			t.Errorf("%s is %v, want %v; all: %v", key, v, want, got)
		}
	}
	// The last report of a dead agent makes no node ready.
	nn := g.nn("n1")
	meta.SetStatusCondition(&nn.Status.ControllerConditions, metav1.Condition{Type: v1alpha1.ConditionAgentAlive, Status: metav1.ConditionFalse, Reason: "LeaseExpired"})
	g.Must(g.kube.Status().Update(context.Background(), nn))
	if got := counts(); got["terway_cluster_nodes/false"] != 1 || got["terway_cluster_nodes/true"] != 0 {
		t.Errorf("with a silent agent: %v", got)
	}
	// A node that is short no more leaves a 0.
	short := func(status metav1.ConditionStatus) {
		nn := g.nn("n1")
		meta.SetStatusCondition(&nn.Status.ControllerConditions, metav1.Condition{Type: v1alpha1.ConditionAddressesAvailable, Status: status, Reason: "VSwitchFull"})
		g.Must(g.kube.Status().Update(context.Background(), nn))
	}
	short(metav1.ConditionFalse)
	if got := counts(); got["terway_cluster_nodes_short/VSwitchFull"] != 1 {
		t.Errorf("a node in a full vSwitch: %v", got)
	}
	short(metav1.ConditionTrue)
	if v, ok := counts()["terway_cluster_nodes_short/VSwitchFull"]; !ok || v != 0 {
		t.Errorf("nodes short after there are none: %v, exists %v", v, ok)
	}
	leads = false
	families, err := reg.Gather()
	g.Must(err)
	for _, f := range families {
		if strings.HasPrefix(f.GetName(), "terway_cluster_") {
			t.Errorf("one that does not lead counts %s too", f.GetName())
		}
	}
}

// Each address is in one state.
func TestAddressStates(t *testing.T) {
	nn := &v1alpha1.NodeNetwork{
		Spec: v1alpha1.NodeNetworkSpec{ENIs: []v1alpha1.ENI{
			{Phase: v1alpha1.ENIReady, Addresses: []v1alpha1.Address{
				{Address: "10.0.0.1"}, {Address: "10.0.0.2", Held: true}, {Address: "10.0.0.3", Releasing: true},
				{Address: "10.0.0.4"}, {Address: "10.0.0.5", Held: true}, {Address: "10.0.0.6"},
			}},
			{Phase: v1alpha1.ENIAttaching, Addresses: []v1alpha1.Address{{Address: "10.0.0.7"}}},
			{Phase: v1alpha1.ENIDetaching, Addresses: []v1alpha1.Address{{Address: "10.0.0.8"}}},
		}},
		Status: v1alpha1.NodeNetworkStatus{
			Used:    []v1alpha1.UsedAddress{{Address: "10.0.0.1"}, {Address: "10.0.0.2"}, {Address: "10.0.0.9"}},
			Cooling: []string{"10.0.0.3", "10.0.0.4"},
		},
	}
	got := map[string]int{}
	countAddresses(nn, got)
	want := map[string]int{"used": 3, "releasing": 2, "cooling": 1, "held": 1, "free": 1, "unusable": 1}
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// Durations are those of the cloud's work, and a vSwitch's free addresses those of the cloud less what was taken.
func TestENIDurationsAndFreeAddresses(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/24"})
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(freeAddresses{g.r}, g.r.metrics.creation, g.r.metrics.attachment)
	g.addNode("n1", "ecs.g6.2xlarge")
	g.startPods("n1", 1)
	g.settle("n1", minute)
	families, err := reg.Gather()
	g.Must(err)
	seen := 0
	for _, f := range families {
		m := f.Metric[0]
		seen++
		switch f.GetName() {
		case "terway_eni_creation_duration_seconds", "terway_eni_attachment_duration_seconds":
			took := map[bool]float64{true: 1, false: 3}[f.GetName() == "terway_eni_creation_duration_seconds"] // the rig's timing
			if h := m.GetHistogram(); h.GetSampleCount() != 1 || h.GetSampleSum() < took || h.GetSampleSum() > took+2 {
				t.Errorf("%s: %v, want one of %v s, polled once a second", f.GetName(), h, took)
			}
		case "terway_vswitch_free_addresses":
			if got := m.GetGauge().GetValue(); got != 252-3 || m.Label[0].GetValue() != g.vswitch[1] || m.Label[1].GetValue() != zone {
				t.Errorf("free addresses: %v", m)
			}
		case "terway_vswitch_address_limit":
			if got := m.GetGauge().GetValue(); got != 252 {
				t.Errorf("addresses of a /24: %v", got)
			}
		default:
			t.Errorf("unexpected %s", f.GetName())
		}
	}
	if seen != 4 {
		t.Errorf("%d metrics, want 4", seen)
	}
}
