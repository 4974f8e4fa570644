package firewall_test

import (
	"context"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/vishvananda/netns"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/firewall"
	"terway.dev/terway/internal/datapath/nft"
	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/route"
	"terway.dev/terway/internal/datapath/suite/world"
)

var kit = world.Kit{
	Kind: claims.Route,
	New: func(o world.Options) (world.Subject, error) {
		return node.New(node.Options{NetNS: o.NetNS, Log: o.Log, Kinds: []node.Kind{route.New()}})
	},
}

// iptables itself sets the policy, and can still list the chain then.
func TestForwardOfIptables(t *testing.T) {
	w := kit.NewWorld(t, 1, 1)
	n := w.Nodes[0]
	n.Sync()
	a, b := n.AddPod(1, "4", "6"), n.AddPod(1, "4", "6")
	world.Serve(b.NS, world.At(b.V4, 80))
	world.Serve(b.NS, world.At(b.V6, 80))
	for _, program := range []string{"iptables-nft", "ip6tables-nft"} {
		n.Run(program, "-A", "FORWARD", "-i", "docker0", "-j", "ACCEPT")
		n.Run(program, "-P", "FORWARD", "DROP")
	}
	n.Sync(a, b)
	world.MustReach(t, a.NS, world.At(b.V4, 80), b.NS, a.V4)
	world.MustReach(t, a.NS, world.At(b.V6, 80), b.NS, a.V6)
	for _, program := range []string{"iptables-nft", "ip6tables-nft"} {
		list := n.Run(program, "-S", "FORWARD")
		want := []string{
			"-P FORWARD DROP", "-A FORWARD -i docker0 -j ACCEPT",
			`-A FORWARD -i tw+ -m comment --comment "` + firewall.Comment + `" -j ACCEPT`,
			`-A FORWARD -o tw+ -m comment --comment "` + firewall.Comment + `" -j ACCEPT`,
		}
		if got := strings.TrimSpace(list); got != strings.Join(want, "\n") {
			t.Errorf("%s -S FORWARD:\n%s\nwant\n%s", program, got, strings.Join(want, "\n"))
		}
	}
	n.Run("iptables-nft", "-A", "FORWARD", "-j", "REJECT") // after ours: it changes nothing
	if repairs := n.Sync(a, b); len(repairs) != 0 {
		t.Errorf("Sync repairs %q", repairs)
	}
	n.Run("iptables-nft", "-F", "FORWARD")
	n.Run("iptables-nft", "-A", "FORWARD", "-j", "REJECT")
	_, err := n.TrySync(a, b)
	if _, obstacles, _ := datapath.Sort(err); len(obstacles) != 1 || !strings.Contains(obstacles[0], "iptables -I FORWARD -i tw+ -j ACCEPT") {
		t.Errorf("FORWARD ends with REJECT: %v", err)
	}
	n.Run("iptables-nft", "-I", "FORWARD", "-i", "tw+", "-j", "ACCEPT")
	n.Run("iptables-nft", "-I", "FORWARD", "-o", "tw+", "-j", "ACCEPT")
	n.Sync(a, b)
	world.MustReach(t, a.NS, world.At(b.V4, 80), b.NS, a.V4)
	if err := n.DP.Teardown(context.Background()); err != nil {
		t.Fatal(err)
	}
	if list := n.Run("iptables-nft", "-S", "FORWARD") + n.Run("ip6tables-nft", "-S", "FORWARD"); strings.Contains(list, firewall.Comment) {
		t.Errorf("after Teardown:\n%s", list)
	}
}

// Whatever rules others have in FORWARD, known to the nftables library or not: pods' packets are
// accepted, and after Teardown nothing of ours is left.
func TestForwardWithRulesThatTheLibraryDoesNotKnow(t *testing.T) {
	w := kit.NewWorld(t, 1, 1)
	n := w.Nodes[0]
	n.Sync()
	a, b := n.AddPod(1, "4"), n.AddPod(1, "4")
	world.Serve(b.NS, world.At(b.V4, 80))
	n.NFT(`table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; ct original ip saddr 10.9.9.9 accept; }; }
		table inet mine { chain passing { type filter hook forward priority 0; policy drop; ct original ip saddr 10.9.9.9 accept; }; }`)
	ns, err := netns.GetFromPath(n.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	c, err := nftables.New(nftables.WithNetNSFd(int(ns)))
	if err != nil {
		t.Fatal(err)
	}
	filter := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: "filter"}
	if _, err := c.GetRules(filter, &nftables.Chain{Table: filter, Name: "FORWARD"}); !nft.Unreadable(err) {
		t.Fatalf("the library decodes the expression now (%v): the test needs another", err)
	}
	_, err = n.TrySync(a, b)
	if _, obstacles, node := datapath.Sort(err); node != nil || len(obstacles) != 1 || !strings.Contains(obstacles[0], "chain passing of table inet mine drops") {
		t.Errorf("Sync: obstacles %q, node %v; want the one chain that drops", obstacles, node)
	}
	n.NFT(`add rule inet mine passing iifname "tw*" accept`)
	if repairs := n.Sync(a, b); len(repairs) != 0 {
		t.Errorf("second Sync repairs %q", repairs)
	}
	world.MustReach(t, a.NS, world.At(b.V4, 80), b.NS, a.V4)
	if err := n.DP.Teardown(context.Background()); err != nil {
		t.Error(err)
	}
	if list := n.Run("nft", "list", "chain", "ip", "filter", "FORWARD"); strings.Contains(list, firewall.Comment) || !strings.Contains(list, "10.9.9.9") {
		t.Errorf("after Teardown:\n%s", list)
	}
}
