package ebpf

import (
	"testing"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/exclusive"
	"terway.dev/terway/internal/datapath/ipvlan"
	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/object"
)

// Programs of policies on the node's end of a pair are for pods all of whose packets pass there.
func TestPassesHost(t *testing.T) {
	for _, c := range []struct {
		kind  node.Kind
		inner string
		want  bool
	}{
		{node.Plain{KindName: claims.Route}, "eth0", true},
		{New(4096), "eth0", false},
		{ipvlan.New(4096), "eth0", false},
		{exclusive.New(), claims.ExclusiveIfName, false},
	} {
		p := &node.Pod{
			Pod:  datapath.Pod{IfName: "eth0"},
			Host: object.Device{Name: claims.HostIfName("sandbox", "eth0")}, Inner: object.Device{Name: c.inner, InPod: true},
		}
		if got := passesHost(p, c.kind.Points(p)); got != c.want {
			t.Errorf("kind %s: %t, want %t", c.kind.Name(), got, c.want)
		}
	}
}
