package suite

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/suite/world"
)

func teardownAndAgain(t *testing.T, k world.Kit) {
	w := k.NewWorld(t, 2, 1)
	n := w.Nodes[0]
	n.Sync()
	w.Nodes[1].Sync()
	old, far := n.AddPod(1), world.Serving(w.Nodes[1].AddPod(1))
	if err := n.DP.Teardown(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := n.DP.Teardown(context.Background()); err != nil {
		t.Errorf("a second teardown: %v", err)
	}
	if err := n.DP.CheckPod(context.Background(), n.Desired, old.Spec); err == nil {
		t.Error("a pod outlived the teardown")
	}
	if got := n.ReadSysctl("ipv4/conf/eth1/accept_local"); got != "0" {
		t.Errorf("accept_local of the ENI is %s after the teardown, was 0", got)
	}
	p := n.AddPod(1) // no Sync before it
	world.MustReach(t, p.NS, world.At(far.V4, 80), far.NS, p.V4)
	if repairs := n.Sync(p); len(repairs) != 0 {
		t.Errorf("sync repairs %q", repairs)
	}
}

func addPodTwiceAndAfterRestart(t *testing.T, k world.Kit) {
	w := k.NewWorld(t, 2, 2)
	n := w.Nodes[0]
	p := n.AddPod(2, "4", "6") // without any Sync before
	other := w.Nodes[1].AddPod(1)
	first, before := p.Wiring, world.DumpStable(n)
	p.Add()
	if fmt.Sprint(first) != fmt.Sprint(p.Wiring) {
		t.Errorf("second AddPod gives %+v, first gave %+v", p.Wiring, first)
	}
	n.DP = n.NewDatapath()
	if repairs := n.Sync(p); len(repairs) != 0 {
		t.Errorf("sync after a restart repairs %q", repairs)
	}
	p.Add()
	if diff := world.Difference(before, world.DumpStable(n)); diff != "" {
		t.Errorf("repeated AddPod and restart changed:\n%s", diff)
	}
	world.Serving(p)
	world.MustReach(t, other.NS, world.At(p.V4, 80), p.NS, other.V4)
	if k.NoMAC != (len(first.PodMAC) == 0) || k.NoMAC != (len(first.HostMAC) == 0) || first.HostIfName == "" || len(first.Gateways) != 2 || first.MTU != 1500 {
		t.Errorf("wiring %+v", first)
	}
}

// When an ENI disappears under its pods they cannot leave the node, but still reach it.
func strandedPod(t *testing.T, k world.Kit) {
	w := k.NewWorld(t, 2, 2)
	n := w.Nodes[0]
	n.Sync()
	p, neighbour, far, late := n.AddPod(2), world.Serving(n.AddPod(1)), w.Nodes[1].AddPod(1), n.Describe(2)
	n.IP("link del eth2")
	n.Desired.ENIs = n.Desired.ENIs[:1]
	_, err := n.TrySync(p, neighbour)
	if err == nil || !strings.Contains(err.Error(), n.MAC(2).String()) || !strings.Contains(err.Error(), p.Name) {
		t.Errorf("sync: %v, want an error that names the pod and the ENI", err)
	}
	if !k.GoesWithENI {
		world.MustReach(t, p.NS, world.At(neighbour.V4, 80), neighbour.NS, p.V4)
	}
	strict := w.Strict()
	_, err = world.Ask(p.NS, world.At(far.V4, 80))
	if err == nil || !strings.Contains(err.Error(), "unreachable") {
		t.Errorf("to another node: %v, want unreachable at once", err)
	}
	if w.Strict() != strict {
		t.Error("packets left by an ENI without the pod's address")
	}
	if err := n.DP.CheckPod(context.Background(), n.Desired, p.Spec); err == nil {
		t.Error("CheckPod finds nothing wrong")
	}
	if _, err := n.DP.AddPod(context.Background(), n.Desired, late.Spec); err == nil {
		t.Error("AddPod on a vanished ENI works")
	}
}

// AddPod's list of ENIs may be older than the last Sync's: the pods of ENIs that are not in it keep
// working, also with a new agent that has not seen them yet.
func addPodWithAnotherListOfENIs(t *testing.T, k world.Kit) {
	w := k.NewWorld(t, 2, 3)
	n := w.Nodes[0]
	all := n.Desired.ENIs
	n.Desired.ENIs = all[:2]
	n.Sync()
	p, far := world.Serving(n.AddPod(2)), world.Serving(w.Nodes[1].AddPod(1))
	pods := []*world.Pod{p}
	for _, c := range []struct {
		knows, there []datapath.ENI
		eni          int
	}{
		{all[:1], all[:2], 1},
		{[]datapath.ENI{all[0], all[2]}, all, 3},
	} {
		for range 2 {
			n.Desired.ENIs = c.knows
			q := n.AddPod(c.eni)
			pods = append(pods, q)
			n.Desired.ENIs = c.there
			for _, here := range []*world.Pod{p, q} {
				world.MustReach(t, here.NS, world.At(far.V4, 80), far.NS, here.V4)
				if err := n.DP.CheckPod(context.Background(), n.Desired, here.Spec); err != nil {
					t.Errorf("AddPod with %d ENIs of %d: %v", len(c.knows), len(c.there), err)
				}
			}
			world.MustReach(t, far.NS, world.At(p.V4, 80), p.NS, far.V4)
			n.DP = n.NewDatapath()
		}
	}
	if repairs := n.Sync(pods...); len(repairs) != 0 {
		t.Errorf("Sync repairs %q", repairs)
	}
	n.Desired.ENIs = all[:1]
	_, _ = n.TrySync(pods...) // the error names the pods without an ENI
	if _, err := world.Ask(p.NS, world.At(far.V4, 80)); err == nil {
		t.Error("a pod still uses an ENI that Sync should have removed")
	}
}

func concurrentPods(t *testing.T, k world.Kit) {
	w := k.NewWorld(t, 1, 2)
	n := w.Nodes[0]
	n.Sync()
	before := world.DumpStable(n)
	var pods []*world.Pod
	for i := range 50 {
		pods = append(pods, n.Describe(1+i%2, "4", "6"))
	}
	each := func(f func(*world.Pod) error) {
		t.Helper()
		var wg sync.WaitGroup
		errs := make([]error, len(pods))
		for i, p := range pods {
			wg.Go(func() { errs[i] = f(p) })
		}
		// A Sync with an old, empty list runs at the same time and must not interfere.
		if _, err := n.DP.Sync(context.Background(), n.Desired, nil); err != nil {
			t.Errorf("Sync: %v", err)
		}
		wg.Wait()
		for i, err := range errs {
			if err != nil {
				t.Errorf("pod %d: %v", i, err)
			}
		}
	}
	each(func(p *world.Pod) error {
		_, err := n.DP.AddPod(context.Background(), n.Desired, p.Spec)
		return err
	})
	for _, p := range pods {
		if err := n.DP.CheckPod(context.Background(), n.Desired, p.Spec); err != nil {
			t.Error(err)
		}
	}
	world.Serving(pods[49])
	world.MustReach(t, pods[0].NS, world.At(pods[49].V4, 80), pods[49].NS, pods[0].V4)
	each(func(p *world.Pod) error { return n.DP.DelPod(context.Background(), p.Spec) })
	n.Settle()
	if diff := world.Difference(before, world.DumpStable(n)); diff != "" {
		t.Errorf("pods left something behind:\n%s", diff)
	}
}

func delPodToleratesAbsence(t *testing.T, k world.Kit) {
	w := k.NewWorld(t, 1, 1)
	n := w.Nodes[0]
	never := n.Describe(1)
	never.Del() // before any object exists
	n.Sync()
	before := world.DumpStable(n)
	never.Del()

	p := n.AddPod(1, "4", "6")
	p.Del()
	p.Del()

	q := n.AddPod(1, "4", "6")
	q.Remove() // the namespace is deleted first, and the device with it
	q.Spec.NetNS = ""
	q.Del()

	left := n.AddPod(1, "4", "6")
	left.Remove()
	left.Spec.NetNS = world.LeftFile(t)
	left.Del()

	// Without addresses: the device's name is enough.
	r := n.AddPod(1, "4", "6")
	r.Spec.Addresses = nil
	r.Del()
	if diff := world.Difference(before, world.DumpStable(n)); diff != "" {
		t.Errorf("pods left something behind:\n%s", diff)
	}
}

// An address is given to a new pod while the old one's device still exists.
func addressReuse(t *testing.T, k world.Kit) {
	w := k.NewWorld(t, 1, 1)
	n := w.Nodes[0]
	n.Sync()
	client := n.AddPod(1)
	old, next := n.AddPod(1), n.Describe(1)
	next.V4 = old.V4
	next.Spec.Addresses = []netip.Addr{old.V4}
	next.Add()
	world.Serving(next)
	world.MustReach(t, client.NS, world.At(next.V4, 80), next.NS, client.V4)
	old.Del() // late, and must not remove the new pod's route
	world.MustReach(t, client.NS, world.At(next.V4, 80), next.NS, client.V4)
	if repairs := n.Sync(client, next); len(repairs) != 0 {
		t.Errorf("sync repairs %q", repairs)
	}
}

func addPodRefuses(t *testing.T, k world.Kit) {
	w := k.NewWorld(t, 1, 1)
	n := w.Nodes[0]
	n.Sync()
	taken := n.Describe(1)
	taken.IP("link add eth0 type veth peer name other")
	for _, c := range []struct {
		name string
		edit func(*datapath.Pod)
		want string
	}{
		{"no sandbox", func(p *datapath.Pod) { p.Sandbox = "" }, "Sandbox"},
		{"path in the interface", func(p *datapath.Pod) { p.IfName = "../eth0" }, "IfName"},
		{"no namespace", func(p *datapath.Pod) { p.NetNS = "" }, "NetNS"},
		{"namespace gone", func(p *datapath.Pod) { p.NetNS = "/run/netns/none" }, "/run/netns/none"},
		{"namespace of the node", func(p *datapath.Pod) { p.NetNS = n.Path }, "the node's own"},
		{"not a namespace", func(p *datapath.Pod) { p.NetNS = "/etc/hostname" }, "/etc/hostname"},
		{"no address", func(p *datapath.Pod) { p.Addresses = nil }, "Addresses"},
		{"two of a family", func(p *datapath.Pod) { p.Addresses = append(p.Addresses, n.V4) }, "Addresses"},
		{"unknown ENI", func(p *datapath.Pod) { p.ENI = "00:16:3e:ff:ff:ff" }, n.MAC(1).String() + " eth1"},
		{"no MAC", func(p *datapath.Pod) { p.ENI = "eth1" }, "ENI"},
		{"device of others in the pod", func(p *datapath.Pod) { p.NetNS = taken.Path }, "already has a device eth0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := world.DumpStable(n)
			pod := n.Describe(1).Spec
			c.edit(&pod)
			_, err := n.DP.AddPod(context.Background(), n.Desired, pod)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), pod.Name) {
				t.Errorf("error %v, want one that names the pod and %q", err, c.want)
			}
			// A rejected pod can be deleted, also repeatedly.
			if pod.Sandbox != "" {
				if err := n.DP.DelPod(context.Background(), pod); err != nil {
					t.Errorf("a rejected pod cannot be deleted: %v", err)
				}
			}
			if diff := world.Difference(before, world.DumpStable(n)); diff != "" {
				t.Errorf("a rejected pod left:\n%s", diff)
			}
		})
	}
	if !strings.Contains(taken.IP("link show"), "eth0") {
		t.Error("the device of others is gone")
	}
}

