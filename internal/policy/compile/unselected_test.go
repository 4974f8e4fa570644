package compile_test

import (
	"net/netip"
	"testing"

	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/compile"
	"terway.dev/terway/internal/policy/selector"
)

// A pod that no policy selects has the same rule sets in every cluster, and they allow everything.
func TestUnselected(t *testing.T) {
	endpoint, part := compile.Unselected()
	if len(part.RuleSets) != 4 {
		t.Errorf("%d rule sets: want one for each direction and family", len(part.RuleSets))
	}
	m := part.Maps()
	for _, peer := range []string{"10.0.0.1", "fd00::1"} {
		for _, d := range []policy.Direction{policy.Ingress, policy.Egress} {
			for _, protocol := range []uint8{policy.TCPProtocol, 17, 1, 58, 47} {
				got := m.Decision(m.Lookup(compile.Packet{Endpoint: 1, Direction: d, Peer: netip.MustParseAddr(peer), Protocol: protocol, DestinationPort: 80}))
				if got.Action != policy.Allow || got.Reason != policy.NoPolicy {
					t.Errorf("%s %s, protocol %d: %+v", d, peer, protocol, got)
				}
			}
		}
	}

	c := compile.New(compile.DefaultBudget)
	db := policy.NamespacedName{Namespace: "shop", Name: "db"}
	web := policy.NamespacedName{Namespace: "shop", Name: "web"}
	p := policy.Policy{
		Ref:        policy.Ref{Kind: "NetworkPolicy", Namespace: "shop", Name: "db"},
		Subject:    policy.PodSelector{Namespace: "shop", Pods: selector.In("app", "db")},
		Directions: [2]bool{policy.Ingress: true},
	}
	if _, err := c.Apply(compile.All(policy.Set{Tiers: []policy.Tier{{Name: "default", Default: policy.Deny, Policies: []policy.Policy{p}}}}, policy.Cluster{
		Namespaces: map[string]policy.Labels{"shop": {}}, Nodes: map[string]*policy.Node{"node1": {}},
		Pods: map[policy.NamespacedName]*policy.Pod{
			db:  {NamespacedName: db, Labels: policy.Labels{"app": "db"}, Node: "node1", Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::2")}},
			web: {NamespacedName: web, Node: "node1", Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.3"), netip.MustParseAddr("fd00::3")}},
		},
	})); err != nil {
		t.Fatal(err)
	}
	has := c.ForNode("node1").Endpoints
	if has[web].RuleSets != endpoint.RuleSets {
		t.Errorf("a pod that no policy selects has %v, want %v", has[web].RuleSets, endpoint.RuleSets)
	}
	if has[db].RuleSets[policy.Ingress] == endpoint.RuleSets[policy.Ingress] {
		t.Error("so has a pod that a policy selects")
	}
}
