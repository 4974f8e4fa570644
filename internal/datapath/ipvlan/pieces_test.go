//go:build vm

package ipvlan

import (
	"testing"
	"time"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/suite/world"
)

func TestSupportedHere(t *testing.T) {
	if err := Supported(); err != nil {
		t.Error(err)
	}
}

// A connection that the stack forwards unchanged bypasses it, to the VPC and to a pod of the node.
func TestKnownConnectionsGoDirectly(t *testing.T) {
	w := kit.NewWorld(t, 2, 2)
	n0, n1 := w.Nodes[0], w.Nodes[1]
	n0.Sync()
	n1.Sync()
	a, near, far := n0.AddPod(1, "4", "6"), world.Serving(n0.AddPod(2)), world.Serving(n1.AddPod(1))
	for _, c := range []struct {
		to      *world.Pod
		counter string
	}{{near, "to-pod"}, {far, "to-eni"}} {
		before, err := own(n0).Counters()
		if err != nil {
			t.Fatal(err)
		}
		world.MustReach(t, a.NS, world.At(c.to.V4, 80), c.to.NS, a.V4)
		after, err := own(n0).Counters()
		if err != nil {
			t.Fatal(err)
		}
		if after["learned"] == before["learned"] || after[c.counter] == before[c.counter] {
			t.Errorf("%s: counters %v became %v, want %s and learned to grow", c.to.Name, before, after, c.counter)
		}
	}
}

// A pod that was wired as route and one of this kind share an ENI.
func TestBothKindsTalk(t *testing.T) {
	w := kit.NewWorld(t, 2, 1)
	n := w.Nodes[0]
	n.Sync()
	w.Nodes[1].Sync()
	slave, far := world.Serving(n.AddPod(1)), world.Serving(w.Nodes[1].AddPod(1))
	plain := n.Describe(1)
	plain.Spec.Kind = claims.Route
	plain.Add()
	world.Serving(plain)
	if repairs := n.Sync(slave, plain); len(repairs) != 0 {
		t.Errorf("sync repairs %q", repairs)
	}
	for _, pair := range [][2]*world.Pod{{slave, plain}, {plain, slave}, {plain, far}, {far, plain}, {slave, far}, {far, slave}} {
		world.MustReach(t, pair[0].NS, world.At(pair[1].V4, 80), pair[1].NS, pair[0].V4)
	}
	plain.Del()
	world.MustNotReach(t, far.NS, world.At(plain.V4, 80))
	world.MustReach(t, far.NS, world.At(slave.V4, 80), slave.NS, far.V4)
}

// The node can determine whether a pod is alive whose namespace is not visible.
func TestAlive(t *testing.T) {
	w := kit.NewWorld(t, 1, 1)
	n := w.Nodes[0]
	n.Sync()
	p := n.AddPod(1, "4", "6")
	ask := func() bool {
		t.Helper()
		has, err := n.DP.(*subject).Alive(p.Spec)
		if err != nil {
			t.Fatal(err)
		}
		return has
	}
	before := world.DumpStable(n)
	if !ask() {
		t.Error("a pod that lives is called dead")
	}
	p.Remove()
	for deadline := time.Now().Add(world.Patience); ask(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a pod that died is called alive")
		}
	}
	if diff := world.Difference(before, world.DumpStable(n)); diff != "" {
		t.Errorf("the question left:\n%s", diff)
	}
	p.Spec.NetNS = ""
	p.Del()
	n.Settle()
	if ask() {
		t.Error("a pod that was unwired is called alive")
	}
}
