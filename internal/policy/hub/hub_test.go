package hub_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
	"testing"

	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/compile"
	"terway.dev/terway/internal/policy/policytest"
	"terway.dev/terway/internal/policy/selector"
)

// A node gets its part soon after it connects, and each change of it.
func TestANodeHasItsPart(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	h := serve(t, newHub("a"))
	if err := h.Apply(c.all()); err != nil {
		t.Fatal(err)
	}
	a := start(t, "node1", stateFile(t), &consumer{}, func() []string { return []string{h.addr} })
	for range 50 {
		eventually(t, "the node's part", func() error { return a.consumer.has(c.ForNode("node1")) })
		c.change(t, h.Apply)
	}
	if s := a.Status(); s.Hub != "a" || s.Revision == 0 || s.Settled.IsZero() || !s.Following {
		t.Errorf("the node reports %+v", s)
	}
}

// Hub and node restart, and the node connects to another replica with another history. Nothing
// is sent, because the node has everything. The Consumer gets the state on disk at once, and
// nothing after that.
func TestResumingSendsNothing(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	first := serve(t, newHub("a"))
	if err := first.Apply(c.all()); err != nil {
		t.Fatal(err)
	}
	path := stateFile(t)
	at := first.addr
	hubs := func() []string { return []string{at} }
	a := start(t, "node1", path, &consumer{}, hubs)
	for range 30 {
		c.change(t, first.Apply)
	}
	has := func(a *agent) {
		t.Helper()
		eventually(t, "the node's part", func() error { return a.consumer.has(c.ForNode("node1")) })
	}
	has(a)
	if a.Stats().Bytes == 0 {
		t.Fatal("nothing was sent to a node that had nothing")
	}

	// The node restarts without a hub, and then connects to one that got everything at once.
	a.stop()
	first.server.Stop()
	second := newHub("b")
	if err := second.Apply(c.all()); err != nil {
		t.Fatal(err)
	}
	r := serve(t, second)
	a = start(t, "node1", path, &consumer{}, hubs)
	if err := a.consumer.has(c.ForNode("node1")); err != nil {
		t.Fatalf("with no hub: %v", err)
	}
	if s := a.Status(); s.Hub != "a" || s.Following {
		t.Errorf("with no hub the node reports %+v", s)
	}
	if calls, keys := a.consumer.count(); calls != 1 || keys != -1 {
		t.Errorf("the consumer was given %d keys in call %d: want everything, once", keys, calls)
	}
	a.stop()
	at = r.addr
	a = start(t, "node1", path, &consumer{}, hubs)
	settled := func() error {
		if s := a.Status(); s.Hub != "b" || !s.Following {
			return fmt.Errorf("it has %+v", s)
		}
		return nil
	}
	eventually(t, "the node connects to the other replica", settled)
	has(a)
	if s := a.Stats(); s.Put != 0 || s.Removed != 0 {
		t.Errorf("%d resources came and %d went: want none", s.Put, s.Removed)
	}
	if b := r.Stats(); b.Bytes != 0 {
		t.Errorf("the replica sent %d bytes of resources", b.Bytes)
	}
	if calls, _ := a.consumer.count(); calls != 1 {
		t.Errorf("the consumer was called %d times: want once", calls)
	}
}

