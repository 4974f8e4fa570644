package nodenetwork

import (
	"fmt"
	"testing"
	"time"

	"terway.dev/terway/internal/config"
	"terway.dev/terway/internal/vpcsim"
	"terway.dev/terway/internal/vpcsim/faults"
)

// Many nodes choose the vSwitch of their ENI before the first of them has its addresses, and fill
// their ENIs later. An ENI cannot leave its vSwitch, so vSwitches must be chosen by how many
// addresses the ENIs can have, not by how many they have: here both have just enough.
func TestENIsAreSpreadByWhatTheyCanHold(t *testing.T) {
	const nodes, perENI = 24, 10 // an ecs.g6.xlarge has 10 addresses for each of its ENIs
	g := newRig(t, []string{"192.168.32.0/25", "192.168.33.0/25"}, func(c *config.Config, _ *vpcsim.Options) { c.MinPoolSize, c.MaxPoolSize = 0, 0 })
	g.Fault(faults.Rule{Name: "not yet", Action: "CreateNetworkInterface", Error: &faults.Error{Code: "ServiceUnavailable", Status: 503}})
	var names []string
	for i := range nodes {
		name := fmt.Sprintf("n%02d", i)
		names = append(names, name)
		g.addNode(name, "ecs.g6.xlarge")
		g.addPods(name, 1)
		g.settle(name, minute)
	}
	in := map[string]int{}
	for _, name := range names {
		enis := g.nn(name).Spec.ENIs
		if len(enis) != 1 {
			t.Fatalf("%s has %d ENIs recorded, want 1", name, len(enis))
		}
		in[enis[0].VSwitchID]++
	}
	if in[g.vswitch[1]] != nodes/2 || in[g.vswitch[2]] != nodes/2 {
		t.Errorf("ENIs by vSwitch %v, want %d in each", in, nodes/2)
	}
	g.Sim.RemoveFault("not yet")
	g.Clock.Pass(10 * time.Minute)
	for _, name := range names {
		g.settle(name, 10*minute)
	}
	for _, name := range names {
		g.addPods(name, perENI-1)
		g.settle(name, 10*minute)
		if nn := g.nn(name); nn.Status.Demand > 0 || len(nn.Spec.ENIs) > 1 {
			t.Errorf("%s: %d pods wait, %d ENIs; want all on one", name, nn.Status.Demand, len(nn.Spec.ENIs))
		}
	}
	// A full ENI, and one that is gone, promises nothing.
	v := g.r.vswitches
	if len(v.promised) > 0 || len(v.promises) > 0 {
		t.Errorf("promised %v by %v, want nothing", v.promised, v.promises)
	}
}
