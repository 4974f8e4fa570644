package nodepolicy

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/prometheus/client_golang/prometheus"
	clocktesting "k8s.io/utils/clock/testing"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/compile"
	"terway.dev/terway/internal/policy/policytest"
	"terway.dev/terway/internal/policy/selector"
	"terway.dev/terway/internal/policy/wire"
)

// What the hub says is what the kernel says, and after each change.
func TestTheKernelSaysWhatTheHubSays(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	h := serve(t, "a", c.all())
	name := policytest.Nodes[0]
	m := newMachine(t, name, h)
	a := m.start(c.pods(name))
	<-a.first
	asked := 0
	for range 30 {
		wired, list := c.pods(name), c.connections(name)
		for pod, addresses := range wired {
			if err := a.Enter(pod, addresses); err != nil {
				t.Fatal(err)
			}
		}
		asked += len(list)
		eventually(t, "the rules", func() error { return a.has(c.ForNode(name), wired, list) })
		c.change(t, h)
	}
	if asked < 500 {
		t.Errorf("%d connections were asked about: the worlds are too simple", asked)
	}
	if alarms := m.alarmed(); len(alarms) > 0 {
		t.Error(alarms)
	}
}

// With no hub, an agent that starts again has the rules of the one before in the maps before it does anything else,
// whatever the maps had.
func TestRulesOutliveAgentAndHub(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	h := serve(t, "a", c.all())
	name := policytest.Nodes[0]
	m := newMachine(t, name, h)
	wired, list := c.pods(name), c.connections(name)
	a := m.start(wired)
	eventually(t, "the rules", func() error { return a.has(c.ForNode(name), wired, list) })
	eventually(t, "the file", func() error { _, err := os.Stat(filepath.Join(m.dir, "state")); return err })
	a.stop()
	h.server.Stop()
	m.find()
	again := newMachine(t, name) // another kernel, as after a boot
	again.dir = m.dir
	a = again.start(wired)
	select {
	case <-a.first:
	default:
		t.Fatal("Start has written nothing")
	}
	if err := a.has(c.ForNode(name), wired, list); err != nil {
		t.Error(err)
	}
	if ok, reason, message := a.State(); ok || reason != "HubAway" || !strings.Contains(message, "revision 1 of a") {
		t.Errorf("%v, %s: %s", ok, reason, message)
	}
}

// A pod has the rules of its name and its address as long as it is here; not those of the pod that had the address before,
// which the hub may still know.
func TestAnAddressIsItsPods(t *testing.T) {
	t.Parallel()
	h := serve(t, "a", shop())
	m := newMachine(t, "node1", h)
	a := m.start(nil)
	a.follows()
	old, address := in("shop", "old"), []netip.Addr{addr("10.0.0.7")}
	if n := m.endpoint("10.0.0.7"); n != 0 {
		t.Errorf("a pod that is not wired is endpoint %d", n)
	}
	enter := func(pod policy.NamespacedName) {
		t.Helper()
		if err := a.Enter(pod, address); err != nil {
			t.Fatal(err)
		}
	}
	enter(old)
	if m.endpoint("10.0.0.7") == 0 {
		t.Error("a pod that the hub knows has no endpoint after Enter")
	}
	h.server.Stop()
	m.find()
	a.Forget(old, address)
	enter(in("shop", "late"))
	if n := m.endpoint("10.0.0.7"); n != 0 {
		t.Errorf("a new pod is endpoint %d, of the pod that had its address before", n)
	}
	a.Forget(in("shop", "late"), address)
	enter(old)
	if m.endpoint("10.0.0.7") == 0 {
		t.Error("the former pod has its address again, and no endpoint")
	}
	a.Forget(old, address)
	eventually(t, "the endpoint goes with the pod", func() error {
		if m.endpoint("10.0.0.7") != 0 {
			return errNot
		}
		return nil
	})
}

