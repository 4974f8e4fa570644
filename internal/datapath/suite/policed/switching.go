package policed

import (
	"fmt"
	"strings"
	"testing"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/suite/world"
	"terway.dev/terway/internal/testutil"
)

// A pod has no new connections before its node knows its rules; then it has those that are allowed.
func unknownPodIsClosed(t *testing.T, e *env) {
	known := e.pod(e.n0, "known")
	e.mu.Lock()
	e.late = true
	e.mu.Unlock()
	p := e.pod(e.n0, "late")
	reaches(t, p.NS, world.At(known.V4, 80), false)
	reaches(t, known.NS, world.At(p.V4, 80), false)
	reaches(t, known.NS, world.At(p.V6, 80), false)
	reaches(t, e.n1.NS, world.At(p.V4, 80), false)
	reaches(t, e.n0.NS, world.At(p.V4, 80), true)
	e.apply(t)
	reaches(t, p.NS, world.At(known.V4, 80), true)
	reaches(t, known.NS, world.At(p.V6, 80), true)
	ingress, egress, err := e.n0.DP.(*Node).Denied()
	if err != nil || ingress == 0 || egress == 0 {
		t.Errorf("%d packets were denied by ingress, %d by egress (error %v): want some each", ingress, egress, err)
	}
}

// When policies are turned off nothing is judged, and nothing of them is left on the node.
func turnedOff(t *testing.T, e *env) {
	near, far := e.pod(e.n0, "near"), e.pod(e.n1, "far")
	e.apply(t, into("near"), outOf("near"))
	reaches(t, far.NS, world.At(near.V4, 80), false)
	e.off(t, e.n0)
	e.n0.Sync(near)
	// What runs now is no reason to turn policies on: this process has turned them off.
	if _, err := e.n0.DP.(*Node).Prepare(); err != nil {
		t.Fatal(err)
	}
	e.n0.Sync(near)
	reaches(t, far.NS, world.At(near.V4, 80), true)
	reaches(t, near.NS, world.At(far.V4, 80), true)
	reaches(t, near.NS, world.At(far.V6, 80), true)
	if repairs := e.n0.Sync(near); len(repairs) != 0 {
		t.Errorf("another Sync repairs %q", repairs)
	}
	if tables := e.n0.Run("nft", "list", "tables"); strings.Contains(tables, "policy") {
		t.Errorf("tables that are left:\n%s", tables)
	}
	list := []*testutil.NS{e.n0.NS}
	if e.kit.Exclusive {
		list = append(list, near.NS)
	}
	for _, ns := range list {
		for _, direction := range []string{"ingress", "egress"} {
			if filters := ns.Run("tc", "filter", "show", "dev", "eth0", direction); strings.Contains(filters, fmt.Sprintf(" pref %d ", claims.PrefEBPF)) {
				t.Errorf("programs that are left on eth0 of %s, %s:\n%s", ns.Name, direction, filters)
			}
		}
	}
}

// What an earlier agent enforces stays until the next one turns it off: it may have failed to load programs.
func notDecided(t *testing.T, e *env) {
	near, far := e.pod(e.n0, "near"), e.pod(e.n1, "far")
	e.apply(t, into("near"))
	if err := e.n0.DP.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	e.mu.Lock()
	e.silent = true
	e.mu.Unlock()
	e.n0.DP = e.n0.NewDatapath()
	for range 2 {
		e.n0.Sync(near)
		reaches(t, far.NS, world.At(near.V4, 80), false)
		reaches(t, near.NS, world.At(far.V4, 80), true)
	}
	if err := e.n0.DP.(*Node).Off(); err != nil {
		t.Fatal(err)
	}
	e.n0.Sync(near)
	reaches(t, far.NS, world.At(near.V4, 80), true)
}

// A pod that Sync could not come to when policies were turned off is not judged for ever.
func turnedOffBesideACall(t *testing.T, e *env) {
	near, far := e.pod(e.n0, "near"), e.pod(e.n1, "far")
	e.apply(t, into("near"))
	e.off(t, e.n0)
	near.Spec.State = datapath.Unwired
	for range 3 {
		e.n0.Sync(near)
	}
	near.Spec.State = datapath.Wired
	e.n0.Sync(near)
	reaches(t, far.NS, world.At(near.V4, 80), true)
	if repairs := e.n0.Sync(near); len(repairs) != 0 {
		t.Errorf("another Sync repairs %q", repairs)
	}
}

