package nodenetwork

import (
	"context"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// held returns the addresses that are marked as held.
func (g *rig) held(name string) (held []string) {
	for _, e := range g.nn(name).Spec.ENIs {
		for _, a := range e.Addresses {
			if a.Held {
				held = append(held, a.Address)
			}
		}
	}
	slices.Sort(held)
	return held
}

// balance makes the addresses of a node's pods backends of a load balancer.
func (g *rig) balance(name string) {
	for _, a := range g.pods[name] {
		if a != "" {
			g.backends[a] = true
		}
	}
}

// The addresses of pods that are gone stay on their ENIs, and serve no other pod, while a load balancer has
// them; a controller that has just started and knows of none changes nothing.
func TestAddressesOfALoadBalancerStay(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/24"})
	g.addNode("n1", "ecs.g6.2xlarge")
	g.settle("n1", minute)
	g.startPods("n1", 20) // more than one ENI has
	g.settle("n1", minute)
	g.balance("n1")
	g.settle("n1", minute)
	want := slices.Sorted(maps.Keys(g.backends))
	if got := g.held("n1"); len(want) != 20 || !slices.Equal(got, want) {
		t.Fatalf("held %v, want %v", got, want)
	}
	g.stopPods("n1", 20)
	g.settle("n1", 10*minute)
	backends := g.backends
	g.backends, g.unread = map[string]bool{}, true
	g.restart()
	g.settle("n1", 10*minute)
	if got := g.held("n1"); !slices.Equal(got, want) {
		t.Fatalf("held %v after a restart, want %v", got, want)
	}
	if wait, _ := g.once("n1"); wait == 0 || wait > g.r.Retry {
		t.Errorf("the node is looked at again after %s: nobody else tells of a mark that is out of date", wait)
	}
	g.backends, g.unread = backends, false
	g.hold("n1")
	g.startPods("n1", 5) // serve looks that they get others
	g.settle("n1", minute)
	if st := g.nn("n1").Status; len(st.Used) != 5 {
		t.Fatalf("status %+v", st)
	}
	g.stopPods("n1", 5)
	clear(g.backends)
	g.settle("n1", 10*minute)
	if got := g.held("n1"); len(got) != 0 {
		t.Errorf("held %v, and no load balancer has any", got)
	}
	g.rest("n1")
}

// An address that should be given back has its ENI only while a pod has it: one that took it before the agent
// saw the mark must become a backend.
func TestENIOfAnAddressOnItsWayBack(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/24"})
	g.addNode("n1", "ecs.g6.2xlarge")
	g.settle("n1", minute)
	g.startPods("n1", 1)
	g.settle("n1", minute)
	nn := g.nn("n1")
	pod, eni := nn.Status.Used[0].Address, &nn.Spec.ENIs[0]
	for i := range eni.Addresses {
		eni.Addresses[i].Releasing = true
	}
	g.Must(g.kube.Update(t.Context(), nn))
	for _, a := range eni.Addresses {
		want := ""
		if a.Address == pod {
			want = eni.ID
		}
		if got := g.r.ENIOf(t.Context(), parse(a.Address)); got != want {
			t.Errorf("the ENI of %s is %q, want %q; the pod has %s", a.Address, got, want, pod)
		}
	}
	if len(eni.Addresses) < 2 {
		t.Errorf("%d addresses: no free one was tested", len(eni.Addresses))
	}
}

// What a load balancer is known to have is marked, also while it is not known what all of them have.
func TestHeldWhileOthersAreUnknown(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/24"})
	g.addNode("n1", "ecs.g6.2xlarge")
	g.settle("n1", minute)
	g.startPods("n1", 2)
	g.settle("n1", minute)
	g.balance("n1")
	g.unread = true
	g.settle("n1", minute)
	if got, want := g.held("n1"), slices.Sorted(maps.Keys(g.backends)); len(want) != 2 || !slices.Equal(got, want) {
		t.Errorf("held %v, want %v", got, want)
	}
}

// The type allows no more addresses, load balancers have some of them, and pods wait: the condition says so.
func TestShortageBecauseOfLoadBalancers(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/24"})
	g.addNode("n1", "ecs.g6.large")
	g.settle("n1", minute)
	most := g.nn("n1").Spec.Limits.MaxPods
	g.startPods("n1", most)
	g.settle("n1", 2*minute)
	g.balance("n1")
	g.settle("n1", minute)
	g.stopPods("n1", 3)
	g.startPods("n1", 3)
	g.settle("n1", 2*minute)
	if c := g.condition("n1"); c.Status != "False" || c.Reason != "TypeLimit" || !strings.Contains(c.Message, "load balancers still have 3 of the addresses as backends") {
		t.Errorf("condition %+v", c)
	}
}

// An address that the cloud assigns while a load balancer still has it, from another node, is held from the
// first version of the spec that has it.
func TestAssignedAddressIsHeldAtOnce(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/28"})
	g.r.Held = func(netip.Addr) (held, known bool) { return true, true }
	g.addNode("n1", "ecs.g6.large")
	for range 20 {
		wait, _ := g.once("n1")
		for _, e := range g.nn("n1").Spec.ENIs {
			for _, a := range e.Addresses {
				if !a.Held {
					t.Fatalf("address %s is offered", a.Address)
				}
			}
		}
		g.Clock.Pass(max(wait, time.Second))
	}
	if len(g.held("n1")) == 0 {
		t.Error("the node has no address")
	}
}

// The ENIs of a node that is gone are given back when no load balancer has an address of them, or after the
// delay for a node whose agent does not confirm.
func TestNodeThatLeavesWaitsForLoadBalancers(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/24"})
	g.addNode("n1", "ecs.g6.2xlarge")
	g.settle("n1", minute)
	g.startPods("n1", 3)
	g.settle("n1", minute)
	g.balance("n1")
	g.settle("n1", minute)
	g.stopPods("n1", 3)
	g.Must(g.kube.Delete(context.Background(), g.node("n1")))
	for range 10 {
		g.once("n1")
		g.Clock.Pass(10 * time.Second)
		g.agent("n1") // looks that the addresses are there
	}
	clear(g.backends)
	g.settle("n1", 2*minute)
	if nn := g.nn("n1"); nn != nil {
		t.Errorf("still there: %+v", nn.Spec)
	}
}

// With a CRD that does not have the marks yet the node works, and the user is told once.
func TestCRDWithoutMarks(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/24"})
	g.addNode("n1", "ecs.g6.2xlarge")
	g.settle("n1", minute)
	g.r.Client = pruning{g.kube, func(spec map[string]any) {
		enis, _ := spec["enis"].([]any)
		for _, e := range enis {
			addresses, _ := e.(map[string]any)["addresses"].([]any)
			for _, a := range addresses {
				delete(a.(map[string]any), "held")
			}
		}
	}}
	g.startPods("n1", 3)
	g.settle("n1", minute)
	if g.events.Has("CRDOutdated") {
		t.Fatalf("events %v", g.events.All())
	}
	g.balance("n1")
	for range 3 {
		g.once("n1")
	}
	if n := g.events.Count("*v1.Node Warning CRDOutdated", "which addresses are held"); n != 1 || len(g.nn("n1").Status.Used) != 3 {
		t.Errorf("%d events, status %+v", n, g.nn("n1").Status)
	}
}

// HeldChanged wakes the node that has an address, once.
func TestHeldChangedWakesTheNode(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/24"})
	g.addNode("n1", "ecs.g6.2xlarge")
	g.addNode("n2", "ecs.g6.2xlarge")
	g.settle("n1", minute)
	g.settle("n2", minute)
	g.r.HeldChanged(context.Background(), []netip.Addr{parse(addressesOf(g.nn("n2"))[0]), parse(addressesOf(g.nn("n2"))[1]), netip.MustParseAddr("192.168.32.254")})
	if e := <-g.r.wake; e.Object.GetName() != "n2" || len(g.r.wake) != 0 {
		t.Errorf("woken: %s, and %d more", e.Object.GetName(), len(g.r.wake))
	}
}

// Whenever the controller is killed, no other pod gets an address that a load balancer has, and it stays on its
// ENI (the rig's agent checks both at each step); at the end nothing is lost.
func TestKilledAnywhereWithLoadBalancers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := newRig(t, []string{"192.168.32.0/26", "192.168.33.0/28"})
		chance := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "chance"), 0))
		g.addNode("n1", rapid.SampledFrom([]string{"ecs.g6.large", "ecs.g6.2xlarge"}).Draw(t, "type"))
		g.settle("n1", minute)
		for range rapid.IntRange(1, 6).Draw(t, "rounds") {
			g.fuse.Light(rapid.IntRange(0, 8).Draw(t, "calls until it is killed"), rapid.Bool().Draw(t, "the last call is carried out"))
			if up := rapid.IntRange(-25, 25).Draw(t, "pods"); up > 0 {
				g.startPods("n1", up)
			} else {
				g.stopPods("n1", -up)
			}
			g.unsteady("n1", chance, rapid.IntRange(0, 3).Draw(t, "the agent rests how often in 4"))
			pods := g.churn
			g.churn = func() {
				pods()
				for _, pod := range slices.Sorted(maps.Keys(g.pods["n1"])) {
					if a := g.pods["n1"][pod]; a != "" && chance.IntN(3) == 0 {
						g.backends[a] = true
					}
				}
				for _, a := range slices.Sorted(maps.Keys(g.backends)) {
					if chance.IntN(8) == 0 {
						delete(g.backends, a)
					}
				}
				g.unread = chance.IntN(3) == 0
			}
			g.settle("n1", time.Duration(rapid.IntRange(1, 60).Draw(t, "seconds"))*time.Second)
		}
		g.restart()
		g.steady()
		g.unread = false
		g.settle("n1", 3*minute)
		g.agree("n1")
		nn := g.nn("n1")
		for a := range g.backends {
			if !isHeld(nn, a) {
				t.Fatalf("a load balancer has %s, which is not marked: %+v", a, nn.Spec)
			}
		}
		if n := len(g.held("n1")); n != len(g.backends) {
			t.Fatalf("%d marked, load balancers have %d", n, len(g.backends))
		}
		clear(g.backends)
		g.rest("n1")
	})
}
