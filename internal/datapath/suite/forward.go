package suite

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/suite/world"
)

// dockersForward makes chain FORWARD as iptables-nft does, with a rule of docker.
func dockersForward(n *world.Node) {
	n.NFT(`
		table ip filter { chain FORWARD { type filter hook forward priority 0; policy accept; iifname "docker0" accept; }; }
		table ip6 filter { chain FORWARD { type filter hook forward priority 0; policy accept; iifname "docker0" accept; }; }`)
}

// forwardPolicy does the same as iptables -P FORWARD.
func forwardPolicy(n *world.Node, policy string) {
	n.NFT(strings.ReplaceAll("chain ip filter FORWARD { policy %; }\nchain ip6 filter FORWARD { policy %; }", "%", policy))
}

// ruleset returns nft's list of families, without counters.
func ruleset(n *world.Node, families ...string) (text string) {
	for _, f := range families {
		text += n.Run("nft", "-s", "list", "table", f, "filter")
	}
	return text
}

// Docker sets the policy of FORWARD to DROP. Pods' traffic continues; the chain is as before after
// the policy is restored, and after Teardown.
func forwardPolicyDrop(t *testing.T, k world.Kit) {
	w := k.NewWorld(t, 2, 1)
	n, other := w.Nodes[0], w.Nodes[1]
	n.Desired.MasqueradeOutside = true
	n.Sync()
	other.Sync()
	a, b, far := n.AddPod(1, "4", "6"), n.AddPod(1, "4", "6"), other.AddPod(1, "4", "6")
	dockersForward(n)
	before := ruleset(n, "ip", "ip6")
	if repairs := n.Sync(a, b); len(repairs) != 0 {
		t.Errorf("Sync with a FORWARD chain that accepts: %q", repairs)
	}
	forwardPolicy(n, "drop")
	repairs := n.Sync(a, b)
	if len(repairs) != 2 || !strings.Contains(strings.Join(repairs, " "), "ip6 filter") {
		t.Errorf("Sync repairs %q, want both families' FORWARD", repairs)
	}
	if repairs := n.Sync(a, b); len(repairs) != 0 {
		t.Errorf("second Sync repairs %q", repairs)
	}
	for _, p := range []*world.Pod{a, b, far} {
		world.Serve(p.NS, world.At(p.V4, 80))
		world.Serve(p.NS, world.At(p.V6, 80))
	}
	world.Serve(w.Outside, world.At(netip.MustParseAddr(world.OutsideV4), 80))
	world.MustReach(t, a.NS, world.At(b.V4, 80), b.NS, a.V4)
	world.MustReach(t, a.NS, world.At(b.V6, 80), b.NS, a.V6)
	world.MustReach(t, a.NS, world.At(far.V4, 80), far.NS, a.V4)
	world.MustReach(t, far.NS, world.At(a.V4, 80), a.NS, far.V4)
	world.MustReach(t, far.NS, world.At(a.V6, 80), a.NS, far.V6)
	world.MustReach(t, a.NS, world.At(netip.MustParseAddr(world.OutsideV4), 80), w.Outside, n.V4)

	forwardPolicy(n, "accept")
	n.Sync(a, b)
	if after := ruleset(n, "ip", "ip6"); after != before {
		t.Errorf("with the policy back, the ruleset is\n%s\nand was\n%s", after, before)
	}
	forwardPolicy(n, "drop")
	n.Sync(a, b)
	if err := n.DP.Teardown(context.Background()); err != nil {
		t.Fatal(err)
	}
	if after := ruleset(n, "ip", "ip6"); after != strings.ReplaceAll(before, "policy accept", "policy drop") {
		t.Errorf("after Teardown the ruleset is\n%s\nand was, with policy accept,\n%s", after, before)
	}
}

