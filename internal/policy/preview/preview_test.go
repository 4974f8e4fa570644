package preview_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/compile"
	"terway.dev/terway/internal/policy/naive"
	"terway.dev/terway/internal/policy/policytest"
	"terway.dev/terway/internal/policy/preview"
)

// an end of a connection: a pod with policies, or another address.
type end struct {
	pod  *policy.Pod
	a    netip.Addr
	host bool
}

// model returns what package naive decides on one connection in both worlds.
func model(before, after preview.World, from, to end, c policy.Connection) (v [2]preview.Verdict) {
	for w, world := range []preview.World{before, after} {
		v[w].Action = policy.Allow
		for d, side := range [2][2]end{policy.Ingress: {to, from}, policy.Egress: {from, to}} {
			if side[0].pod == nil {
				continue
			}
			c.Pod, c.Direction, c.Own, c.Peer = side[0].pod.NamespacedName, policy.Direction(d), side[0].a, side[1].a
			got, _ := naive.Decide(world.Set, world.Cluster, c)
			if v[w].By[d] = (preview.By{Action: got.Action, Reason: got.Reason, Tier: got.Tier, Rule: got.Rule}); got.Action == policy.Deny {
				v[w].Action = policy.Deny
			}
		}
	}
	for d := range v[0].By {
		if v[0].By[d].Action != policy.Deny && v[1].By[d].Action != policy.Deny {
			v[0].By[d], v[1].By[d] = preview.By{}, preview.By{}
		}
	}
	return v
}

func (e end) in(p preview.End) bool {
	switch {
	case e.pod != nil:
		return slices.Contains(p.Pods, e.pod.NamespacedName)
	case e.host:
		return slices.Contains(p.Hosts, e.a)
	}
	return slices.ContainsFunc(p.Networks, func(n netip.Prefix) bool { return n.Contains(e.a) })
}

func number(c policy.Connection) uint16 {
	switch compile.ClassOf(c.Protocol) {
	case compile.ICMP, compile.ICMPv6:
		return uint16(c.ICMPType)<<8 | uint16(c.ICMPCode)
	case compile.Other:
		return uint16(c.Protocol)
	}
	return c.DestinationPort
}

// said returns the changes that contain a connection.
func said(changes []preview.Change, from, to end, c policy.Connection) (out []preview.Change) {
	for _, ch := range changes {
		if !from.in(ch.From) || !to.in(ch.To) || ch.Family != 0 && (ch.Family == 4) != from.a.Is4() {
			continue
		}
		for _, s := range ch.Traffic {
			class, n := compile.ClassOf(c.Protocol), number(c)
			if s.Class == class && s.From <= n && n <= s.To && (class > compile.SCTP || s.SourceFrom <= c.SourcePort && c.SourcePort <= s.SourceTo) {
				out = append(out, ch)
			}
		}
	}
	return out
}

// at returns a connection at the edge of a span, or just beyond it.
func at(r *rand.Rand, s preview.Span) policy.Connection {
	near := func(from, to uint16) uint16 {
		return []uint16{from, to, from - 1, to + 1, from + uint16(r.IntN(int(to-from)+1))}[r.IntN(5)]
	}
	n := near(s.From, s.To)
	c := policy.Connection{SourcePort: near(s.SourceFrom, s.SourceTo), DestinationPort: n}
	switch s.Class {
	case compile.TCP:
		c.Protocol = policy.TCPProtocol
	case compile.UDP:
		c.Protocol = policy.UDPProtocol
	case compile.SCTP:
		c.Protocol = policy.SCTPProtocol
	case compile.ICMP:
		c.Protocol, c.ICMPType, c.ICMPCode = policy.ICMPProtocol, uint8(n>>8), uint8(n)
	case compile.ICMPv6:
		c.Protocol, c.ICMPType, c.ICMPCode = policy.ICMPv6Protocol, uint8(n>>8), uint8(n)
	default:
		c.Protocol = uint8(n)
	}
	return c
}

