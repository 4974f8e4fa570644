package podroute

import (
	"fmt"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// The metrics count what exists, and no series has a node's name.
func TestMetrics(t *testing.T) {
	g := newRig(t)
	reg := prometheus.NewPedanticRegistry()
	g.r.metrics = newGauges(reg)
	other := g.instance()
	g.foreign("172.20.99.0/24", other, "theirs")
	for i := range 3 {
		g.join(fmt.Sprintf("n%d", i), i)
	}
	g.register("twin", other, blockN(1))
	g.run(minute)
	g.leave("n2")
	g.run(minute)
	families, err := reg.Gather()
	g.Must(err)
	got := map[string]float64{}
	table := g.tables()[0].RouteTableId
	for _, f := range families {
		for _, m := range f.Metric {
			key := f.GetName()
			for _, l := range m.Label {
				key += "/" + strings.ReplaceAll(l.GetValue(), table, "T")
			}
			got[key] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
			if strings.Contains(key, "n1") || strings.Contains(key, "twin") {
				t.Errorf("series %s grows with the cluster", key)
			}
		}
	}
	for key, want := range map[string]float64{
		"terway_route_entries/wanted/T": 2, "terway_route_entries/own/T": 2, "terway_route_entries/right/T": 2, "terway_route_entries/foreign/T": 1,
		"terway_route_entries/custom/T": 3, "terway_route_entries/planned/T": 3, "terway_route_entries/moving/T": 0, "terway_route_quota": 200,
		"terway_route_nodes/RouteCreated": 2, "terway_route_nodes/PodCIDRClaimed": 1,
		"terway_route_calls_total/create/ok": 1, "terway_route_calls_total/delete/ok": 1, "terway_route_changes_total/create/ok": 3, "terway_route_changes_total/delete/ok": 1,
	} {
		if v, ok := got[key]; !ok || v != want {
			t.Errorf("%s is %v, want %v; all: %v", key, v, want, got)
		}
	}
}
