package compile

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/selector"
)

// These tests are about the tables as a whole: what is shared, what a change does not touch,
// what it costs, what fails closed. Package cases tests which connections are allowed.

func web(n int) *policy.PodSelector {
	return &policy.PodSelector{Pods: selector.In("app", fmt.Sprintf("web%d", n))}
}

func webPod(n int) *policy.Pod {
	return &policy.Pod{
		NamespacedName: policy.NamespacedName{Namespace: "default", Name: fmt.Sprintf("web%d", n)}, Node: "node",
		Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)})}, Labels: policy.Labels{"app": fmt.Sprintf("web%d", n)},
	}
}

func webs(n int) policy.Cluster {
	c := policy.Cluster{Pods: map[policy.NamespacedName]*policy.Pod{}}
	for i := range n {
		p := webPod(i)
		c.Pods[p.NamespacedName] = p
	}
	return c
}

// from returns an ingress rule for TCP ports.
func from(number int, a policy.Action, peers []policy.Match, ports ...policy.Port) policy.Rule {
	r := policy.Rule{Number: number, Action: a, Peers: peers}
	if ports != nil {
		r.Traffic = []policy.Traffic{{Protocols: &[256]bool{policy.TCPProtocol: true}, DestinationPorts: ports}}
	}
	return r
}

func podsOf(s *policy.PodSelector) []policy.Match {
	return []policy.Match{{In: []policy.AddrSet{{Pods: s}}}}
}

func netsOf(nets ...string) []policy.Match {
	var s policy.AddrSet
	for _, n := range nets {
		s.Nets = append(s.Nets, netip.MustParsePrefix(n))
	}
	return []policy.Match{{In: []policy.AddrSet{s}}}
}

// ingress returns a policy for web0 in the tier "default".
func ingress(rules ...policy.Rule) policy.Policy {
	p := policy.Policy{Ref: policy.Ref{Kind: "NetworkPolicy", Namespace: "default", Name: "p"}, Subject: *web(0), Directions: [2]bool{true, false}}
	p.Rules[policy.Ingress] = rules
	return p
}

func tiered(policies ...policy.Policy) policy.Set {
	return policy.Set{Tiers: []policy.Tier{{Name: "default", Default: policy.Deny, Policies: policies}}}
}