// two returns a world, and the same world with some policies or network sets changed.
func two(r *rand.Rand) (before, after preview.World) {
	w := policytest.World{Source: r}
	before = preview.World{Set: w.Set(), Cluster: w.Cluster()}
	after = preview.World{Set: before.Set, Cluster: before.Cluster}
	switch r.IntN(4) {
	case 0:
		after.Set = w.Set()
	case 1:
		after.Cluster.NetworkSets = maps.Clone(after.Cluster.NetworkSets)
		after.Cluster.NetworkSets[w.SetName()] = w.NetworkSet()
		fallthrough
	default:
		after.Set.Tiers = slices.Clone(after.Set.Tiers)
		for i, t := range after.Set.Tiers {
			t.Policies = slices.Clone(t.Policies)
			if n := len(t.Policies); n > 0 && r.IntN(2) == 0 {
				t.Policies = slices.Delete(t.Policies, n-1, n)
			}
			if r.IntN(2) == 0 {
				t.Policies = append(t.Policies, w.Policy(fmt.Sprint("new", i)))
			}
			after.Set.Tiers[i] = t
		}
	}
	return before, after
}

// For every connection whose verdict changes in the model, the preview reports it with the
// reason, and it reports no other. The connections are random, and at the edges of all reported
// spans.
func TestAPreviewIsWhatTheModelSays(t *testing.T) {
	asked, differ, parts := 0, 0, map[string]int{}
	for seed := range uint64(800) {
		r := rand.New(rand.NewPCG(seed, 7))
		w := policytest.World{Source: r}
		before, after := two(r)
		changes, err := preview.Compare(before, after, func(p *policy.Pod) string { return p.Namespace })
		if err != nil {
			t.Fatal(err)
		}
		var ends []end
		known := map[netip.Addr]bool{}
		for _, name := range policytest.PodNames() {
			p := before.Cluster.Pods[name]
			if p == nil || p.Ended {
				continue
			}
			for _, a := range p.Addresses {
				if known[a] {
					continue
				}
				known[a] = true
				if p.HostNetwork {
					ends = append(ends, end{a: a, host: true})
				} else {
					ends = append(ends, end{pod: p, a: a})
				}
			}
		}
		for _, n := range before.Cluster.Nodes {
			for _, a := range n.Addresses {
				if !known[a] {
					known[a] = true
					ends = append(ends, end{a: a, host: true})
				}
			}
		}
		slices.SortFunc(ends, func(a, b end) int { return a.a.Compare(b.a) })
		other := func(a netip.Addr) {
			if a.IsValid() && !known[a] {
				known[a] = true
				ends = append(ends, end{a: a})
			}
		}
		for range 12 {
			other(w.Address())
		}
		for _, c := range changes {
			for _, n := range slices.Concat(c.From.Networks, c.To.Networks) {
				other(n.Addr())
				other(n.Addr().Prev())
			}
		}
		check := func(from, to end, c policy.Connection) {
			if from.pod == nil && to.pod == nil || from.pod == to.pod || from.a.Is4() != to.a.Is4() {
				return
			}
			want := model(before, after, from, to, c)
			got := said(changes, from, to, c)
			asked++
			ok := len(got) == 0
			if want[0].Action != want[1].Action {
				differ++
				for _, e := range []end{from, to} {
					parts[fmt.Sprint("pod ", e.pod != nil, " host ", e.host)]++
				}
				ok = len(got) == 1 && got[0].Before == want[0] && got[0].After == want[1] && got[0].Cut() == (want[0].Action == policy.Allow)
			}
			if !ok {
				t.Fatalf("seed %d: %s to %s, %+v:\nthe preview gives %+v\nthe model gives %+v", seed, from.a, to.a, c, got, want)
			}
		}
		find := func(e preview.End) end {
			for range 20 {
				if c := ends[r.IntN(len(ends))]; c.in(e) {
					return c
				}
			}
			return ends[r.IntN(len(ends))]
		}
		if len(ends) == 0 {
			continue
		}
		for range 60 {
			if c, ok := w.Connection(before.Cluster); ok {
				check(ends[r.IntN(len(ends))], ends[r.IntN(len(ends))], c)
			}
		}
		for _, c := range changes[:min(len(changes), 40)] {
			for _, s := range c.Traffic[:min(len(c.Traffic), 4)] {
				check(find(c.From), find(c.To), at(r, s))
			}
		}
	}
	t.Logf("%d connections, %d differ, ends of these: %v", asked, differ, parts)
	if differ < asked/10 || len(parts) != 3 {
		t.Errorf("%d of %d connections differ, of ends %v: want a tenth, and pods, hosts and others", differ, asked, parts)
	}
}