// A chain of another program that drops cannot be overruled: it is reported with the remedy, and
// the remedy helps. Chains that do not drop are not reported.
func forwardChainOfOthers(t *testing.T, k world.Kit) {
	w := k.NewWorld(t, 1, 1)
	n := w.Nodes[0]
	n.Sync()
	a, b := n.AddPod(1), n.AddPod(1)
	world.Serve(b.NS, world.At(b.V4, 80))
	n.KubeProxy(world.Service{ClusterIP: world.ClusterIP, Endpoint: b.V4})
	n.NFT(`table inet mine {
chain arriving { type filter hook input priority 0; policy drop; accept; }
chain passing { type filter hook forward priority 0; ct state invalid drop; }
}`)
	n.Sync(a, b)
	for _, c := range []struct{ name, drops, helps, says string }{
		{"policy", `table inet filter { chain forward { type filter hook forward priority 0; policy drop; ct state established accept; }; }`,
			`add rule inet filter forward iifname "tw*" accept`, "chain forward of table inet filter drops by policy"},
		{"last rule, as firewalld's", `table inet firewalld { chain trusted { }; chain filter_FORWARD { type filter hook forward priority 10; ct state established accept; jump trusted; ct state invalid drop; reject with icmpx admin-prohibited; }; }`,
			`add rule inet firewalld trusted iifname "tw*" accept`, "--zone=trusted --add-interface=tw+"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n.NFT(c.drops)
			for range 2 { // the result is kept until somebody changes the ruleset
				repairs, err := n.TrySync(a, b)
				pods, obstacles, node := datapath.Sort(err)
				if node != nil || pods != nil || len(repairs) != 0 || len(obstacles) != 1 || !strings.Contains(obstacles[0], c.says) {
					t.Errorf("Sync: repairs %q, node %v, pods %v, obstacles %q; want one that says %q", repairs, node, pods, obstacles, c.says)
				}
			}
			if _, err := world.Ask(a.NS, world.At(b.V4, 80)); err == nil {
				t.Error("the chain does not drop: the test is wrong")
			}
			n.NFT(c.helps)
			n.Sync(a, b)
			world.MustReach(t, a.NS, world.At(b.V4, 80), b.NS, a.V4)
			n.NFT("delete table " + strings.Fields(c.drops)[1] + " " + strings.Fields(c.drops)[2])
		})
	}
}

// Other programs on the node use marks too. wg-quick restores those of connections for all of UDP,
// Tailscale clears its bits for established connections.
func marksOfOthers(t *testing.T, k world.Kit) {
	w := k.NewWorld(t, 2, 2)
	n0, n1 := w.Nodes[0], w.Nodes[1]
	n0.Sync()
	n1.Sync()
	const others = `
		table inet others {
			chain restore {
				type filter hook prerouting priority mangle;
				meta l4proto udp meta mark set ct mark
				meta l4proto != udp ct state established meta mark set meta mark and 0xff00ffff
			}
		}`
	for _, n := range w.Nodes {
		n.NFT(others)
	}
	near, far := n0.AddPod(1, "4", "6"), n1.AddPod(1, "4", "6")
	for _, p := range []*world.Pod{near, far} {
		p.Echo(7)
	}
	n0.Echo(7)
	n0.KubeProxy(world.Service{ClusterIP: world.ClusterIP, Port: 7, NodePort: 30007, Endpoint: far.V4},
		world.Service{ClusterIP: world.ClusterIP6, Port: 7, Endpoint: far.V6})
	for e := 1; e <= 2; e++ {
		p := n0.AddPod(e, "4", "6")
		p.Echo(7)
		for _, network := range []string{"udp", "tcp"} {
			for _, to := range []string{
				world.At(far.V4, 7), world.At(far.V6, 7), world.At(near.V4, 7), world.At(near.V6, 7), world.At(n0.V4, 7),
				world.At(world.ClusterIP, 7), world.At(world.ClusterIP6, 7),
			} {
				world.Talk(t, p.NS, network, to, 5)
			}
			world.Talk(t, far.NS, network, world.At(p.V4, 7), 5)
			world.Talk(t, far.NS, network, world.At(p.V6, 7), 5)
			world.Talk(t, w.Outside, network, world.At(p.V4, 7), 5)
			world.Talk(t, w.Outside, network, world.At(n0.V4, 30007), 5)
		}
	}
	if got := w.Strict(); got != 0 {
		t.Errorf("the VPC dropped %d packets with a source on the wrong ENI", got)
	}
}