// tell tells an address until all nodes had it in time: the machine may be slow.
func (a *agent) tell(pod policy.NamespacedName, addresses []netip.Addr) {
	a.m.t.Helper()
	eventually(a.m.t, "nodes know the address", func() error {
		late := a.late.Load()
		if err := a.Tell(context.Background(), pod, addresses); err != nil {
			return err
		}
		if a.late.Load() > late {
			return errNot
		}
		return nil
	})
}

func fromWeb(own, peer string) policy.Connection {
	return policy.Connection{Own: addr(own), Peer: addr(peer), Protocol: policy.TCPProtocol, DestinationPort: 5432}
}

// When Tell returns the pod's own node has its rules, and the node whose rules name it its address. It goes with the pod.
func TestNodesKnowAPodBeforeItStarts(t *testing.T) {
	t.Parallel()
	h := serve(t, "a", shop())
	m1, m2 := newMachine(t, "node1", h), newMachine(t, "node2", h)
	one, two := m1.start(nil), m2.start(map[policy.NamespacedName][]netip.Addr{in("shop", "db"): {addr("10.0.0.9")}})
	one.follows()
	two.follows()
	web, address := in("shop", "web"), []netip.Addr{addr("10.0.0.5")}
	says := func(want policy.Action) error {
		row, err := m2.decides(fromWeb("10.0.0.9", "10.0.0.5"))
		if err == nil && policy.Action(row.Action) != want {
			err = fmt.Errorf("db's node says %s, want %s", policy.Action(row.Action), want)
		}
		return err
	}
	if err := says(policy.Deny); err != nil {
		t.Error(err)
	}
	ctx := context.Background()
	if err := one.Await(ctx, "shop"); err != nil {
		t.Fatal(err)
	}
	if err := one.Enter(web, address); err != nil {
		t.Fatal(err)
	}
	if n := m1.endpoint("10.0.0.5"); n != 0 {
		t.Errorf("before the hub knows it, the pod is endpoint %d: want it closed", n)
	}
	one.tell(web, address)
	if err := says(policy.Allow); err != nil {
		t.Error(err)
	}
	if m1.endpoint("10.0.0.5") == 0 {
		t.Error("the pod's own node does not know it")
	}
	one.Forget(web, address)
	eventually(t, "the address goes with the pod", func() error { return says(policy.Deny) })
	eventually(t, "the endpoint goes with the pod", func() error {
		if m1.endpoint("10.0.0.5") != 0 {
			return errNot
		}
		return nil
	})
	// A node that is not there is waited for a while, and counted.
	two.stop()
	if err := one.Enter(web, address); err != nil {
		t.Fatal(err)
	}
	late := one.late.Load()
	if err := one.Tell(ctx, web, address); err != nil || one.late.Load() != late+1 {
		t.Errorf("%v, %d late after %d: want one more", err, one.late.Load(), late)
	}
}

// A new sandbox of a pod has another address when the former one goes.
func TestANewSandboxKeepsItsAddress(t *testing.T) {
	t.Parallel()
	h := serve(t, "a", shop())
	m1, m2 := newMachine(t, "node1", h), newMachine(t, "node2", h)
	one, two := m1.start(nil), m2.start(map[policy.NamespacedName][]netip.Addr{in("shop", "db"): {addr("10.0.0.9")}})
	one.follows()
	two.follows()
	web, before, now := in("shop", "web"), []netip.Addr{addr("10.0.0.5")}, []netip.Addr{addr("10.0.0.6")}
	for _, a := range [][]netip.Addr{before, now} {
		if err := one.Enter(web, a); err != nil {
			t.Fatal(err)
		}
		one.tell(web, a)
	}
	one.Forget(web, before)
	one.tell(web, now) // what is told of a pod is told in order
	row, err := m2.decides(fromWeb("10.0.0.9", "10.0.0.6"))
	if err != nil || policy.Action(row.Action) != policy.Allow || m1.endpoint("10.0.0.6") == 0 {
		t.Errorf("%+v, %v, endpoint %d: want the new sandbox known", row, err, m1.endpoint("10.0.0.6"))
	}
}

