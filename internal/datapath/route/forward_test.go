package route

import (
	"context"
	"strings"
	"testing"

	"github.com/google/nftables"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/suite"
)

// iptables itself sets the policy, and can list what is in its chain then.
func TestForwardOfIptables(t *testing.T) {
	w := newWorld(t, 1, 1)
	n := w.Nodes[0]
	n.Sync()
	a, b := n.AddPod(1, "4", "6"), n.AddPod(1, "4", "6")
	suite.Serve(b.NS, suite.At(b.V4, 80))
	suite.Serve(b.NS, suite.At(b.V6, 80))
	for _, program := range []string{"iptables-nft", "ip6tables-nft"} {
		n.Run(program, "-A", "FORWARD", "-i", "docker0", "-j", "ACCEPT")
		n.Run(program, "-P", "FORWARD", "DROP")
	}
	n.Sync(a, b)
	suite.MustReach(t, a.NS, suite.At(b.V4, 80), b.NS, a.V4)
	suite.MustReach(t, a.NS, suite.At(b.V6, 80), b.NS, a.V6)
	for _, program := range []string{"iptables-nft", "ip6tables-nft"} {
		list := n.Run(program, "-S", "FORWARD")
		want := []string{
			"-P FORWARD DROP", "-A FORWARD -i docker0 -j ACCEPT",
			`-A FORWARD -i tw+ -m comment --comment "` + forwardComment + `" -j ACCEPT`,
			`-A FORWARD -o tw+ -m comment --comment "` + forwardComment + `" -j ACCEPT`,
		}
		if got := strings.TrimSpace(list); got != strings.Join(want, "\n") {
			t.Errorf("%s -S FORWARD:\n%s\nwant\n%s", program, got, strings.Join(want, "\n"))
		}
	}
	n.Run("iptables-nft", "-A", "FORWARD", "-j", "REJECT") // behind ours: it changes nothing
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
	suite.MustReach(t, a.NS, suite.At(b.V4, 80), b.NS, a.V4)
	if err := n.DP.Teardown(context.Background()); err != nil {
		t.Fatal(err)
	}
	if list := n.Run("iptables-nft", "-S", "FORWARD") + n.Run("ip6tables-nft", "-S", "FORWARD"); strings.Contains(list, forwardComment) {
		t.Errorf("after Teardown:\n%s", list)
	}
}

// Whatever others have in FORWARD, known to the nftables library or not: pods pass, and at the
// datapath's end nothing of ours is left.
func TestForwardWithRulesThatTheLibraryDoesNotKnow(t *testing.T) {
	w := newWorld(t, 1, 1)
	n := w.Nodes[0]
	n.Sync()
	a, b := n.AddPod(1, "4"), n.AddPod(1, "4")
	suite.Serve(b.NS, suite.At(b.V4, 80))
	n.NFT(`table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; ct original ip saddr 10.9.9.9 accept; }; }
		table inet mine { chain passing { type filter hook forward priority 0; policy drop; ct original ip saddr 10.9.9.9 accept; }; }`)
	c, err := nftables.New(nftables.WithNetNSFd(int(own(n).ns)))
	if err != nil {
		t.Fatal(err)
	}
	filter := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: "filter"}
	if _, err := c.GetRules(filter, &nftables.Chain{Table: filter, Name: "FORWARD"}); !unreadable(err) {
		t.Fatalf("the library knows the expression by now (%v): the test needs another", err)
	}
	_, err = n.TrySync(a, b)
	if _, obstacles, node := datapath.Sort(err); node != nil || len(obstacles) != 1 || !strings.Contains(obstacles[0], "chain passing of table inet mine drops") {
		t.Errorf("Sync: obstacles %q, node %v; want the one chain that drops", obstacles, node)
	}
	n.NFT(`add rule inet mine passing iifname "tw*" accept`)
	if repairs := n.Sync(a, b); len(repairs) != 0 {
		t.Errorf("second Sync repairs %q", repairs)
	}
	suite.MustReach(t, a.NS, suite.At(b.V4, 80), b.NS, a.V4)
	if err := n.DP.Teardown(context.Background()); err != nil {
		t.Error(err)
	}
	if list := n.Run("nft", "list", "chain", "ip", "filter", "FORWARD"); strings.Contains(list, forwardComment) || !strings.Contains(list, "10.9.9.9") {
		t.Errorf("after Teardown:\n%s", list)
	}
}