// Hubs and nodes are killed at any moment while the cluster changes. In the end each node has
// the rules of its pods.
func TestKilledAtAnyMoment(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			chance := rand.New(rand.NewPCG(seed, 8))
			c := newCluster(t, seed)
			replicas := make([]*replica, 2)
			restart := func(i int) {
				if replicas[i] != nil {
					replicas[i].server.Stop()
				}
				h := newHub(fmt.Sprintf("%d", i))
				if err := h.Apply(c.all()); err != nil {
					t.Fatal(err)
				}
				replicas[i] = serve(t, h)
			}
			restart(0)
			restart(1)
			addresses := make(chan []string, 1)
			addresses <- nil
			publish := func() {
				<-addresses
				addresses <- []string{replicas[0].addr, replicas[1].addr}
			}
			publish()
			hubs := func() []string {
				list := <-addresses
				addresses <- list
				return list
			}
			agents := map[string]*agent{}
			for _, n := range policytest.Nodes {
				agents[n] = start(t, n, stateFile(t), &consumer{}, hubs)
			}
			killed := 0
			for range 150 {
				switch chance.IntN(12) {
				case 0:
					restart(chance.IntN(2))
					publish()
					killed++
				case 1:
					n := policytest.Nodes[chance.IntN(2)]
					agents[n].kill(t)
					agents[n] = start(t, n, agents[n].path, &consumer{}, hubs)
					killed++
				case 2:
					n := policytest.Nodes[chance.IntN(2)]
					agents[n].consumer.breakDown(errors.New("out of order"))
				case 3:
					n := policytest.Nodes[chance.IntN(2)]
					agents[n].consumer.breakDown(nil)
				case 4:
					n := policytest.Nodes[chance.IntN(2)]
					eventually(t, "the node connects", func() error {
						if !agents[n].Status().Following {
							return errors.New(agents[n].Status().Error)
						}
						return nil
					})
				default:
					c.change(t, replicas[0].Apply, replicas[1].Apply)
				}
			}
			for n, a := range agents {
				a.consumer.breakDown(nil)
				eventually(t, n+" in the end", func() error { return a.consumer.has(c.ForNode(n)) })
				// The file has the same, after at most a second.
				a.stop()
				again := start(t, n, a.path, &consumer{}, func() []string { return nil })
				if err := again.consumer.has(c.ForNode(n)); err != nil {
					t.Errorf("on disk of %s: %v", n, err)
				}
			}
			t.Logf("%d kills", killed)
		})
	}
}

// A node that does not answer gets nothing more until it does, and then one difference with all
// changes.
func TestASlowNodeGetsOneDifference(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	h := serve(t, newHub("a"))
	if err := h.Apply(c.all()); err != nil {
		t.Fatal(err)
	}
	hubs := func() []string { return []string{h.addr} }
	slow := &consumer{slow: make(chan struct{})}
	a := start(t, "node1", stateFile(t), slow, hubs)
	fast := start(t, "node2", stateFile(t), &consumer{}, hubs)
	for range 200 {
		c.change(t, h.Apply)
	}
	eventually(t, "the other node", func() error { return fast.consumer.has(c.ForNode("node2")) })
	close(slow.slow)
	eventually(t, "the slow node", func() error { return slow.has(c.ForNode("node1")) })
	if calls, _ := slow.count(); calls > 3 {
		t.Errorf("the slow node was given %d revisions: want the first and the last", calls)
	}
	if s := a.Status(); s.Refused != "" {
		t.Error(s.Refused)
	}
}

// A node that cannot apply a revision says why, and tries again by itself.
func TestANodeThatCannot(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 4)
	h := serve(t, newHub("a"))
	if err := h.Apply(c.all()); err != nil {
		t.Fatal(err)
	}
	broken := &consumer{broken: errors.New("the map of peers is full")}
	a := start(t, "node1", stateFile(t), broken, func() []string { return []string{h.addr} })
	eventually(t, "the hub gets the error", func() error {
		if h.Stats().Nacked == 0 {
			return errors.New("nothing was refused")
		}
		return nil
	})
	if s := a.Status(); s.Refused != "the map of peers is full" || !s.Following {
		t.Errorf("the node reports %+v", s)
	}
	broken.breakDown(nil)
	eventually(t, "the node applies it", func() error { return broken.has(c.ForNode("node1")) })
}

// The file is damaged or inconsistent: the node starts empty, and gets everything.
func TestADamagedFile(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 5)
	h := serve(t, newHub("a"))
	if err := h.Apply(c.all()); err != nil {
		t.Fatal(err)
	}
	path := stateFile(t)
	hubs := func() []string { return []string{h.addr} }
	a := start(t, "node1", path, &consumer{}, hubs)
	eventually(t, "the node's part", func() error { return a.consumer.has(c.ForNode("node1")) })
	a.stop()
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	bit := append([]byte(nil), good...)
	bit[len(bit)/2] ^= 1
	for what, data := range map[string][]byte{
		"empty": {}, "cut": good[:len(good)-1], "a bit": bit, "of a later version": []byte(strings.Replace(string(good), "state 1", "state 2", 1)),
	} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		a := start(t, "node1", path, &consumer{}, func() []string { return nil })
		if calls, _ := a.consumer.count(); calls != 0 {
			t.Errorf("%s: the consumer was called", what)
		}
		a.stop()
		a = start(t, "node1", path, &consumer{}, hubs)
		eventually(t, what, func() error { return a.consumer.has(c.ForNode("node1")) })
		a.stop()
	}
}