// Without a hub a pod starts if by the last revision nothing can be denied to it, and else fails with the cause.
func TestWithoutAHub(t *testing.T) {
	t.Parallel()
	h := serve(t, "hub-a", shop())
	m := newMachine(t, "node1")
	a := m.start(nil)
	ctx := context.Background()
	fails := func(namespace string, words ...string) {
		t.Helper()
		err := a.Await(ctx, namespace)
		if err == nil {
			t.Errorf("a pod of namespace %s may start", namespace)
			return
		}
		for _, w := range words {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%q: want %q in it", err, w)
			}
		}
	}
	fails("other", "no replica of the policy hub has said yet")
	if _, reason, _ := a.State(); reason != "NoHub" {
		t.Errorf("reason %s", reason)
	}
	if err := a.Enter(in("other", "x"), []netip.Addr{addr("10.0.0.3")}); err == nil {
		t.Error("a pod may come when nothing is in the maps")
	}
	m.find(h)
	a.follows()
	if err := a.Await(ctx, "shop"); err != nil {
		t.Error(err)
	}
	h.server.Stop()
	eventually(t, "the hub is away", func() error {
		if a.client.Load().Status().Following {
			return errNot
		}
		return nil
	})
	if err := a.Await(ctx, "other"); err != nil {
		t.Errorf("nothing selects a pod of namespace other: %v", err)
	}
	if err := a.Tell(ctx, in("other", "x"), []netip.Addr{addr("10.0.0.3")}); err != nil || a.late.Load() != 1 {
		t.Errorf("%v, %d late", err, a.late.Load())
	}
	fails("shop", "no replica of the policy hub answers", "revision 1 of hub-a", "old", `namespace "shop"`)
	if err := a.Tell(ctx, in("shop", "web"), []netip.Addr{addr("10.0.0.5")}); err == nil {
		t.Error("a pod that policies may deny something starts without a hub")
	}
}

// free says why the kernel does not allow everything at an address.
func (m *machine) free(own string) error {
	peers := []string{"10.0.0.9", "192.0.2.1"}
	if addr(own).Is6() {
		peers = []string{"fd00::9"}
	}
	for _, peer := range peers {
		for _, d := range []policy.Direction{policy.Ingress, policy.Egress} {
			c := fromWeb(own, peer)
			c.Direction = d
			row, err := m.decides(c)
			if err != nil {
				return err
			}
			if policy.Action(row.Action) != policy.Allow {
				return fmt.Errorf("%s of %s with %s: %s", d, own, peer, policy.Action(row.Action))
			}
		}
	}
	return nil
}

// away stops a hub and waits until the agent knows.
func (a *agent) away(h *replica) {
	a.m.t.Helper()
	h.server.Stop()
	a.m.find()
	eventually(a.m.t, "the hub is away", func() error {
		if a.client.Load().Status().Following {
			return errNot
		}
		return nil
	})
}

