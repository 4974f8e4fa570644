package suite

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

func nothingOfOthersIsTouchedAndNothingIsLeft(t *testing.T, k Kit) {
	w := k.NewWorld(t, 1, 2)
	n := w.Nodes[0]
	n.Sysctl("ipv4/ip_forward", "1")
	n.Sysctl("ipv6/conf/all/forwarding", "1")
	foreign(n)
	bare := DumpStable(n)
	if repairs := n.Sync(); len(repairs) == 0 {
		t.Error("the first sync reports nothing")
	}
	prepared := DumpStable(n)

	var pods []*Pod
	for i := range 6 {
		pods = append(pods, n.AddPod(1+i%2, "4", "6"))
	}
	if again := n.Sync(pods...); len(again) != 0 {
		t.Errorf("sync of a sound node repairs %q", again)
	}
	for _, p := range pods {
		p.Del()
	}
	if diff := Difference(prepared, DumpStable(n)); diff != "" {
		t.Errorf("pods left something behind:\n%s", diff)
	}
	if err := n.DP.Teardown(context.Background()); err != nil {
		t.Fatal(err)
	}
	if diff := Difference(bare, DumpStable(n)); diff != "" {
		t.Errorf("teardown left something behind or took something of others:\n%s", diff)
	}
}

// foreign puts things of others on a node, close to ours in number and name.
func foreign(n *Node) {
	n.IP("rule add pref 500 from 10.1.0.0/16 lookup 2100")
	n.IP("rule add pref 512 to 10.2.0.0/16 lookup main")
	n.IP("rule add pref 600 fwmark 0x100000/0xff00000 lookup 77")
	n.IP("-6 rule add pref 600 from 2001:db8:9::/48 lookup 77")
	n.IP("route add 10.9.0.0/16 via " + NodeGW + " dev eth0 onlink")
	n.IP("route add 10.8.0.0/16 via " + NodeGW + " dev eth0 onlink table 2100")
	n.IP("route add 10.7.0.0/16 via " + NodeGW + " dev eth0 onlink table 2101")
	n.IP("link add tw0123456789a type veth peer name twpeer")
	n.IP("link add cali0123 type veth peer name twother")
	n.IP("link set cali0123 up")
	n.IP("link set cali0123 group 77")
	n.IP("addr add 169.254.1.1/32 dev cali0123 scope host")
	n.NFT(`
		table inet filter {
			chain input { type filter hook input priority 0; tcp dport 22 accept; }
			chain forward { type filter hook forward priority 0; ct original ip saddr 10.3.0.0/16 accept; }
		}
		table ip terway {
			set pods4 { type ipv4_addr; elements = { 192.0.2.1 }; }
		}
		table inet terway2 {
			chain x { }
		}`)
}

// DumpStable is Dump without what the kernel does on its own a moment later: the
// operational state of a device, and IPv6 addresses coming and becoming usable.
func DumpStable(n *Node) string {
	n.w.t.Helper()
	n.Settle()
	for deadline := time.Now().Add(Patience); ; time.Sleep(5 * time.Millisecond) {
		what := unfinishedIPv6(n)
		if what == "" {
			break
		}
		if time.Now().After(deadline) {
			n.w.t.Fatal(what)
		}
	}
	var keep []string
	for _, l := range strings.Split(Dump(n), "\n") {
		if strings.HasPrefix(l, "anycast ") { // comes and goes with forwarding
			continue
		}
		// A device that was up once keeps the qdisc it got then.
		l = strings.Replace(l, " qdisc noop ", " qdisc noqueue ", 1)
		// An address may have come since they were looked at.
		l = strings.Replace(l, " tentative ", " ", 1)
		keep = append(keep, operState.ReplaceAllString(l, ""))
	}
	return strings.Join(keep, "\n")
}

// unfinishedIPv6 says what of the node's IPv6 addresses is still to come; "": nothing.
func unfinishedIPv6(n *Node) string {
	addrs := n.IP("-6 -o addr show")
	if strings.Contains(addrs, "tentative") {
		return "an IPv6 address of the node stays tentative"
	}
	for _, l := range strings.Split(n.IP("-o -d link show"), "\n") {
		if !strings.Contains(l, "LOWER_UP") || !strings.Contains(l, "addrgenmode eui64") || strings.Contains(l, "LOOPBACK") {
			continue
		}
		dev, _, _ := strings.Cut(strings.Fields(l)[1], "@")
		dev = strings.TrimSuffix(dev, ":")
		if off := n.Run("cat", "/proc/sys/net/ipv6/conf/"+dev+"/disable_ipv6"); strings.TrimSpace(off) == "1" {
			continue
		}
		if !regexp.MustCompile(`(?m)^\d+: ` + regexp.QuoteMeta(dev) + ` +inet6 fe80:`).MatchString(addrs) {
			return "the node's device " + dev + " is up and has no link-local address"
		}
	}
	return ""
}

var operState = regexp.MustCompile(`NO-CARRIER,|,LOWER_UP| state [A-Z]+`)

// Dump is everything of a namespace that a datapath could change, as text.
func Dump(n *Node) string {
	n.w.t.Helper()
	var b strings.Builder
	for _, cmd := range []string{
		"ip -o -d link show", "ip -o addr show", "ip rule show", "ip -6 rule show",
		"ip route show table all", "ip -6 route show table all",
		"ip neigh show nud permanent", "ip -6 neigh show nud permanent",
		"nft -s list ruleset",
	} {
		words := strings.Fields(cmd)
		fmt.Fprintf(&b, "# %s\n%s\n", cmd, n.Run(words[0], words[1:]...))
	}
	if n.w.kit.Trace != nil {
		trace, err := n.w.kit.Trace(n)
		if err != nil {
			n.w.t.Fatalf("what the datapath has on %s: %v", n.Name, err)
		}
		b.WriteString(trace)
	}
	return b.String()
}

// Difference shows the lines that only one of two dumps has.
func Difference(before, after string) string {
	a, b := strings.Split(before, "\n"), strings.Split(after, "\n")
	var out []string
	for _, l := range a {
		if !slices.Contains(b, l) {
			out = append(out, "- "+l)
		}
	}
	for _, l := range b {
		if !slices.Contains(a, l) {
			out = append(out, "+ "+l)
		}
	}
	return strings.Join(out, "\n")
}