// pods and policies for the tests of addresses: web on node1, db on node2, which allows web.
func shop() (policy.Set, policy.Cluster) {
	web, db := selector.In("app", "web"), selector.In("app", "db")
	p := policy.Policy{
		Ref:        policy.Ref{Kind: "NetworkPolicy", Namespace: "shop", Name: "db"},
		Subject:    policy.PodSelector{Namespace: "shop", Pods: db},
		Directions: [2]bool{policy.Ingress: true},
	}
	p.Rules[policy.Ingress] = []policy.Rule{{Action: policy.Allow, Peers: []policy.Match{{In: []policy.AddrSet{{Pods: &policy.PodSelector{Namespace: "shop", Pods: web}}}}}}}
	pod := func(name, app, node string, addresses ...netip.Addr) *policy.Pod {
		return &policy.Pod{NamespacedName: in("shop", name), Labels: policy.Labels{"app": app}, Node: node, Addresses: addresses}
	}
	return policy.Set{Tiers: []policy.Tier{{Name: "default", Default: policy.Deny, Policies: []policy.Policy{p}}}}, policy.Cluster{
		Namespaces: map[string]policy.Labels{"shop": {}, "other": {}},
		Nodes:      map[string]*policy.Node{"node1": {}, "node2": {}},
		Pods: map[policy.NamespacedName]*policy.Pod{
			in("shop", "web"):   pod("web", "web", "node1"),
			in("shop", "old"):   pod("old", "other", "node1", netip.MustParseAddr("10.0.0.7")),
			in("shop", "db"):    pod("db", "db", "node2", netip.MustParseAddr("10.0.0.9")),
			in("other", "else"): {NamespacedName: in("other", "else"), Node: "node1", HostNetwork: true, Addresses: []netip.Addr{netip.MustParseAddr("192.168.0.1")}},
		},
	}
}

func in(namespace, name string) policy.NamespacedName {
	return policy.NamespacedName{Namespace: namespace, Name: name}
}

// knows reports whether the node has a rule for an address.
func (c *consumer) knows(a string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.part.Addresses[netip.MustParseAddr(a)]
	return ok
}