// A pod that starts without the hub, in a namespace in which no policy can deny it anything, may send and receive all; until then its
// address is closed. That is so after a restart of the agent and of the machine, and ends with the pod.
func TestAPodWithoutTheHubHasNoRules(t *testing.T) {
	t.Parallel()
	h := serve(t, "a", shop())
	m := newMachine(t, "node1", h)
	a := m.start(nil)
	a.follows()
	eventually(t, "the file", func() error { _, err := os.Stat(filepath.Join(m.dir, "state")); return err })
	a.away(h)
	ctx := context.Background()
	x, y, own, own6 := in("other", "x"), in("other", "y"), "10.0.0.3", "fd00::3"
	both := []netip.Addr{addr(own), addr(own6)}
	starts := func(pod policy.NamespacedName) {
		t.Helper()
		if err := errors.Join(a.Enter(pod, both), a.client.Load().Again()); err != nil {
			t.Fatal(err)
		}
		if err := m.free(own); err == nil {
			t.Errorf("%s may send before the hub was asked", pod)
		}
		if err := a.Tell(ctx, pod, both); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(m.free(own), m.free(own6)); err != nil {
			t.Errorf("%s: %v", pod, err)
		}
	}
	starts(x)
	number := m.endpoint(own)
	a.stop()
	a = m.start(map[policy.NamespacedName][]netip.Addr{x: both})
	if err := errors.Join(m.free(own), m.free(own6)); err != nil || m.endpoint(own) != number {
		t.Errorf("after a restart: %v, endpoint %d, was %d", err, m.endpoint(own), number)
	}
	boot := newMachine(t, "node1")
	boot.dir = m.dir
	a.stop()
	b := boot.start(map[policy.NamespacedName][]netip.Addr{x: both})
	if err := errors.Join(boot.free(own), boot.free(own6)); err != nil {
		t.Errorf("after a boot: %v", err)
	}
	b.stop()
	a = m.start(map[policy.NamespacedName][]netip.Addr{x: both})
	// Its address goes to another pod.
	a.Forget(x, both)
	eventually(t, "the endpoint goes with the pod", func() error {
		if m.endpoint(own) != 0 {
			return errNot
		}
		return nil
	})
	starts(y)
	a.Forget(y, both)
	if err := a.Enter(in("shop", "new"), both); err != nil {
		t.Fatal(err)
	}
	if m.endpoint(own) != 0 {
		t.Error("a pod of a namespace that is not open has the endpoint of the pod before it")
	}
}

