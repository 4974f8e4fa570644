package suite

import (
	"errors"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath/suite/world"
)

func podsOfOneNodeTalkWithoutLeavingIt(t *testing.T, k world.Kit) {
	w := k.NewWorld(t, 1, 2)
	n := w.Nodes[0]
	n.Sync()
	a, b := n.AddPod(1, "4", "6"), n.AddPod(2, "4", "6")
	world.Serve(b.NS, world.At(b.V4, 80))
	world.Serve(b.NS, world.At(b.V6, 80))
	before := w.Crossed()
	world.MustReach(t, a.NS, world.At(b.V4, 80), b.NS, a.V4)
	world.MustReach(t, a.NS, world.At(b.V6, 80), b.NS, a.V6)
	if after := w.Crossed(); after != before {
		t.Errorf("%d packets of the pods left the node", after-before)
	}
}

func podsOfTwoNodesTalkByTheirENI(t *testing.T, k world.Kit) {
	w := k.NewWorld(t, 2, 2)
	n0, n1 := w.Nodes[0], w.Nodes[1]
	n0.Sync()
	n1.Sync()
	for e := 1; e <= 2; e++ {
		a, b := n0.AddPod(e, "4", "6"), n1.AddPod(3-e, "4", "6")
		world.Serve(b.NS, world.At(b.V4, 80))
		world.Serve(b.NS, world.At(b.V6, 80))
		before := w.Crossed()
		world.MustReach(t, a.NS, world.At(b.V4, 80), b.NS, a.V4)
		world.MustReach(t, a.NS, world.At(b.V6, 80), b.NS, a.V6)
		if w.Crossed() == before {
			t.Error("no packet of the pods crossed the VPC: the test is blind")
		}
	}
	if got := w.Strict(); got != 0 {
		t.Errorf("the VPC dropped %d packets with a source on the wrong ENI", got)
	}
}

func nodeAndPods(t *testing.T, k world.Kit) {
	w := k.NewWorld(t, 2, 1)
	n0, n1 := w.Nodes[0], w.Nodes[1]
	n0.Sync()
	n1.Sync()
	a, b := n0.AddPod(1, "4", "6"), n1.AddPod(1, "4", "6")
	for _, p := range []*world.Pod{a, b} {
		world.Serve(p.NS, world.At(p.V4, 80))
		world.Serve(p.NS, world.At(p.V6, 80))
	}
	for _, n := range w.Nodes {
		world.Serve(n.NS, world.At(n.V4, 8080))
		world.Serve(n.NS, world.At(n.V6, 8080))
	}
	before := w.Crossed()
	world.MustReach(t, n0.NS, world.At(a.V4, 80), a.NS, n0.V4)
	world.MustReach(t, n0.NS, world.At(a.V6, 80), a.NS, n0.V6)
	world.MustReach(t, a.NS, world.At(n0.V4, 8080), n0.NS, a.V4)
	world.MustReach(t, a.NS, world.At(n0.V6, 8080), n0.NS, a.V6)
	if after := w.Crossed(); after != before {
		t.Errorf("node and own pod: %d packets left the node", after-before)
	}
	world.MustReach(t, n0.NS, world.At(b.V4, 80), b.NS, n0.V4)
	world.MustReach(t, n0.NS, world.At(b.V6, 80), b.NS, n0.V6)
	world.MustReach(t, a.NS, world.At(n1.V4, 8080), n1.NS, a.V4)
	world.MustReach(t, a.NS, world.At(n1.V6, 8080), n1.NS, a.V6)
	if got := w.Strict(); got != 0 {
		t.Errorf("the VPC dropped %d packets with a source on the wrong ENI", got)
	}
}

// A node may have strict reverse path checks; its pods' traffic must still work, though the route
// to a peer in the main table is by the primary ENI.
func reversePathFilterOfTheNode(t *testing.T, k world.Kit) {
	for _, mode := range []string{"0", "1", "2"} {
		t.Run("all="+mode, func(t *testing.T) {
			w := k.NewWorld(t, 2, 1)
			for _, n := range w.Nodes {
				n.Sysctl("ipv4/conf/all/rp_filter", mode)
				n.Sysctl("ipv4/conf/default/rp_filter", mode)
				n.Sysctl("ipv4/conf/eth0/rp_filter", mode)
				n.Sync()
			}
			a, b := w.Nodes[0].AddPod(1), w.Nodes[1].AddPod(1)
			world.Serve(b.NS, world.At(b.V4, 80))
			world.Serve(a.NS, world.At(a.V4, 80))
			world.MustReach(t, a.NS, world.At(b.V4, 80), b.NS, a.V4)
			world.MustReach(t, w.Nodes[1].NS, world.At(a.V4, 80), a.NS, w.Nodes[1].V4)
			// Somebody changes it under running pods: the next Sync corrects the devices.
			for _, later := range []string{"1", "0", "2"} {
				for i, p := range []*world.Pod{a, b} {
					w.Nodes[i].Sysctl("ipv4/conf/all/rp_filter", later)
					w.Nodes[i].Sync(p)
				}
				world.MustReach(t, a.NS, world.At(b.V4, 80), b.NS, a.V4)
				world.MustReach(t, b.NS, world.At(a.V4, 80), a.NS, b.V4)
				if repairs := w.Nodes[0].Sync(a); len(repairs) != 0 {
					t.Errorf("all=%s: second Sync reports %q", later, repairs)
				}
			}
			w.Nodes[0].Sysctl("ipv4/conf/all/rp_filter", mode)
			w.Nodes[0].Sync(a)
			if got := w.Nodes[0].ReadSysctl("ipv4/conf/all/rp_filter"); got != mode {
				t.Errorf("all/rp_filter is %s, was %s", got, mode)
			}
			if got := w.Nodes[0].ReadSysctl("ipv4/conf/eth0/rp_filter"); got != mode {
				t.Errorf("eth0/rp_filter is %s, was %s", got, mode)
			}
		})
	}
}

func deletedPodIsUnreachableAtOnce(t *testing.T, k world.Kit) {
	w := k.NewWorld(t, 2, 1)
	n0, n1 := w.Nodes[0], w.Nodes[1]
	n0.Sync()
	n1.Sync()
	a, b, c := n0.AddPod(1, "4", "6"), n0.AddPod(1, "4", "6"), n1.AddPod(1, "4", "6")
	world.Serve(a.NS, world.At(a.V4, 80))
	world.Serve(a.NS, world.At(a.V6, 80))
	world.MustReach(t, c.NS, world.At(a.V4, 80), a.NS, c.V4)
	a.Del()
	// Peers get an error and do not time out: the packet does not go back into the VPC.
	for _, from := range []*world.Pod{c, b} {
		for _, to := range []netip.Addr{a.V4, a.V6} {
			if from == b && to.Is6() {
				continue // one family is enough for the node's own way out
			}
			_, err := world.Ask(from.NS, world.At(to, 80))
			if err == nil {
				t.Errorf("%s still reaches %s", from.Name, to)
			}
			if from == c && !errors.Is(err, unix.EHOSTUNREACH) && !errors.Is(err, unix.ENETUNREACH) {
				t.Errorf("%s → %s: %v, want unreachable", from.Name, to, err)
			}
		}
	}
}