// Others' rules that cannot be read are an obstacle, whatever the reason, and not the node's
// failure: pods are served.
func TestForwardUnreadable(t *testing.T) {
	w := newWorld(t, 1, 1)
	n := w.Nodes[0]
	n.Sync()
	own(n).forward.socket.Close()
	_, err := n.TrySync()
	if pods, obstacles, node := datapath.Sort(err); len(pods) != 0 || len(obstacles) != 1 || node != nil || !strings.Contains(obstacles[0], "generation") {
		t.Errorf("pods %v, obstacles %q, node %v; want one obstacle that names the generation", pods, obstacles, node)
	}
	n.Sync()
}

// Tables of iptables-legacy are read, not written.
func TestForwardOfIptablesLegacy(t *testing.T) {
	w := newWorld(t, 1, 1)
	n := w.Nodes[0]
	d := own(n)
	obstacles := func() []string {
		t.Helper()
		list, err := legacyObstacles(d.ns)
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	if list := obstacles(); len(list) != 0 {
		t.Fatalf("a node without tables: %q", list)
	}
	for _, program := range []string{"iptables-legacy", "ip6tables-legacy"} {
		n.Run(program, "-P", "FORWARD", "ACCEPT") // the kernel's table is made
		n.Run(program, "-A", "FORWARD", "-i", "docker0", "-j", "ACCEPT")
		n.Run(program, "-N", "other")
		n.Run(program, "-A", "FORWARD", "-j", "other")
		if list := obstacles(); len(list) != 0 {
			t.Errorf("%s, policy ACCEPT: %q", program, list)
		}
		// Rules like those that iptables-services comes with end so.
		for _, end := range [][]string{{"-j", "REJECT"}, {"-j", "DROP"}} {
			n.Run(program, append([]string{"-A", "FORWARD"}, end...)...)
			if list := obstacles(); len(list) != 1 || !strings.Contains(list[0], "by a rule at its end") || !strings.Contains(list[0], program+" -I FORWARD -i tw+ -j ACCEPT") {
				t.Errorf("%s, %v at the end: %q, want what to do", program, end, list)
			}
			n.Run(program, "-I", "FORWARD", "-o", "tw+", "-j", "ACCEPT")
			if list := obstacles(); len(list) != 0 {
				t.Errorf("%s, %v behind a rule for pods: %q", program, end, list)
			}
			n.Run(program, "-D", "FORWARD", "-o", "tw+", "-j", "ACCEPT")
			n.Run(program, append([]string{"-D", "FORWARD"}, end...)...)
		}
		// These reject what they match, or not what is forwarded.
		for _, c := range []string{"FORWARD -i docker0 -j REJECT", "FORWARD -p tcp -j DROP", "FORWARD -m conntrack --ctstate INVALID -j DROP",
			"INPUT -j REJECT", "OUTPUT -j DROP", "other -j REJECT"} {
			n.Run(program, append([]string{"-A"}, strings.Fields(c)...)...)
			if list := obstacles(); len(list) != 0 {
				t.Errorf("%s -A %s: %q", program, c, list)
			}
			n.Run(program, append([]string{"-D"}, strings.Fields(c)...)...)
		}
		n.Run(program, "-P", "FORWARD", "DROP")
		if list := obstacles(); len(list) != 1 || !strings.Contains(list[0], program+" -A FORWARD -i tw+ -j ACCEPT") {
			t.Errorf("%s, policy DROP: %q, want what to do", program, list)
		}
		n.Run(program, "-A", "FORWARD", "-i", "tw+", "-j", "ACCEPT")
		n.Run(program, "-A", "FORWARD", "-o", "tw+", "-j", "ACCEPT")
		if list := obstacles(); len(list) != 0 {
			t.Errorf("%s, with rules for pods: %q", program, list)
		}
	}
}