// A pod does not start without the hub with an address that is another pod's by the last revision: rules would take it for that pod.
// Its own former address is no reason.
func TestAnAddressThatTheHubKnows(t *testing.T) {
	t.Parallel()
	all := shop()
	was := in("other", "was")
	all.Pods[was] = &policy.Pod{NamespacedName: was, Node: "node1", Addresses: []netip.Addr{addr("10.0.0.8")}}
	h := serve(t, "a", all)
	m := newMachine(t, "node1", h)
	old := []netip.Addr{addr("10.0.0.8")}
	a := m.start(map[policy.NamespacedName][]netip.Addr{was: old})
	a.follows()
	a.away(h)
	a.Forget(was, old)
	ctx, late := context.Background(), in("other", "late")
	if err := a.Enter(late, old); err != nil {
		t.Fatal(err)
	}
	if err := a.Tell(ctx, late, old); err == nil || !strings.Contains(err.Error(), "pod other/was has its address") || !strings.Contains(err.Error(), "no replica of the policy hub answers") {
		t.Errorf("%v: want the pod that has the address", err)
	}
	a.stop()
	a = m.start(map[policy.NamespacedName][]netip.Addr{late: old}) // killed before it could take the pod's start back
	if m.endpoint("10.0.0.8") != 0 {
		t.Error("the pod has an endpoint nevertheless")
	}
	a.Forget(late, old)
	now := []netip.Addr{addr("10.0.0.3")}
	for _, addresses := range [][]netip.Addr{old, now} { // two sandboxes of the pod
		if err := errors.Join(a.Enter(was, addresses), a.Tell(ctx, was, addresses)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(m.free("10.0.0.8"), m.free("10.0.0.3")); err != nil {
		t.Error(err)
	}
	a.Forget(was, old)
	eventually(t, "the former sandbox", func() error {
		if m.endpoint("10.0.0.8") != 0 {
			return errNot
		}
		return m.free("10.0.0.3")
	})
}

// When the hub is back a pod that has started without it has its rules in one step: what they allow is allowed all the time. If the hub does not
// know it yet, it has none as long as its namespace is open, and is closed from then on.
func TestTheHubComesBack(t *testing.T) {
	t.Parallel()
	h := serve(t, "a", shop())
	m := newMachine(t, "node1", h)
	a := m.start(nil)
	a.follows()
	a.away(h)
	x, address := in("other", "x"), []netip.Addr{addr("10.0.0.3")}
	if err := errors.Join(a.Enter(x, address), a.Tell(context.Background(), x, address)); err != nil {
		t.Fatal(err)
	}
	number := m.endpoint("10.0.0.3")
	out := fromWeb("10.0.0.3", "192.0.2.1")
	out.Direction = policy.Egress
	stop, asked := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			row, err := m.decides(out)
			if err == nil && policy.Action(row.Action) != policy.Allow {
				err = errors.New("what no policy denies was denied")
			}
			if err != nil {
				asked <- err
				return
			}
			select {
			case <-stop:
				asked <- nil
				return
			default:
			}
		}
	}()
	// A replica that does not know the pod, and the namespace is open.
	h = serve(t, "b", shop())
	m.find(h)
	a.follows()
	if err := m.free("10.0.0.3"); err != nil {
		t.Error(err)
	}
	// It learns of the pod, and of a policy that lets nobody in.
	deny := policy.Policy{
		Ref: policy.Ref{Kind: "NetworkPolicy", Namespace: "other", Name: "deny"}, Subject: policy.PodSelector{Namespace: "other"},
		Directions: [2]bool{policy.Ingress: true},
	}
	if err := h.Apply(compile.Delta{
		Pods:     map[policy.NamespacedName]*policy.Pod{x: {NamespacedName: x, Node: "node1", Addresses: address}},
		Policies: []compile.Change{{Ref: deny.Ref, Policy: &deny, Tier: "default"}},
	}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the policy", func() error {
		row, err := m.decides(fromWeb("10.0.0.3", "10.0.0.9"))
		if err == nil && policy.Action(row.Action) != policy.Deny {
			err = errNot
		}
		return err
	})
	close(stop)
	if err := <-asked; err != nil || m.endpoint("10.0.0.3") != number {
		t.Errorf("%v, endpoint %d, was %d", err, m.endpoint("10.0.0.3"), number)
	}
	// Another one starts in vain: its namespace is open no more, and the hub does not know it.
	y, its := in("other", "y"), []netip.Addr{addr("10.0.0.4")}
	if err := errors.Join(a.Enter(y, its), a.Tell(context.Background(), y, its)); err != nil {
		t.Fatal(err)
	}
	if m.endpoint("10.0.0.4") != 0 {
		t.Error("a pod that the hub does not name has an endpoint in a namespace that is not open")
	}
	if err := h.Apply(compile.Delta{Policies: []compile.Change{{Ref: deny.Ref}}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the namespace is open", func() error { return m.free("10.0.0.4") })
	deny.Subject.Pods = selector.In("app", "to come") // only the open namespaces change
	if err := h.Apply(compile.Delta{Policies: []compile.Change{{Ref: deny.Ref, Policy: &deny, Tier: "default"}}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "and closed", func() error {
		if m.endpoint("10.0.0.4") != 0 {
			return errNot
		}
		return nil
	})
}

// What somebody else does to the maps is repaired, said and counted.
func TestMapsAreCompared(t *testing.T) {
	t.Parallel()
	h := serve(t, "a", shop())
	m := newMachine(t, "node1", h)
	now := clocktesting.NewFakeClock(time.Now())
	m.clock = now
	a := m.start(map[policy.NamespacedName][]netip.Addr{in("shop", "old"): {addr("10.0.0.7")}})
	a.follows()
	if m.endpoint("10.0.0.7") == 0 {
		t.Fatal("the pod has no endpoint")
	}
	for _, half := range []uint32{0, 1} {
		if err := m.programs.Maps["tw_pol_addrs_3"].Delete(half); err != nil {
			t.Fatal(err)
		}
	}
	if m.endpoint("10.0.0.7") != 0 {
		t.Fatal("the map is still there")
	}
	eventually(t, "the repair", func() error {
		if now.HasWaiters() {
			now.Step(comparePeriod)
		}
		if m.endpoint("10.0.0.7") == 0 {
			return errNot
		}
		return nil
	})
	eventually(t, "the alarm", func() error {
		if alarms := m.alarmed(); len(alarms) != 1 || !strings.HasPrefix(alarms[0], "PolicyMapsRepaired: ") || !strings.Contains(alarms[0], "tw_pol_addrs_3") {
			return fmt.Errorf("%q", alarms)
		}
		return nil
	})
	if v := metric(t, a, "terway_policy_alarms_total", "PolicyMapsRepaired"); v != 1 {
		t.Errorf("%v alarms are counted", v)
	}
}

// metric is a metric's value, with a label.
func metric(t *testing.T, c prometheus.Collector, name, label string) float64 {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(c)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			if f.GetName() == name && (label == "" || len(m.Label) == 1 && m.Label[0].GetValue() == label) {
				return m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	t.Fatalf("there is no metric %s of %q", name, label)
	return 0
}

// What an agent has made in the kernel ends with it and with the programs that have it.
func TestMapsEndWithTheAgent(t *testing.T) {
	t.Parallel()
	h := serve(t, "a", shop())
	m := newMachine(t, "node1", h)
	a := m.start(map[policy.NamespacedName][]netip.Addr{in("shop", "old"): {addr("10.0.0.7")}})
	a.follows()
	// The agent's maps are in those of the programs.
	var ids []ebpf.MapID
	for name, outer := range m.programs.Maps {
		if outer.Type() != ebpf.ArrayOfMaps {
			continue
		}
		for half := range uint32(2) {
			var id uint32
			switch err := outer.Lookup(half, &id); {
			case err == nil:
				ids = append(ids, ebpf.MapID(id))
			case !errors.Is(err, ebpf.ErrKeyNotExist):
				t.Fatalf("half %d of %s: %v", half, name, err)
			}
		}
	}
	open := func() (n int) {
		for _, id := range ids {
			if m, err := ebpf.NewMapFromID(id); err == nil {
				n++
				_ = m.Close()
			}
		}
		return n
	}
	a.stop()
	if n := open(); n != len(ids) || n == 0 {
		t.Fatalf("%d of %d maps are there: the programs have them all", n, len(ids))
	}
	if err := m.programs.Close(); err != nil {
		t.Error(err)
	}
	eventually(t, "the maps go", func() error {
		if n := open(); n > 0 {
			return fmt.Errorf("%d are there", n)
		}
		return nil
	})
}

// On a kernel that cannot have policies pods start only where none can deny them anything, and the node says why.
func TestAnOldKernel(t *testing.T) {
	t.Parallel()
	h := serve(t, "a", shop())
	m := newMachine(t, "node1", h)
	first := make(chan struct{})
	o := m.options(first)
	o.Wait = time.Hour // nothing is waited for but the hub
	tries := 0
	o.Maps = func() (map[string]*ebpf.Map, error) {
		tries++
		return nil, &datapath.UnsupportedError{Feature: "maps of maps", Err: errors.New("EINVAL")}
	}
	a := m.run(o, first, nil)
	const why = "this kernel lacks maps of maps: EINVAL"
	ctx := context.Background()
	if err := a.Await(ctx, "shop"); err == nil || !strings.Contains(err.Error(), why) {
		t.Errorf("%v: want %s", err, why)
	}
	web, other, address := in("shop", "web"), in("other", "x"), []netip.Addr{addr("10.0.0.5")}
	if err := a.Enter(web, address); err == nil || !strings.Contains(err.Error(), why) {
		t.Errorf("%v: want %s", err, why)
	}
	if err := errors.Join(a.Await(ctx, "other"), a.Enter(other, address), a.Tell(ctx, other, address)); err != nil {
		t.Errorf("nothing selects a pod of namespace other: %v", err)
	}
	a.Forget(other, address)
	if ok, reason, message := a.State(); ok || reason != "KernelLacksFeature" || !strings.Contains(message, why) {
		t.Errorf("%v, %s: %s", ok, reason, message)
	}
	if v := metric(t, a, "terway_policy_following", ""); v != 1 {
		t.Errorf("terway_policy_following is %v", v)
	}
	a.stop()
	if alarms := m.alarmed(); len(alarms) != 1 || tries != 1 || !strings.Contains(alarms[0], why) {
		t.Errorf("after %d tries: %q", tries, alarms)
	}
}

// While programs do not look into the maps no pod starts, and it is tried again.
func TestProgramsAreTurnedOnAgain(t *testing.T) {
	t.Parallel()
	h := serve(t, "a", shop())
	m := newMachine(t, "node1", h)
	first := make(chan struct{})
	o := m.options(first)
	var fine atomic.Bool
	o.Written = func() error {
		if !fine.Load() {
			return errors.New("no memory")
		}
		close(first)
		return nil
	}
	a := m.run(o, first, nil)
	address := []netip.Addr{addr("10.0.0.5")}
	eventually(t, "the error", func() error {
		if ok, reason, message := a.State(); ok || reason != "NotWritten" || !strings.Contains(message, "no memory") {
			return fmt.Errorf("%v, %s: %s", ok, reason, message)
		}
		return nil
	})
	if err := a.Enter(in("shop", "web"), address); err == nil || !strings.Contains(err.Error(), "no memory") {
		t.Errorf("a pod starts: %v", err)
	}
	fine.Store(true)
	eventually(t, "the programs", func() error { return a.Enter(in("shop", "web"), address) })
}

// Packets that were dropped are counted by direction.
func TestDeniedPackets(t *testing.T) {
	t.Parallel()
	a := newMachine(t, "node1", serve(t, "a", shop())).start(nil)
	for direction, want := range map[string]float64{"ingress": 3, "egress": 4} {
		if v := metric(t, a, "terway_policy_denied_packets_total", direction); v != want {
			t.Errorf("%s: %v packets, want %v", direction, v, want)
		}
	}
}

// Pods that come and go while a part is being written have what they should afterwards, and never what was another's.
func TestPodsComeAndGoDuringAWrite(t *testing.T) {
	address := []netip.Addr{addr("10.0.0.7")}
	old, late := in("shop", "old"), in("shop", "late")
	part := &compile.Node{Endpoints: map[policy.NamespacedName]compile.Endpoint{old: {Addresses: address}}}
	closed := func(string) bool { return false }
	for what, c := range map[string]struct {
		before, during func(*pods) bool
		// ends is who has the address in the maps in the end.
		ends policy.NamespacedName
	}{
		"its address goes to another pod": {
			before: func(p *pods) bool { return p.enter(old, address) },
			during: func(p *pods) bool { p.leave(old, address); return p.enter(late, address) },
		},
		"it goes and comes": {
			before: func(p *pods) bool {
				p.enter(old, address)
				p.keep(part, closed)
				p.wrote(true)
				return p.leave(old, address)
			},
			during: func(p *pods) bool { return p.enter(old, address) },
			ends:   old,
		},
		"it goes": {
			before: func(p *pods) bool { return p.enter(old, address) },
			during: func(p *pods) bool { return p.leave(old, address) },
		},
	} {
		t.Run(what, func(t *testing.T) {
			var p pods
			c.before(&p)
			p.keep(part, closed)
			if !c.during(&p) {
				t.Error("nobody writes again")
			}
			if !p.wrote(true) {
				t.Error("nobody writes again when it is written")
			}
			p.keep(part, closed)
			if p.wrote(true) || p.written[address[0]] != c.ends {
				t.Errorf("in the maps is %v, want %v", p.written, c.ends)
			}
		})
	}
}

// What was written of a pod without rules is not written again until the pod goes.
func TestAPodWithoutRulesIsWrittenOnce(t *testing.T) {
	var p pods
	x, address := in("other", "x"), []netip.Addr{addr("10.0.0.3")}
	p.enter(x, address)
	p.start(x, address)
	p.keep(wire.NewPart().Node(), func(string) bool { return true })
	if p.wrote(true) || p.written[address[0]] != x {
		t.Errorf("in the maps is %v, and it is written again", p.written)
	}
	if !p.leave(x, address) {
		t.Error("nobody writes again when it goes")
	}
}

// A pod that starts anew does not wait until the hub knows that the one before is gone, and the hub does not hear of that afterwards.
func TestAPodOvertakesItsEnd(t *testing.T) {
	t.Parallel()
	h := serve(t, "a", shop())
	m1, m2 := newMachine(t, "node1", h), newMachine(t, "node2", h)
	one, two := m1.start(nil), m2.start(map[policy.NamespacedName][]netip.Addr{in("shop", "db"): {addr("10.0.0.9")}})
	one.follows()
	two.follows()
	web, address := in("shop", "web"), []netip.Addr{addr("10.0.0.5")}
	if err := one.Enter(web, address); err != nil {
		t.Fatal(err)
	}
	one.tell(web, address)
	// All who tell the hub of pods that left wait for something.
	var release []func()
	for i := range mostLeavers {
		pod, its := in("shop", fmt.Sprint("gone", i)), []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 1, byte(i)})}
		_, done := one.turns.take(pod)
		release = append(release, done)
		one.mu.Lock()
		one.claims[pod] = its
		one.mu.Unlock()
		one.Forget(pod, its)
	}
	one.Forget(web, address)
	if err := one.Enter(web, address); err != nil {
		t.Fatal(err)
	}
	one.tell(web, address)
	for _, done := range release {
		done()
	}
	eventually(t, "the hub knows who left", func() error {
		one.mu.Lock()
		defer one.mu.Unlock()
		if one.leavers > 0 {
			return errNot
		}
		return nil
	})
	row, err := m2.decides(fromWeb("10.0.0.9", "10.0.0.5"))
	if err != nil || policy.Action(row.Action) != policy.Allow {
		t.Errorf("%+v, %v: want the pod known", row, err)
	}
}