// When PodAddress returns, the nodes whose rules select the pod have its address, without the
// API server. Invalid claims are refused.
func TestAddressesBeforeTheAPIServerKnowsThem(t *testing.T) {
	t.Parallel()
	h := serve(t, newHub("a"))
	if err := h.Apply(compile.All(shop())); err != nil {
		t.Fatal(err)
	}
	hubs := func() []string { return []string{h.addr} }
	one := start(t, "node1", stateFile(t), &consumer{}, hubs)
	two := start(t, "node2", stateFile(t), &consumer{}, hubs)
	for _, a := range []*agent{one, two} {
		eventually(t, "the nodes connect", func() error {
			if !a.Status().Following {
				return errors.New("no")
			}
			return nil
		})
	}
	ctx := context.Background()
	tell := func(a *agent, pod policy.NamespacedName, addresses ...string) (int, error) {
		var list []netip.Addr
		for _, s := range addresses {
			list = append(list, netip.MustParseAddr(s))
		}
		return a.PodAddress(ctx, pod, list...)
	}
	nodes, err := tell(one, in("shop", "web"), "10.0.0.5")
	if err != nil || nodes != 2 {
		t.Errorf("%d nodes, %v: want both: the pod's own, and the one whose rules select it", nodes, err)
	}
	if !two.consumer.knows("10.0.0.5") {
		t.Error("the node of db does not know web's address when PodAddress has returned")
	}
	for what, call := range map[string]func() (int, error){
		"a pod of another node":               func() (int, error) { return tell(one, in("shop", "db"), "10.0.0.6") },
		"an address of a pod of another node": func() (int, error) { return tell(one, in("shop", "web"), "10.0.0.9") },
		"an address that another node claims": func() (int, error) { return tell(two, in("shop", "db"), "10.0.0.5") },
		"a pod that is not there":             func() (int, error) { return tell(one, in("shop", "nobody"), "10.0.0.6") },
		"a pod in the host network":           func() (int, error) { return tell(one, in("other", "else"), "10.0.0.6") },
		"two addresses of a family":           func() (int, error) { return tell(one, in("shop", "web"), "10.0.0.5", "10.0.0.6") },
		"an address that no host can have":    func() (int, error) { return tell(one, in("shop", "web"), "127.0.0.1") },
	} {
		if _, err := call(); err == nil {
			t.Errorf("%s is accepted", what)
		} else {
			t.Logf("%s: %v", what, err)
		}
	}
	if s := one.Stats(); s.Addresses != 7 || s.Late != 6 {
		t.Errorf("%d addresses were reported, %d late: want 7 and 6", s.Addresses, s.Late)
	}
	// Later the API server has the same addresses, and nothing changes.
	_, c := shop()
	told := *c.Pods[in("shop", "web")]
	told.Addresses = []netip.Addr{netip.MustParseAddr("10.0.0.5")}
	sent := h.Stats().Sent
	if err := h.Apply(compile.Delta{Pods: map[policy.NamespacedName]*policy.Pod{told.NamespacedName: &told}}); err != nil {
		t.Fatal(err)
	}
	if now := h.Stats().Sent; now != sent {
		t.Errorf("%d revisions were sent though nothing had changed", now-sent)
	}
	// The pod gets a new sandbox, and the address of a pod of this node that is about to be deleted. The API server
	// has its old address.
	if nodes, err := tell(one, in("shop", "web"), "10.0.0.7"); err != nil || nodes != 2 {
		t.Errorf("another address: %d nodes, %v: want both", nodes, err)
	}
	if two.consumer.knows("10.0.0.5") || !two.consumer.knows("10.0.0.7") {
		t.Error("the node of db knows web by the address of its old sandbox")
	}
	if err := h.Apply(compile.Delta{Pods: map[policy.NamespacedName]*policy.Pod{told.NamespacedName: nil}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the address goes with the pod", func() error {
		if two.consumer.knows("10.0.0.7") {
			return errors.New("it is there")
		}
		return nil
	})
	h.server.Stop()
	eventually(t, "the hub is away", func() error {
		if one.Status().Following {
			return errors.New("the node connects")
		}
		return nil
	})
	if _, err := tell(one, in("shop", "web"), "10.0.0.5"); err == nil {
		t.Error("without a hub PodAddress returns no error")
	}
}

// A pod that the hub does not know yet is added while PodAddress waits.
func TestAnAddressBeforeItsPod(t *testing.T) {
	t.Parallel()
	h := serve(t, newHub("a"))
	set, c := shop()
	web := c.Pods[in("shop", "web")]
	delete(c.Pods, web.NamespacedName)
	if err := h.Apply(compile.All(set, c)); err != nil {
		t.Fatal(err)
	}
	one := start(t, "node1", stateFile(t), &consumer{}, func() []string { return []string{h.addr} })
	eventually(t, "the node connects", func() error {
		if !one.Status().Following {
			return errors.New("no")
		}
		return nil
	})
	done := make(chan error)
	go func() {
		_, err := one.PodAddress(context.Background(), web.NamespacedName, netip.MustParseAddr("10.0.0.5"))
		done <- err
	}()
	if err := h.Apply(compile.Delta{Pods: map[policy.NamespacedName]*policy.Pod{web.NamespacedName: web}}); err != nil {
		t.Fatal(err)
	}
	// node2 is not connected: PodAddress reports that it may be late there, and does not fail.
	if err := <-done; err == nil || !strings.Contains(err.Error(), "1 of 2 have it") {
		t.Errorf("%v: want that one of two nodes has it", err)
	}
	if part := one.consumer; part.part.Endpoints[web.NamespacedName].Addresses == nil {
		t.Error("the pod's own node does not have its endpoint")
	}
}