// Turning policies on and off cuts no connection that is allowed, and leaves nothing. A packet may be lost.
func turnedOnAndOff(t *testing.T, e *env) {
	dp := e.n0.DP.(*Node)
	client, near, far := e.pod(e.n0, "client"), e.pod(e.n0, "near"), e.pod(e.n1, "far")
	e.n0.KubeProxy(world.Service{ClusterIP: world.ClusterIP, Port: 7, NodePort: 30007, Endpoint: far.V4})
	e.apply(t, outOf("client", app("near"), app("far"), node(0)), into("near", app("client")))
	var talks []*world.Talking
	talk := func(from *testutil.NS, to string, networks ...string) {
		for _, network := range networks {
			talks = append(talks, world.StartRepeatingTalk(t, from, network, to))
		}
	}
	for _, to := range []string{world.At(near.V4, 7), world.At(near.V6, 7), world.At(far.V4, 7), world.At(world.ClusterIP, 7), world.At(e.n0.V4, 7)} {
		talk(client.NS, to, "tcp", "udp")
	}
	talk(e.n0.NS, world.At(near.V4, 7), "tcp")
	talk(e.w.Outside, world.At(e.n0.V4, 30007), "tcp")
	more := func() {
		for _, k := range talks {
			k.More(20)
		}
	}
	qdiscs := func() string { return e.n0.Run("tc", "qdisc", "show") }
	more()
	e.n0.Sync(client, near)
	was := qdiscs()
	for range 3 {
		e.off(t, e.n0)
		e.n0.Sync(client, near)
		more()
		reaches(t, e.n1.NS, world.At(near.V4, 80), true)
		if is := qdiscs(); is != was {
			t.Errorf("the qdiscs are\n%s\nwant those that were there before policies were turned off:\n%s", is, was)
		}
		if err := dp.turnOnAgain(); err != nil {
			t.Fatal(err)
		}
		e.n0.Sync(client, near)
		more()
		reaches(t, e.n1.NS, world.At(near.V4, 80), false)
		if repairs := e.n0.Sync(client, near); len(repairs) != 0 {
			t.Errorf("Sync of a sound node repairs %q", repairs)
		}
	}
	for _, k := range talks {
		k.End(t)
	}
}

// After Teardown policies are off. They can be turned on again.
func tornDown(t *testing.T, e *env) {
	dp, far := e.n0.DP.(*Node), e.pod(e.n1, "far")
	e.pod(e.n0, "near").Del()
	if err := dp.Teardown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if ingress, egress, err := dp.Denied(); ingress != 0 || egress != 0 || err != nil {
		t.Errorf("%d packets were denied by ingress, %d by egress (error %v): want none", ingress, egress, err)
	}
	if err := dp.turnOff(); err != nil {
		t.Fatal(err)
	}
	if err := dp.turnOnAgain(); err != nil {
		t.Fatal(err)
	}
	e.n0.Sync()
	near := e.pod(e.n0, "near")
	reaches(t, far.NS, world.At(near.V4, 80), true)
	e.apply(t, into("near"))
	reaches(t, far.NS, world.At(near.V4, 80), false)
}

// Where another program's qdisc leaves no place for ours, this is said, and nothing is attached where it does harm.
func ingressOfOthers(t *testing.T, e *env) {
	dp := e.n0.DP.(*Node)
	if err := dp.turnOff(); err != nil {
		t.Fatal(err)
	}
	e.n0.Sync()
	e.n0.Run("tc", "qdisc", "del", "dev", "eth0", "clsact")
	e.n0.Run("tc", "qdisc", "add", "dev", "eth0", "ingress")
	if err := dp.turnOnAgain(); err != nil {
		t.Fatal(err)
	}
	_, err := e.n0.TrySync()
	_, obstacles, rest := datapath.Sort(err)
	if len(obstacles) != 1 || !strings.Contains(obstacles[0], "eth0") || rest != nil {
		t.Errorf("Sync says %v, want an obstacle about eth0", err)
	}
	if filters := e.n0.Run("tc", "filter", "show", "dev", "eth0", "ingress"); strings.Contains(filters, "tw_") {
		t.Errorf("programs on eth0:\n%s", filters)
	}
	e.n0.Run("tc", "qdisc", "del", "dev", "eth0", "ingress")
	e.n0.Sync()
	if filters := e.n0.Run("tc", "filter", "show", "dev", "eth0", "egress"); !strings.Contains(filters, "tw_to_other") {
		t.Errorf("programs on eth0 when the qdisc is gone:\n%s", filters)
	}
}

// Where another program's qdisc leaves no place for ours at a pod's device, that is this pod's problem alone, and is over with the next Sync
// when the place is free.
func noPlaceAtOnePod(t *testing.T, e *env) {
	held, other, far := e.pod(e.n0, "held"), e.pod(e.n0, "other"), e.pod(e.n1, "far")
	dev := held.Wiring.HostIfName
	if !strings.Contains(e.n0.Run("tc", "qdisc", "show", "dev", dev), "clsact") {
		return // programs are not where a qdisc would be
	}
	e.apply(t, outOf("held"), outOf("other", app("far")))
	e.n0.Run("tc", "qdisc", "del", "dev", dev, "clsact")
	e.n0.Run("tc", "qdisc", "add", "dev", dev, "ingress")
	for range 2 {
		_, err := e.n0.TrySync(held, other)
		single, obstacles, rest := datapath.Sort(err)
		if len(single) != 1 || single[0].Sandbox != held.Spec.Sandbox || len(obstacles) != 0 || rest != nil {
			t.Errorf("Sync says %v, want a problem of pod %s", err, held.Spec.Sandbox)
		}
	}
	reaches(t, other.NS, world.At(far.V4, 80), true)
	e.n0.Run("tc", "qdisc", "del", "dev", dev, "ingress")
	e.n0.Sync(held, other)
	reaches(t, held.NS, world.At(far.V4, 80), false)
	e.apply(t, outOf("held", app("far")))
	reaches(t, held.NS, world.At(far.V4, 80), true)
}