// Agents and hubs are killed at any moment while pods come and go here and there. In the end the kernel says what the hub says of
// the pods that are here, and nothing passes at others.
func TestKilledAtAnyMoment(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			chance := rand.New(rand.NewPCG(seed, 22))
			c := newCluster(t, seed)
			name := policytest.Nodes[0]
			h := serve(t, "a", c.all())
			m := newMachine(t, name, h)
			wired := map[policy.NamespacedName][]netip.Addr{}
			a := m.start(wired)
			killed := 0
			for range 80 {
				switch chance.IntN(8) {
				case 0:
					h.server.Stop()
					h = serve(t, "b", c.all())
					m.find(h)
					killed++
				case 1:
					a.stop()
					a = m.start(wired)
					killed++
				case 2, 3, 4: // a pod comes, or goes
					for pod, addresses := range c.pods(name) {
						if was := wired[pod]; was != nil {
							delete(wired, pod)
							a.Forget(pod, was)
							break
						}
						// The agent enters none before there is something in the maps.
						if a.Enter(pod, addresses) == nil {
							wired[pod] = addresses
						}
						break
					}
				default:
					c.change(t, h)
				}
			}
			a.follows()
			for pod, addresses := range c.pods(name) {
				if chance.IntN(3) > 0 {
					if err := a.Enter(pod, addresses); err != nil {
						t.Fatal(err)
					}
					wired[pod] = addresses
				}
			}
			list := c.connections(name)
			open := 0
			for _, conn := range list {
				if wired[conn.Pod] != nil {
					open++
				}
			}
			eventually(t, "the kernel", func() error { return a.has(c.ForNode(name), wired, list) })
			t.Logf("%d kills; %d of %d connections at pods that are here", killed, open, len(list))
		})
	}
}
