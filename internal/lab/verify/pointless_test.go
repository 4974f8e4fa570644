package verify

import (
	"testing"

	"terway.dev/terway/internal/lab/instruments"
)

// A check is left out only where there is nothing to test: policies are tested on every datapath.
func TestPointless(t *testing.T) {
	for _, c := range []struct {
		check Check
		on    string
		want  bool
	}{
		{Check{}, instruments.Exclusive, false}, {Check{Shared: true}, instruments.Exclusive, true}, {Check{Shared: true}, "ebpf", false},
		{Check{Policy: true}, "ebpf", false}, {Check{Policy: true}, "route", false}, {Check{Policy: true}, instruments.Exclusive, false},
	} {
		e := &Env{Cluster: instruments.Cluster{Runs: []instruments.NodeDatapath{{Node: "node1", Datapath: c.on}}}}
		if why := e.pointless(c.check); (why != "") != c.want {
			t.Errorf("%+v on %s: %q", c.check, c.on, why)
		}
	}
}