// The node keeps its default routes from router advertisements when IPv6 forwarding is turned on
// for the pods.
func forwardingKeepsRouterAdvertisements(t *testing.T, k world.Kit) {
	w := k.NewWorld(t, 1, 1)
	n := w.Nodes[0]
	n.Sysctl("ipv4/ip_forward", "0")
	n.Sync()
	for key, want := range map[string]string{
		"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1",
		"ipv6/conf/eth0/accept_ra": "2", "ipv6/conf/eth1/accept_ra": "0",
	} {
		if got := n.ReadSysctl(key); got != want {
			t.Errorf("%s is %s, want %s", key, got, want)
		}
	}
}

func rulesDoNotGrowWithPods(t *testing.T, k world.Kit) {
	w := k.NewWorld(t, 1, 2)
	n := w.Nodes[0]
	n.Sync()
	rules := func() int {
		return strings.Count(n.IP("rule show"), "\n") + strings.Count(n.IP("-6 rule show"), "\n")
	}
	before := rules()
	var pods []*world.Pod
	for i := range 100 {
		pods = append(pods, n.AddPod(1+i%2))
	}
	if after := rules(); after != before {
		t.Errorf("%d rules with no pod, %d with 100", before, after)
	}
	first, last := pods[0], world.Serving(pods[99])
	world.MustReach(t, first.NS, world.At(last.V4, 80), last.NS, first.V4)
	if repairs := n.Sync(pods...); len(repairs) != 0 {
		t.Errorf("sync of a sound node repairs %q", repairs)
	}
}