// Nodes are connected to different replicas. A pod's address reaches the nodes of both.
func TestAnAddressGoesToAllReplicas(t *testing.T) {
	t.Parallel()
	var replicas [2]*replica
	var agents [2]*agent
	both := make(chan struct{})
	for i := range replicas {
		replicas[i] = serve(t, newHub(fmt.Sprint(i)))
		if err := replicas[i].Apply(compile.All(shop())); err != nil {
			t.Fatal(err)
		}
	}
	for i := range agents {
		agents[i] = start(t, fmt.Sprintf("node%d", i+1), stateFile(t), &consumer{}, func() []string {
			select {
			case <-both:
				return []string{replicas[0].addr, replicas[1].addr}
			default:
				return []string{replicas[i].addr}
			}
		})
		eventually(t, "the node connects to its replica", func() error {
			if s := agents[i].Status(); !s.Following || s.Hub != fmt.Sprint(i) {
				return fmt.Errorf("%+v", s)
			}
			return nil
		})
	}
	web, address := in("shop", "web"), netip.MustParseAddr("10.0.0.5")
	if _, err := agents[0].PodAddress(context.Background(), web, address); err == nil || !strings.Contains(err.Error(), "1 of 2 have it") {
		t.Errorf("with the other replica unknown: %v", err)
	}
	close(both)
	eventually(t, "the other replica", func() error {
		nodes, err := agents[0].PodAddress(context.Background(), web, address)
		if err == nil && nodes != 2 {
			err = fmt.Errorf("%d nodes", nodes)
		}
		if err == nil && !agents[1].consumer.knows("10.0.0.5") {
			t.Error("the other node does not know the address when PodAddress has returned")
		}
		return err
	})
	// A stream for addresses does not count as a node's stream.
	for i, r := range replicas {
		if n := r.Stats().Nodes; n != 1 {
			t.Errorf("replica %d has %d nodes: want 1", i, n)
		}
	}
	// Without addresses, the pod has none.
	if nodes, err := agents[0].PodAddress(context.Background(), web); err != nil || nodes != 2 || agents[1].consumer.knows("10.0.0.5") {
		t.Errorf("taken away: %d nodes, %v", nodes, err)
	}
}

// ADD calls Open when no hub can be reached.
func TestOpenNamespaces(t *testing.T) {
	t.Parallel()
	allow := policy.Rule{Action: policy.Allow}
	deny := policy.Rule{Action: policy.Deny}
	everywhere := func(rules ...policy.Rule) policy.Policy {
		p := policy.Policy{Ref: policy.Ref{Kind: "GlobalNetworkPolicy", Name: "all"}, Directions: [2]bool{policy.Ingress: true}}
		p.Rules[policy.Ingress] = rules
		return p
	}
	h := serve(t, newHub("a"))
	set, c := shop()
	set.Tiers = append(set.Tiers, policy.Tier{Name: "probes", Default: policy.Pass, Policies: []policy.Policy{everywhere(allow)}})
	if err := h.Apply(compile.All(set, c)); err != nil {
		t.Fatal(err)
	}
	path := stateFile(t)
	a := start(t, "node1", path, &consumer{}, func() []string { return []string{h.addr} })
	is := func(want string) {
		t.Helper()
		eventually(t, "open namespaces", func() error {
			got := ""
			for _, ns := range []string{"none", "other", "shop"} {
				if a.Open(ns) {
					got += ns + " "
				}
			}
			if got != want {
				return fmt.Errorf("%q, want %q", got, want)
			}
			return nil
		})
	}
	change := func(c compile.Delta) {
		t.Helper()
		if err := h.Apply(c); err != nil {
			t.Fatal(err)
		}
	}
	one := func(p policy.Policy, tier string, index int) compile.Delta {
		return compile.Delta{Policies: []compile.Change{{Ref: p.Ref, Policy: &p, Tier: tier, Index: index}}}
	}
	is("other ") // a policy that allows everything closes nothing
	change(one(everywhere(allow, deny), "probes", 0))
	is("")
	p := everywhere(deny)
	p.Subject.Namespaces = selector.Has("closed")
	change(one(p, "probes", 0))
	is("other ")
	change(compile.Delta{Namespaces: map[string]policy.Labels{"other": {"closed": ""}}})
	is("")
	change(compile.Delta{Namespaces: map[string]policy.Labels{"other": {}, "none": {}}})
	is("none other ")
	change(compile.Delta{Policies: []compile.Change{{Ref: set.Tiers[0].Policies[0].Ref}}})
	is("none other shop ")
	change(one(everywhere(allow), "default", 0))
	is("")
	change(compile.Delta{Tiers: []policy.Tier{{Name: "default", Default: policy.Pass}, {Name: "probes", Default: policy.Pass}}})
	is("none other shop ")
	a.stop()
	a = start(t, "node1", path, &consumer{}, func() []string { return nil })
	is("none other shop ")
}

