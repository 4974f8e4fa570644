package world

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// DumpStable is Dump without what the kernel changes by itself a moment later: the operational
// state of a device, and IPv6 addresses that appear and become usable.
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
		if strings.HasPrefix(l, "anycast ") { // appears and disappears with forwarding
			continue
		}
		// A device that was up once keeps the qdisc that it got then.
		l = strings.Replace(l, " qdisc noop ", " qdisc noqueue ", 1)
		// An address may have appeared since they were read.
		l = strings.Replace(l, " tentative ", " ", 1)
		keep = append(keep, operState.ReplaceAllString(l, ""))
	}
	return strings.Join(keep, "\n")
}

// unfinishedIPv6 returns which of the node's IPv6 addresses are still missing; "": none.
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

// Dump returns everything in a namespace that a datapath could change, as text.
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

// Difference returns the lines that are in only one of two dumps.
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
