package firewall

import (
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netns"

	"terway.dev/terway/internal/datapath/nft"
	"terway.dev/terway/internal/testutil"
)

// newNode returns a namespace and the firewall of it.
func newNode(t *testing.T) (*testutil.NS, *Firewall) {
	t.Helper()
	testutil.RequireRoot(t)
	n := testutil.NewNS(t, "node")
	ns, err := netns.GetFromPath(n.Path)
	if err != nil {
		t.Fatal(err)
	}
	tables := nft.New(ns)
	f := New(ns, tables)
	t.Cleanup(func() {
		f.Close()
		if err := tables.Close(); err != nil {
			t.Error(err)
		}
		ns.Close()
	})
	return n, f
}

// Rules that cannot be read are reported, and read again.
func TestUnreadable(t *testing.T) {
	_, f := newNode(t)
	if _, err := f.Ensure(); err != nil {
		t.Fatal(err)
	}
	f.socket.Close()
	if _, err := f.Ensure(); err == nil || !strings.Contains(err.Error(), "generation") {
		t.Errorf("%v; want an error that names the generation", err)
	}
	if _, err := f.Ensure(); err != nil {
		t.Error(err)
	}
}

// A chain also rejects where it jumps to one that does, and a comment is no condition.
func TestForwardThatJumps(t *testing.T) {
	n, f := newNode(t)
	for _, program := range []string{"iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"} {
		do := func(command string) {
			t.Helper()
			n.Run(program, strings.Fields(command)...)
		}
		obstacles := func() (list []string) {
			t.Helper()
			f.legacyLooked = time.Time{} // as if some time had passed
			if _, err := f.Ensure(); err != nil {
				t.Fatal(err)
			}
			for _, err := range f.Obstacles() {
				list = append(list, err.Error())
			}
			return list
		}
		for _, c := range []string{"-N INNER", "-N OUTER", "-N PASS", "-N LAST", "-A LAST -j REJECT", "-A PASS -j RETURN", "-A PASS -j DROP",
			"-A OUTER -j PASS", "-A OUTER -p tcp -j INNER", "-A OUTER -m comment --comment onward -j INNER", "-A FORWARD -j OUTER"} {
			do(c)
		}
		if list := obstacles(); len(list) != 0 {
			t.Errorf("%s: a chain that passes: %q", program, list)
		}
		for _, end := range []string{"-j DROP", "-m comment --comment all -j REJECT", "-g LAST"} {
			do("-A INNER " + end)
			if list := obstacles(); len(list) != 1 || !strings.Contains(list[0], "chain FORWARD") || !strings.Contains(list[0], "rejects by a rule at its end") {
				t.Errorf("%s: %s at the end of INNER: %q, want chain FORWARD", program, end, list)
			}
			do("-I INNER -j RETURN") // no packet reaches the rule any more
			if list := obstacles(); len(list) != 0 {
				t.Errorf("%s: %s behind RETURN: %q", program, end, list)
			}
			do("-F INNER")
		}
		do("-F")
	}
}

// Tables of iptables-legacy are read, not written.
func TestForwardOfIptablesLegacy(t *testing.T) {
	n, f := newNode(t)
	obstacles := func() []string {
		t.Helper()
		list, err := legacyObstacles(f.ns)
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	if list := obstacles(); len(list) != 0 {
		t.Fatalf("a node without tables: %q", list)
	}
	for _, program := range []string{"iptables-legacy", "ip6tables-legacy"} {
		n.Run(program, "-P", "FORWARD", "ACCEPT") // creates the kernel's table
		n.Run(program, "-A", "FORWARD", "-i", "docker0", "-j", "ACCEPT")
		n.Run(program, "-N", "other")
		n.Run(program, "-A", "FORWARD", "-j", "other")
		if list := obstacles(); len(list) != 0 {
			t.Errorf("%s, policy ACCEPT: %q", program, list)
		}
		// The default rules of iptables-services end like this.
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
		// These reject what they match, or packets that are not forwarded.
		for _, c := range []string{"FORWARD -i docker0 -j REJECT", "FORWARD -p tcp -j DROP", "FORWARD -m conntrack --ctstate INVALID -j DROP",
			"INPUT -j REJECT", "OUTPUT -j DROP", "other -p tcp -j REJECT"} {
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