// Pods whose rules are beyond the budget are closed, so another one must not start in their namespace without the hub, although the rules
// alone deny nothing. The pods that make them so come by the API server, or are told by a node before that.
func TestOpenNamespacesBeyondTheBudget(t *testing.T) {
	t.Parallel()
	p := policy.Policy{
		Ref:     policy.Ref{Kind: "NetworkPolicy", Namespace: "shop", Name: "many"},
		Subject: policy.PodSelector{Namespace: "shop"}, Directions: [2]bool{policy.Ingress: true},
	}
	const allowed = 10
	pods := map[policy.NamespacedName]*policy.Pod{
		in("shop", "db"): {NamespacedName: in("shop", "db"), Node: "node1", Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}},
	}
	came, gone := map[policy.NamespacedName]*policy.Pod{}, map[policy.NamespacedName]*policy.Pod{}
	for i := range allowed {
		app := fmt.Sprint("client", i)
		from := policy.PodSelector{Namespace: "other", Pods: selector.In("app", app)}
		p.Rules[policy.Ingress] = append(p.Rules[policy.Ingress], policy.Rule{Action: policy.Allow, Number: i, Peers: []policy.Match{{In: []policy.AddrSet{{Pods: &from}}}}})
		name := in("other", app)
		pod := &policy.Pod{NamespacedName: name, Labels: policy.Labels{"app": app}, Node: "node1", Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 1, byte(i)})}}
		waits := *pod
		waits.Addresses = nil
		came[name], gone[name], pods[name] = pod, nil, &waits
	}
	h := serve(t, newHubOf("a", compile.Budget{Atoms: allowed - 2, Spans: 1000}))
	apply := func(d compile.Delta) {
		t.Helper()
		if err := h.Apply(d); err != nil {
			t.Fatal(err)
		}
	}
	apply(compile.All(policy.Set{Tiers: []policy.Tier{{Name: "default", Default: policy.Pass, Policies: []policy.Policy{p}}}},
		policy.Cluster{Namespaces: map[string]policy.Labels{"shop": {}, "other": {}}, Nodes: map[string]*policy.Node{"node1": {}}, Pods: pods}))
	a := start(t, "node1", stateFile(t), &consumer{}, func() []string { return []string{h.addr} })
	is := func(large int, open bool) {
		t.Helper()
		if got := len(h.Errors()); got != large {
			t.Fatalf("%d rule sets are beyond the budget, want %d", got, large)
		}
		eventually(t, "open namespaces", func() error {
			if a.Open("shop") != open || !a.Open("other") {
				return fmt.Errorf("shop is open: %t, want %t; other is open: %t", a.Open("shop"), open, a.Open("other"))
			}
			return nil
		})
	}
	is(0, true)
	apply(compile.Delta{Pods: came})
	is(1, false)
	apply(compile.Delta{Pods: gone})
	is(0, true)
	apply(compile.Delta{Pods: pods})
	for name, pod := range came {
		if _, err := a.PodAddress(t.Context(), name, pod.Addresses...); err != nil {
			t.Fatal(err)
		}
	}
	is(1, false)
	apply(compile.Delta{Policies: []compile.Change{{Ref: p.Ref}}})
	is(0, true)
}