func compiled(t *testing.T, s policy.Set, c policy.Cluster) *Compiler {
	t.Helper()
	out, err := Compile(s, c, DefaultBudget)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func apply(t *testing.T, c *Compiler, d Delta) []string {
	t.Helper()
	nodes, err := c.Apply(d)
	if err != nil {
		t.Fatal(err)
	}
	return nodes
}

// ask returns the decision on TCP from an address to a port of a pod.
func ask(c *Compiler, pod *policy.Pod, peer string, port uint16) policy.Decision {
	m := c.ForNode(pod.Node).Maps()
	return m.Decision(m.Lookup(Packet{
		Endpoint: m.EndpointOf[pod.NamespacedName], Direction: policy.Ingress, Peer: netip.MustParseAddr(peer), Protocol: policy.TCPProtocol, DestinationPort: port,
	}))
}

// sizeOf returns the number of peers and of spans in the rows of a part, without the heads of tables.
func sizeOf(n *Node) (peers, spans int) {
	m := n.Maps()
	return len(m.Peers), len(m.Spans) - int(FirstTable)*(1+len(n.Tables))
}

func TestWideAndNarrowRulesAreNoProduct(t *testing.T) {
	const n = 500
	var rules []policy.Rule
	for i := range n {
		rules = append(rules,
			from(2*i, policy.Deny, nil, policy.Port{From: uint16(10 * i), To: uint16(10*i + 4)}),
			from(2*i+1, policy.Allow, podsOf(web(i))))
	}
	c := compiled(t, tiered(ingress(rules...)), webs(n))
	if peers, spans := sizeOf(c.ForNode("node")); peers != n || spans > 2*2*n+6*n+20 {
		t.Errorf("%d wide and %d narrow rules make %d peers and %d spans", n, n, peers, spans)
	}
	if d := ask(c, webPod(0), "10.0.0.3", 23); d.Action != policy.Deny || d.Rule.Number != 4 {
		t.Errorf("rule 4 must come before the peer's rule: %+v", d)
	}
	if d := ask(c, webPod(0), "10.0.0.3", 43); d.Action != policy.Allow || d.Rule.Number != 7 {
		t.Errorf("rule 7 for the peer must come before rule 8: %+v", d)
	}
}

func TestRulesThatPassAreNoProduct(t *testing.T) {
	const n = 500
	var rules []policy.Rule
	for i := range n {
		rules = append(rules,
			from(2*i, policy.Deny, nil, policy.Port{From: uint16(10 * i), To: uint16(10*i + 4)}),
			from(2*i+1, policy.Pass, podsOf(web(i))))
	}
	last := ingress(from(0, policy.Allow, nil, policy.Port{From: 40, To: 49}))
	last.Ref.Name = "last"
	set := policy.Set{Tiers: []policy.Tier{
		{Name: "first", Default: policy.Deny, Policies: []policy.Policy{ingress(rules...)}},
		{Name: "last", Default: policy.Deny, Policies: []policy.Policy{last}},
	}}
	c := compiled(t, set, webs(n))
	if peers, spans := sizeOf(c.ForNode("node")); peers != n || spans > 12*n {
		t.Errorf("%d wide rules and %d that pass make %d peers and %d spans", n, n, peers, spans)
	}
	for port, want := range map[uint16]policy.Decision{
		23: {Action: policy.Deny, Reason: policy.ByRule, Tier: "first", Rule: policy.RuleID{Policy: ingress().Ref, Number: 4}}, // before rule 7 passes
		43: {Action: policy.Allow, Reason: policy.ByRule, Tier: "last", Rule: policy.RuleID{Policy: last.Ref}},                 // rule 8 would deny
		53: {Action: policy.Deny, Reason: policy.ByTier, Tier: "last"},
	} {
		if d := ask(c, webPod(0), "10.0.0.3", port); !reflect.DeepEqual(d, want) {
			t.Errorf("port %d: %+v, want %+v", port, d, want)
		}
	}
}

func TestPodsWithTheSameRulesShareThem(t *testing.T) {
	cluster := webs(100)
	all := ingress(from(0, policy.Allow, podsOf(web(1))))
	all.Subject = policy.PodSelector{}
	c := compiled(t, tiered(all), cluster)
	n := c.ForNode("node")
	if len(n.Endpoints) != 100 || len(n.RuleSets) != 2 || len(n.Peers) != 1 || len(n.Addresses) != 1 {
		t.Errorf("of 100 pods the node has %d endpoints, %d rule sets (want one and that of egress), %d peers, %d addresses (only web1 is told apart)",
			len(n.Endpoints), len(n.RuleSets), len(n.Peers), len(n.Addresses))
	}
}

func TestANodeGetsOnlyWhatItsOwnPodsCanTellApart(t *testing.T) {
	cluster := webs(50)
	other := webPod(99)
	other.Node = "other"
	cluster.Pods[other.NamespacedName] = other
	var rules []policy.Rule
	for i := range 50 {
		rules = append(rules, from(i, policy.Allow, podsOf(web(i)), policy.Port{From: uint16(i), To: uint16(i)}))
	}
	rules = append(rules, from(50, policy.Allow, netsOf("203.0.113.0/24")))
	n := compiled(t, tiered(ingress(rules...)), cluster).ForNode("other")
	if len(n.Addresses)+len(n.Peers) > 0 || len(n.Ranges[0]) != 1 || len(n.Tables) != 1 || len(n.Endpoints) != 1 {
		t.Errorf("a node whose pod no policy selects has %+v", n)
	}
}

// Replicas, and a replica after a restart, make the same tables.
func TestReplicasAgree(t *testing.T) {
	set := tiered(ingress(from(0, policy.Allow, netsOf("10.0.0.1/32", "192.0.2.0/24")), from(1, policy.Deny, podsOf(web(2)))))
	one, two := compiled(t, set, webs(5)), New(DefaultBudget)
	for _, d := range []Delta{{Pods: webs(5).Pods}, All(set, policy.Cluster{})} {
		apply(t, two, d)
	}
	if a, b := one.ForNode("node").Maps(), two.ForNode("node").Maps(); !reflect.DeepEqual(a, b) {
		t.Errorf("\n%+v\n%+v", a, b)
	}
}

// A CIDR matches a pod with an address in it, also after a restart.
func TestANetworkMatchesPods(t *testing.T) {
	c := compiled(t, tiered(ingress(from(0, policy.Allow, netsOf("10.0.0.1/32")))), webs(3))
	if d := ask(c, webPod(0), "10.0.0.1", 80); d.Action != policy.Allow {
		t.Errorf("%+v", d)
	}
	if d := ask(c, webPod(0), "10.0.0.2", 80); d.Action != policy.Deny || d.Reason != policy.ByTier {
		t.Errorf("%+v", d)
	}
}

func TestAPodThatNoPolicySelectsAnyMoreIsOpen(t *testing.T) {
	c := compiled(t, tiered(ingress()), webs(2))
	if d := ask(c, webPod(0), "10.0.0.1", 80); d.Action != policy.Deny {
		t.Fatalf("%+v", d)
	}
	late := webPod(0)
	late.Labels = policy.Labels{"app": "another"}
	apply(t, c, Delta{Pods: map[policy.NamespacedName]*policy.Pod{late.NamespacedName: late}})
	if d := ask(c, late, "10.0.0.1", 80); d.Action != policy.Allow || d.Reason != policy.NoPolicy {
		t.Errorf("%+v", d)
	}
	m := c.ForNode("node").Maps()
	if flags := m.Endpoints[m.EndpointOf[late.NamespacedName]].Flags; flags != 0 {
		t.Errorf("flags %b of a pod that no policy selects", flags)
	}
}

// The address of a pod that has ended goes to another pod. The late deletion of the first pod
// does not take the address from the second.
func TestAnEndedPodsAddressIsAnothers(t *testing.T) {
	c := compiled(t, tiered(ingress(from(0, policy.Allow, podsOf(web(1))))), webs(2))
	ended, heir := webPod(1), webPod(2)
	ended.Ended = true
	heir.Addresses = ended.Addresses
	put := func(name policy.NamespacedName, p *policy.Pod) {
		apply(t, c, Delta{Pods: map[policy.NamespacedName]*policy.Pod{name: p}})
	}
	put(ended.NamespacedName, ended)
	put(heir.NamespacedName, heir)
	if d := ask(c, webPod(0), "10.0.0.1", 80); d.Action != policy.Deny {
		t.Errorf("the new owner of web1's address is treated as web1: %+v", d)
	}
	heir = webPod(1)
	heir.Name = "web1-again"
	put(policy.NamespacedName{Namespace: "default", Name: "web2"}, nil)
	put(heir.NamespacedName, heir)
	put(ended.NamespacedName, nil)
	if d := ask(c, webPod(0), "10.0.0.1", 80); d.Action != policy.Allow {
		t.Errorf("the late deletion removes the new pod's address: %+v", d)
	}
}

// Equal names of labels, ports, Services and networks do not collide.
func TestNamesDoNotMeet(t *testing.T) {
	cluster := webs(3)
	cluster.Pods[webPod(1).NamespacedName].Labels["http"] = "http"
	cluster.Pods[webPod(2).NamespacedName].Ports = []policy.NamedPort{{Name: "http", Protocol: policy.TCPProtocol, Port: 80}}
	cluster.Services = map[policy.NamespacedName][]policy.Endpoint{{Namespace: "default", Name: "http"}: {{Address: netip.MustParseAddr("192.0.2.1"), Protocol: policy.TCPProtocol, Port: 1}}}
	named := from(0, policy.Allow, nil)
	named.Traffic = []policy.Traffic{{SourcePorts: []policy.Port{{Name: "http"}}}}
	labelled := from(1, policy.Allow, podsOf(&policy.PodSelector{Pods: selector.Has("http")}), policy.Port{From: 81, To: 81})
	service := from(2, policy.Allow, []policy.Match{{In: []policy.AddrSet{{Service: &policy.ServiceRef{Namespace: "default", Name: "http"}}}}}, policy.Port{From: 82, To: 82})
	c := compiled(t, tiered(ingress(named, labelled, service)), cluster)
	m := c.ForNode("node").Maps()
	for peer, ports := range map[string][2]uint16{"10.0.0.1": {1024, 81}, "10.0.0.2": {80, 1}, "192.0.2.1": {1024, 82}} {
		for source := range 2 {
			p := Packet{Endpoint: m.EndpointOf[webPod(0).NamespacedName], Peer: netip.MustParseAddr(peer), Protocol: policy.TCPProtocol, SourcePort: ports[0], DestinationPort: ports[1]}
			want := policy.Allow
			if source == 1 {
				p.SourcePort, p.DestinationPort, want = 1025, 90, policy.Deny
			}
			if d := m.Decision(m.Lookup(p)); d.Action != want {
				t.Errorf("%+v: %+v", p, d)
			}
		}
	}
}

func TestPortRangesWithOneStart(t *testing.T) {
	c := compiled(t, tiered(ingress(
		from(0, policy.Deny, nil, policy.Port{From: 80, To: 80}),
		from(1, policy.Allow, nil, policy.Port{From: 80, To: 90}, policy.Port{From: 80, To: 100}, policy.Port{From: 85, To: 85}),
		from(2, policy.Deny, nil, policy.Port{From: 80, To: 65535}),
	)), webs(2))
	for port, rule := range map[uint16]int{80: 0, 81: 1, 100: 1, 101: 2, 65535: 2} {
		if d := ask(c, webPod(0), "10.0.0.1", port); d.Rule.Number != rule || d.Reason != policy.ByRule {
			t.Errorf("port %d: %+v", port, d)
		}
	}
	if d := ask(c, webPod(0), "10.0.0.1", 79); d.Reason != policy.ByTier {
		t.Errorf("port 79: %+v", d)
	}
}

// Pass skips tiers that do not select the pod.
func TestPassOverTiersThatAreNotConsecutive(t *testing.T) {
	pass := ingress(from(0, policy.Pass, podsOf(web(1))), from(1, policy.Deny, nil))
	pass.Ref.Name = "first"
	elsewhere := ingress(from(0, policy.Deny, nil))
	elsewhere.Ref.Name, elsewhere.Subject = "second", *web(5)
	last := ingress(from(0, policy.Allow, podsOf(web(1)), policy.Port{From: 80, To: 80}))
	set := policy.Set{Tiers: []policy.Tier{
		{Name: "a", Default: policy.Deny, Policies: []policy.Policy{pass}},
		{Name: "b", Default: policy.Deny, Policies: []policy.Policy{elsewhere}},
		{Name: "c", Default: policy.Deny, Policies: []policy.Policy{last}},
	}}
	c := compiled(t, set, webs(3))
	for peer, want := range map[string]policy.Decision{
		"10.0.0.1": {Action: policy.Allow, Reason: policy.ByRule, Tier: "c", Rule: policy.RuleID{Policy: last.Ref}},
		"10.0.0.2": {Action: policy.Deny, Reason: policy.ByRule, Tier: "a", Rule: policy.RuleID{Policy: pass.Ref, Number: 1}},
	} {
		if d := ask(c, webPod(0), peer, 80); !reflect.DeepEqual(d, want) {
			t.Errorf("%s: %+v, want %+v", peer, d, want)
		}
	}
	if d := ask(c, webPod(0), "10.0.0.1", 81); d.Reason != policy.ByTier || d.Tier != "c" {
		t.Errorf("%+v", d)
	}
}

// A rule set beyond the budget fails closed and is reported, does not affect others, and
// recovers.
func TestTheBudget(t *testing.T) {
	var rules []policy.Rule
	for i := range 20 {
		rules = append(rules, from(i, policy.Allow, podsOf(web(i)), policy.Port{From: uint16(i), To: uint16(i)}))
	}
	small := ingress(from(0, policy.Allow, podsOf(web(2))))
	small.Ref.Name, small.Subject = "small", *web(1)
	c, err := Compile(tiered(ingress(rules...), small), webs(10), Budget{Atoms: 15, Spans: 1000})
	if err != nil {
		t.Fatal(err)
	}
	if errs := c.Errors(); errs != nil {
		t.Fatal(errs)
	}
	more := webs(20).Pods
	apply(t, c, Delta{Pods: more})
	errs := c.Errors()
	if len(errs) != 1 || errs[0].Policy.Name != "p" || errs[0].Rules != 20 || !slices.Equal(errs[0].Pods, []policy.NamespacedName{webPod(0).NamespacedName}) {
		t.Fatalf("%+v", errs)
	}
	var one error = errs[0]
	if e := new(BudgetError); !errors.As(one, &e) || !strings.Contains(e.Error(), "default/p") || !strings.Contains(e.Error(), "default/web0") {
		t.Errorf("%v", one)
	}
	if d := ask(c, webPod(0), "10.0.0.1", 1); d.Action != policy.Deny || d.Reason != policy.Closed {
		t.Errorf("%+v", d)
	}
	if d := ask(c, webPod(1), "10.0.0.2", 1); d.Action != policy.Allow || d.Reason != policy.ByRule {
		t.Errorf("the other pod: %+v", d)
	}
	gone := map[policy.NamespacedName]*policy.Pod{}
	for i := 10; i < 20; i++ {
		gone[webPod(i).NamespacedName] = nil
	}
	apply(t, c, Delta{Pods: gone})
	if d := ask(c, webPod(0), "10.0.0.1", 1); d.Action != policy.Allow || c.Errors() != nil {
		t.Errorf("with ten pods: %+v, %v", d, c.Errors())
	}
}

// With a policy of 2,001 peers, a new pod that is like others makes no table, and a new kind of
// pod makes one.
func TestWhatAPodCosts(t *testing.T) {
	var rules []policy.Rule
	for i := range 2001 {
		rules = append(rules, from(i, policy.Allow, podsOf(web(i)), policy.Port{From: uint16(i), To: uint16(i)}))
	}
	c := compiled(t, tiered(ingress(rules...)), webs(1000))
	come := func(n int) uint64 {
		before := c.query
		p := webPod(n)
		p.Name += "-more"
		p.Addresses = []netip.Addr{netip.AddrFrom4([4]byte{10, 1, byte(n >> 8), byte(n)})}
		if nodes := apply(t, c, Delta{Pods: map[policy.NamespacedName]*policy.Pod{p.NamespacedName: p}}); !slices.Equal(nodes, []string{"node"}) {
			t.Errorf("nodes %v", nodes)
		}
		return c.query - before
	}
	if n := come(500); n != 0 {
		t.Errorf("a pod like others makes %d tables", n)
	}
	if n := come(1500); n != 1 {
		t.Errorf("a pod like none makes %d tables, want one", n)
	}
	if n := come(5000); n != 0 {
		t.Errorf("a pod that no rule names makes %d tables", n)
	}
}

func TestDeltasThatCannotBe(t *testing.T) {
	p := ingress()
	q := p
	q.Ref.Name = "q"
	bad := ingress(from(7, policy.Allow, []policy.Match{{NotIn: []policy.AddrSet{{Nets: []netip.Prefix{{}}}}}}))
	mapped := netip.MustParseAddr("::ffff:192.0.2.1")
	for _, c := range []struct {
		d    Delta
		says string
	}{
		{Delta{Policies: []Change{{Ref: q.Ref, Policy: &q, Tier: "none"}}}, `q is in tier "none", which is not there`},
		{Delta{Policies: []Change{{Ref: q.Ref, Policy: &q, Tier: "default", Index: 2}}}, "index 2"},
		{Delta{Policies: []Change{{Ref: p.Ref, Policy: &p, Tier: "default", Index: 1}}}, "want 0 to 0"},
		{Delta{Policies: []Change{{Ref: q.Ref, Policy: &p, Tier: "default"}}}, "takes the place"},
		{Delta{Tiers: []policy.Tier{}}, `tier "default" goes with 1 policies`},
		{Delta{Tiers: []policy.Tier{{Name: "default", Default: policy.Deny}, {Name: "default", Default: policy.Deny}}}, "twice"},
		{Delta{Tiers: []policy.Tier{{Name: "default", Default: policy.Log}}}, "want deny or pass"},
		{Delta{Pods: map[policy.NamespacedName]*policy.Pod{{Namespace: "a", Name: "b"}: {Addresses: []netip.Addr{{}}}}}, `pod a/b: address "invalid IP"`},
		{Delta{Pods: map[policy.NamespacedName]*policy.Pod{{Namespace: "a", Name: "b"}: {Addresses: []netip.Addr{mapped}}}}, "not mapped"},
		{Delta{Pods: map[policy.NamespacedName]*policy.Pod{{Namespace: "a", Name: "b"}: {Addresses: []netip.Addr{mapped.Unmap(), mapped.Unmap().Next()}}}}, "want one of a family"},
		{Delta{Nodes: map[string]*policy.Node{"n": {Addresses: []netip.Addr{mapped}}}}, "node n: address"},
		{Delta{Services: map[policy.NamespacedName][]policy.Endpoint{{Name: "s"}: {{}}}}, "service /s: endpoint"},
		{Delta{NetworkSets: map[policy.NamespacedName]*policy.NetworkSet{{Name: "s"}: {Nets: []netip.Prefix{{}}}}}, "network set /s: network"},
		{Delta{Policies: []Change{{Ref: bad.Ref, Policy: &bad, Tier: "default"}}}, "p, ingress rule 7: network"},
	} {
		compiler := compiled(t, tiered(p), webs(2))
		before := compiler.sizes()
		if _, err := compiler.Apply(c.d); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%+v: %v, want %q", c.d, err, c.says)
		}
		if after := compiler.sizes(); after != before {
			t.Errorf("an error leaves %s", after)
		}
	}
}
