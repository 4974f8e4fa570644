//go:build bench

package policy

import (
	"fmt"
	"net/netip"
	"runtime"
	"runtime/debug"
	"slices"
	"testing"
	"time"

	"terway.dev/terway/internal/datapath/policymap"
	"terway.dev/terway/internal/datapath/policymap/policymaptest"
	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/compile"
	"terway.dev/terway/internal/policy/selector"
	"terway.dev/terway/test/bench/report"
)

// flat is the goal for a decision with 10,000 rules, as a multiple of one with 10.
const flat = 3

// decisions is one pod with a number of different rules in the kernel.
type decisions struct {
	*policymaptest.Programs
	cost []float64
}

func newDecisions(t *testing.T, rules, apart int, peer func(i int) (policy.AddrSet, netip.Addr)) *decisions {
	t.Helper()
	p := policy.Policy{Ref: policy.Ref{Kind: "GlobalNetworkPolicy", Name: "p"}, Directions: [2]bool{true, false}, Subject: policy.PodSelector{Namespace: "ns1"}}
	own := &policy.Pod{NamespacedName: name(1, 0), Node: "node", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8:ffff::1")}}
	pods := map[policy.NamespacedName]*policy.Pod{own.NamespacedName: own}
	for i := range rules {
		set, a := peer(i)
		if set.Pods != nil {
			pods[name(0, i)] = &policy.Pod{NamespacedName: name(0, i), Node: "other", Addresses: []netip.Addr{a}, Labels: policy.Labels{"app": fmt.Sprintf("app%d", i)}}
		}
		p.Rules[policy.Ingress] = append(p.Rules[policy.Ingress], policy.Rule{
			Number: i, Action: []policy.Action{policy.Allow, policy.Deny}[i%2], Peers: []policy.Match{{In: []policy.AddrSet{set}}},
			Traffic: tcp(policy.Port{From: uint16(i), To: uint16(i + 9)}, policy.Port{From: uint16(i + 20), To: uint16(i + 29)}),
		})
	}
	c, err := compile.Compile(policy.Set{Tiers: []policy.Tier{{Name: "default", Default: policy.Deny, Policies: []policy.Policy{p}}}}, policy.Cluster{Pods: pods}, compile.DefaultBudget)
	if err != nil {
		t.Fatal(err)
	}
	d := &decisions{Programs: policymaptest.Load(t)}
	w, err := policymap.New(d.Maps, policymap.DefaultLimits)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	write := func() time.Duration {
		start := time.Now()
		if err := w.Write(c.ForNode("node")); err != nil {
			t.Fatal(err)
		}
		return time.Since(start).Round(100 * time.Microsecond)
	}
	first := write()
	late := *own
	late.NamespacedName, late.Addresses = name(1, 1), []netip.Addr{netip.MustParseAddr("192.0.2.2")}
	if _, err := c.Apply(compile.Delta{Pods: map[policy.NamespacedName]*policy.Pod{late.NamespacedName: &late}}); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d rules: ForNode and Write take %s the first time, %s for another pod, %s for no change", rules, first, write(), write())

	packet := func(i, port int) compile.Packet {
		_, a := peer(i)
		return compile.Packet{Endpoint: w.Endpoint(own.NamespacedName), Direction: policy.Ingress, Peer: a, Protocol: policy.TCPProtocol, DestinationPort: uint16(port)}
	}
	m := c.ForNode("node").Maps()
	for i := range rules {
		p := packet(i, i+i%40)
		_, row, err := d.Ask(p)
		if err != nil {
			t.Fatal(err)
		}
		p.Endpoint = m.EndpointOf[own.NamespacedName]
		if want := m.Verdicts[m.Lookup(p)]; row.Action != want.Action || row.Level != want.Level || row.Level == 0 {
			t.Fatalf("%+v: the kernel gives %+v, want %+v", p, row, want)
		}
	}
	if err := d.Prepare(policymaptest.Bench{Packet: packet(0, 0), Rules: rules, Apart: apart}); err != nil {
		t.Fatal(err)
	}
	return d
}

// TestPolicyDecisions measures the cost of a decision in the kernel, and how it grows with the
// number of rules.
func TestPolicyDecisions(t *testing.T) {
	rounds := number(t, "ROUNDS", 15)
	b := begin(t, "decisions", "")
	sizes := []int{10, 1000, 10_000}
	kinds := []struct {
		what  string
		apart int
		peer  func(i int) (policy.AddrSet, netip.Addr)
	}{
		{"peers are pods", 1, func(i int) (policy.AddrSet, netip.Addr) {
			return policy.AddrSet{Pods: &policy.PodSelector{Pods: selector.In("app", fmt.Sprintf("app%d", i))}}, address(i)
		}},
		{"peers are networks", 1 << 8, func(i int) (policy.AddrSet, netip.Addr) {
			a := netip.AddrFrom4([4]byte{100, byte(i >> 8), byte(i), 77})
			return policy.AddrSet{Nets: []netip.Prefix{netip.PrefixFrom(a, 24).Masked()}}, a
		}},
		{"peers are IPv6 networks", 1 << 16, func(i int) (policy.AddrSet, netip.Addr) {
			a := netip.MustParseAddr(fmt.Sprintf("2001:db8:%x::77", i))
			return policy.AddrSet{Nets: []netip.Prefix{netip.PrefixFrom(a, 48).Masked()}}, a
		}},
	}
	var all [][]*decisions
	for _, k := range kinds {
		t.Log(k.what)
		var list []*decisions
		for _, n := range sizes {
			list = append(list, newDecisions(t, n, k.apart, k.peer))
		}
		all = append(all, list)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	for round := range rounds {
		for _, list := range all {
			turn := slices.Clone(list)
			if round%2 == 1 {
				slices.Reverse(turn)
			}
			for _, d := range turn {
				cost, err := d.Cost()
				if err != nil {
					t.Fatal(err)
				}
				d.cost = append(d.cost, cost)
			}
		}
	}
	for i, list := range all {
		for k, d := range list {
			goal := report.Goal{AtMost: flat}
			if k == 0 {
				goal = report.Goal{}
			}
			b.line(kinds[i].what, fmt.Sprintf("%d rules", sizes[k]), "ns", d.cost, list[0].cost, goal)
		}
	}
	b.finish("One decision in the kernel; the ratio is to 10 rules.")
}
