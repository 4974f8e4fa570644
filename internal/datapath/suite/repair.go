package suite

import (
	"context"
	"strings"
	"testing"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/suite/world"
)

// Each object is removed once: CheckPod names it, Sync restores and reports it, and then the pod's
// packets flow again.
func eachPieceIsNoticedAndRepaired(t *testing.T, k world.Kit) {
	w := k.NewWorld(t, 2, 1)
	n := w.Nodes[0]
	n.Desired.MasqueradeOutside = true
	n.Sync()
	w.Nodes[1].Sync()
	p, far := n.AddPod(1, "4", "6"), w.Nodes[1].AddPod(1, "4", "6")
	for _, x := range []*world.Pod{p, far} {
		world.Serve(x.NS, world.At(x.V4, 80))
		world.Serve(x.NS, world.At(x.V6, 80))
	}
	// Counts packets with a source on the wrong ENI that left while no object was missing. While
	// one is missing, packets of an earlier connection may take a wrong path.
	stray := 0
	for _, c := range k.Cuts(n, p) {
		t.Run(c.Name, func(t *testing.T) {
			ctx := context.Background()
			if err := n.DP.CheckPod(ctx, n.Desired, p.Spec); err != nil {
				t.Fatalf("before: %v", err)
			}
			c.Cut()
			err := n.DP.CheckPod(ctx, n.Desired, p.Spec)
			if c.Check != "" && (err == nil || !strings.Contains(err.Error(), c.Check)) {
				t.Errorf("CheckPod: %v, want %q", err, c.Check)
			}
			if repairs := n.Sync(p); len(repairs) == 0 {
				t.Error("Sync reports nothing")
			}
			if err := n.DP.CheckPod(ctx, n.Desired, p.Spec); err != nil {
				t.Errorf("after Sync: %v", err)
			}
			if repairs := n.Sync(p); len(repairs) != 0 {
				t.Errorf("second Sync reports %q", repairs)
			}
			before := w.Strict()
			world.MustReach(t, p.NS, world.At(far.V4, 80), far.NS, p.V4)
			world.MustReach(t, far.NS, world.At(p.V4, 80), p.NS, far.V4)
			world.MustReach(t, n.NS, world.At(p.V4, 80), p.NS, n.V4)
			world.MustReach(t, far.NS, world.At(p.V6, 80), p.NS, far.V6)
			stray += w.Strict() - before
			if t.Failed() {
				t.FailNow()
			}
		})
	}
	if stray != 0 {
		t.Errorf("the VPC dropped %d packets with a source on the wrong ENI", stray)
	}
}

// Sync's list of pods is always somewhat old.
func syncWithAnOldList(t *testing.T, k world.Kit) {
	w := k.NewWorld(t, 1, 1)
	n := w.Nodes[0]
	n.Sync()
	p := n.AddPod(1)
	check := func() error { return n.DP.CheckPod(context.Background(), n.Desired, p.Spec) }

	n.Sync() // the list was made before AddPod
	if err := check(); err != nil {
		t.Fatalf("a new pod was removed: %v", err)
	}
	n.Sync(p)
	p.Del()
	n.Sync(p) // the list was made before DelPod
	n.Settle()
	if err := check(); err == nil {
		t.Fatal("a deleted pod came back")
	}
	n.Sync()
	p.Add() // the same sandbox again
	if err := check(); err != nil {
		t.Fatal(err)
	}
	n.Sync(p)
	n.Sync() // it was in a list and no longer is: a leftover
	n.Settle()
	if err := check(); err == nil {
		t.Fatal("a leftover stayed")
	}

	// Added and never listed: it does not count as new for ever.
	p.Add()
	n.Sync()
	n.Sync()
	n.Settle()
	if err := check(); err == nil {
		t.Fatal("a pod that is in no list stayed")
	}
}

// The journal may have a pod whose sandbox died: nothing to repair, no error.
func syncOfDeadSandbox(t *testing.T, k world.Kit) {
	w := k.NewWorld(t, 1, 1)
	n := w.Nodes[0]
	n.Sync()
	p := n.AddPod(1)
	n.Sync(p)
	p.Remove()
	n.Sync(p)
	p.Spec.NetNS = ""
	n.Sync(p)
	if _, err := n.TrySync(&world.Pod{Spec: datapath.Pod{Sandbox: "s", IfName: "eth0", Name: "odd", Kind: k.Kind}}); err == nil || !strings.Contains(err.Error(), "odd") {
		t.Errorf("a pod without an address: %v", err)
	}
}

// Nothing on the node leads to an address that a pod does not have any more.
func syncOfPodWithFewerAddresses(t *testing.T, k world.Kit) {
	w := k.NewWorld(t, 1, 1)
	n := w.Nodes[0]
	n.Sync()
	p, near := n.AddPod(1, "4", "6"), world.Serving(n.AddPod(1))
	p.Spec.Addresses = p.Spec.Addresses[:1]
	if repairs := strings.Join(n.Sync(p, near), "\n"); !strings.Contains(repairs, p.V6.String()) {
		t.Errorf("repairs:\n%s\nwant that %s is removed", repairs, p.V6)
	}
	for line := range strings.Lines(world.DumpStable(n)) {
		if strings.Contains(line, p.V6.String()) {
			t.Errorf("%s stayed", line)
		}
	}
	if repairs := n.Sync(p, near); len(repairs) != 0 {
		t.Errorf("second Sync repairs %q", repairs)
	}
	world.MustReach(t, p.NS, world.At(near.V4, 80), near.NS, p.V4)
}

// A pod that is being wired, or unwired, is left to the call that works on it.
func syncWithAPodAtWork(t *testing.T, k world.Kit) {
	w := k.NewWorld(t, 1, 1)
	n := w.Nodes[0]
	n.Sync()
	// Not started yet: the list is older than the call.
	early := n.Describe(1)
	before := world.DumpStable(n)
	for range 3 {
		if repairs := n.Sync(early); len(repairs) != 0 {
			t.Errorf("a pod that is being wired is repaired: %q", repairs)
		}
	}
	if diff := world.Difference(before, world.DumpStable(n)); diff != "" {
		t.Errorf("Sync wired a pod:\n%s", diff)
	}
	// In progress: existing objects are neither repaired nor removed.
	p := n.AddPod(1)
	n.IP("link set " + p.Wiring.HostIfName + " down")
	p.Spec.State = datapath.Unwired
	before = world.DumpStable(n)
	n.DP = n.NewDatapath() // which has no state but the list
	for range 3 {
		if repairs := n.Sync(early, p); len(repairs) != 0 {
			t.Errorf("a pod in progress is repaired: %q", repairs)
		}
	}
	if diff := world.Difference(before, world.DumpStable(n)); diff != "" {
		t.Errorf("Sync changed a pod in progress:\n%s", diff)
	}
	p.Spec.State = datapath.Wired
	if repairs := n.Sync(early, p); len(repairs) == 0 {
		t.Error("a wired pod is not repaired")
	}
}