func TestTrafficAsText(t *testing.T) {
	whole := func(c compile.Class, from, to uint16) preview.Span {
		return preview.Span{Class: c, From: from, To: to, SourceTo: 0xffff}
	}
	everything := preview.Traffic{whole(compile.TCP, 0, 0xffff), whole(compile.UDP, 0, 0xffff), whole(compile.SCTP, 0, 0xffff), whole(compile.ICMP, 0, 0xffff), whole(compile.ICMPv6, 0, 0xffff), whole(compile.Other, 0, 0xff)}
	for _, c := range []struct {
		traffic preview.Traffic
		want    string
	}{
		{everything, "all"},
		{slices.Concat(preview.Traffic{whole(compile.TCP, 0, 5431), whole(compile.TCP, 5433, 0xffff)}, everything[1:]), "all but tcp/5432"},
		{everything[1:], "all but tcp"},
		{preview.Traffic{whole(compile.TCP, 80, 80), whole(compile.UDP, 53, 54), {Class: compile.SCTP, From: 1, To: 1, SourceFrom: 9, SourceTo: 10}}, "tcp/80, udp/53-54, sctp/1 from port 9-10"},
		{preview.Traffic{whole(compile.ICMP, 0x800, 0x8ff), whole(compile.ICMPv6, 0x801, 0x803), whole(compile.Other, 47, 47)}, "icmp/8, icmpv6/8:1-8:3, protocol/47"},
		{everything[5:], "other protocols"},
	} {
		if got := c.traffic.String(); got != c.want {
			t.Errorf("%+v: %q, want %q", c.traffic, got, c.want)
		}
	}
}

// Ends have names that people can read.
func TestEnds(t *testing.T) {
	pod := func(name, app, a string) *policy.Pod {
		return &policy.Pod{NamespacedName: policy.NamespacedName{Namespace: "shop", Name: name}, Labels: policy.Labels{"app": app, "a": name[:1]}, Addresses: []netip.Addr{netip.MustParseAddr(a)}}
	}
	before := preview.World{Cluster: policy.Cluster{
		Pods:  map[policy.NamespacedName]*policy.Pod{},
		Nodes: map[string]*policy.Node{"n1": {Addresses: []netip.Addr{netip.MustParseAddr("192.168.0.1")}}},
	}}
	for _, p := range []*policy.Pod{pod("db-1", "db", "10.0.0.1"), pod("db-2", "db", "10.0.0.2"), pod("web-1", "web", "10.0.0.3"), pod("xweb-2", "web", "10.0.0.4")} {
		before.Cluster.Pods[p.NamespacedName] = p
	}
	after := before
	nets := func(list ...string) (s policy.AddrSet) {
		for _, n := range list {
			s.Nets = append(s.Nets, netip.MustParsePrefix(n))
		}
		return s
	}
	p := policy.Policy{Ref: policy.Ref{Kind: "NetworkPolicy", Namespace: "shop", Name: "p"}, Directions: [2]bool{policy.Ingress: true}}
	p.Subject.Namespace = "shop"
	p.Rules[policy.Ingress] = []policy.Rule{{Action: policy.Allow, Peers: []policy.Match{{In: []policy.AddrSet{nets("10.0.0.0/31", "10.0.0.2/31", "203.0.113.0/24")}, NotIn: []policy.AddrSet{nets("203.0.113.9/32")}}}}}
	after.Set.Tiers = []policy.Tier{{Name: "default", Default: policy.Deny, Policies: []policy.Policy{p}}}
	changes, err := preview.Compare(before, after, func(p *policy.Pod) string { return p.Namespace + "/" + p.Labels["app"] })
	if err != nil {
		t.Fatal(err)
	}
	why := "ingress allow by no policy → ingress deny by the end of tier default"
	want := map[string]bool{}
	for _, from := range []string{"nodes", "outside except 10.0.0.0/30, 203.0.113.0/29, 203.0.113.8, 203.0.113.10/31 and 5 more", "shop/web (xweb-2)"} {
		for _, to := range []string{"shop/db", "shop/web"} {
			want[from+" → "+to] = true
		}
	}
	var last string
	for _, c := range changes {
		name := c.From.Name + " → " + c.To.Name
		if got := strings.Join(c.Before.Strings(), "; ") + " → " + strings.Join(c.After.Strings(), "; "); !want[name] || got != why || c.Traffic.String() != "all" || name < last {
			t.Errorf("%s: %s: %s, or out of order", name, c.Traffic, got)
		}
		delete(want, name)
		last = name
	}
	if len(want) > 0 {
		t.Errorf("%v is missing", want)
	}
}
