//go:build bench

package bench

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/ebpf"
	datapaths "terway.dev/terway/internal/datapath/kinds"
	dpnode "terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/policymap"
	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/compile"
	"terway.dev/terway/internal/testutil"
	"terway.dev/terway/internal/vpcsim/fabric"
	"terway.dev/terway/test/bench/report"
	"terway.dev/terway/test/bench/traffic"
)

// The other ends of connections with rules: addresses of an instance. manyRules have one of them
// each, fewRules 1,024, so that both allow the same.
const (
	peersCIDR           = "10.3.0.0/18"
	fewRules, manyRules = 10, 10 * 1024
	stranger            = "10.3.63.1:1"
)

// same is the goal for established connections with rules relative to those without.
const same = 0.97

// product opens the node as terwayd does: with all kinds, and policies, which are off.
func product(netns string, log *slog.Logger) (*dpnode.Node, *ebpf.Policy, error) {
	lacking, err := datapaths.Probe()
	if err != nil {
		return nil, nil, err
	}
	return datapaths.New(datapaths.Options{NetNS: netns, Lacking: lacking, Log: log})
}

// judge makes the pods with these numbers. With rules not 0 each of them has so many in each
// direction, one of which is for the address other.
func (n *node) judge(k kind, pods []int, rules int, other netip.Addr) ([]*testutil.NS, error) {
	dp, policies, err := product(n.Path, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	n.closes(dp)
	if rules > 0 {
		maps, err := policies.Prepare()
		if err != nil {
			return nil, err
		}
		w, err := policymap.New(maps, policymap.DefaultLimits)
		if err != nil {
			return nil, err
		}
		n.t.Cleanup(func() {
			if err := w.Close(); err != nil {
				n.t.Error(err)
			}
		})
		c, err := compile.Compile(ruled(rules, other), n.cluster(pods), compile.DefaultBudget)
		if err == nil && len(c.Errors()) > 0 {
			err = c.Errors()[0]
		}
		if err == nil {
			err = w.Write(c.ForNode("node"))
		}
		if err == nil {
			err = policies.On()
		}
		if err != nil {
			return nil, err
		}
	}
	list, wired, err := n.add(dp, k.shared(), pods)
	if err != nil {
		return nil, err
	}
	_, err = dp.Sync(context.Background(), n.desired(k.shared()), wired)
	return list, err
}

// shared is the kind of the node's pods with shared ENIs.
func (k kind) shared() string {
	if k.own {
		return claims.Route
	}
	return k.name
}

func (n *node) cluster(pods []int) policy.Cluster {
	c := policy.Cluster{Namespaces: map[string]policy.Labels{"default": {}}, Pods: map[policy.NamespacedName]*policy.Pod{}}
	for _, p := range pods {
		name := policy.NamespacedName{Namespace: "default", Name: fmt.Sprintf("pod%d", p)}
		c.Pods[name] = &policy.Pod{NamespacedName: name, Node: "node", Addresses: []netip.Addr{n.pod(p)}}
	}
	return c
}

// ruled returns a policy with so many rules in each direction, each for other addresses of the
// peers and with other ports, all of which are those of sockets here. One also has the address
// other. What no rule allows is denied.
func ruled(rules int, other netip.Addr) policy.Set {
	p := policy.Policy{Ref: policy.Ref{Kind: "NetworkPolicy", Namespace: "default", Name: "rules"}, Subject: policy.PodSelector{Namespace: "default"}, Directions: [2]bool{true, true}}
	for i, at := range peers(rules) {
		nets := []netip.Prefix{at}
		if i == rules/2 {
			nets = append(nets, netip.PrefixFrom(other, other.BitLen()))
		}
		t := policy.Traffic{Protocols: &[256]bool{}, DestinationPorts: []policy.Port{{From: uint16(1 + i%1000), To: uint16(65535 - i/1000)}}}
		t.Protocols[policy.TCPProtocol], t.Protocols[policy.UDPProtocol] = true, true
		r := policy.Rule{Number: i, Action: policy.Allow, Peers: []policy.Match{{In: []policy.AddrSet{{Nets: nets}}}}, Traffic: []policy.Traffic{t}}
		for d := range p.Rules {
			p.Rules[d] = append(p.Rules[d], r)
		}
	}
	return policy.Set{Tiers: []policy.Tier{{Name: "default", Default: policy.Deny, Policies: []policy.Policy{p}}}}
}

// peers divides the first manyRules addresses of the peers.
func peers(into int) (list []netip.Prefix) {
	bits := 32
	for n := manyRules / into; n > 1; n /= 2 {
		bits--
	}
	a := netip.MustParsePrefix(peersCIDR).Addr().As4()
	for i := range into {
		k := i * (manyRules / into)
		b := a
		b[2], b[3] = a[2]+byte(k>>8), byte(k)
		list = append(list, netip.PrefixFrom(netip.AddrFrom4(b), bits))
	}
	return list
}

// flows are the measurements of established connections, in names of Path's figures.
func flows() []metric {
	list := metrics()
	return []metric{list[0], list[2], {[]string{"cpu_per_packet"}, []string{"µs"}, func(p traffic.Path, w time.Duration) ([]float64, error) {
		r, err := p.EstablishedPackets(w)
		return []float64{r.CPU * 1e6}, err
	}}}
}

// policyLeg is a path of pods with or without rules.
type policyLeg struct {
	kind, rules string
	path        traffic.Path
	metrics     []metric
}

func (l policyLeg) key(metric string) report.Key {
	return report.Key{Datapath: l.kind, Metric: metric + ", " + l.rules}
}

// What a leg's pods have.
const (
	noPolicy, few, many = "no policy", "10 rules", "10,240 rules"

	toPeers, fromPeers = "connections_to_peers", "connections_from_peers"
)

// TestPolicyTraffic measures what rules cost pods' traffic, round by round, each round in the
// opposite order of the previous one.
func TestPolicyTraffic(t *testing.T) {
	rounds := number(t, "ROUNDS", 15)
	window := time.Duration(number(t, "WINDOW", 200)) * time.Millisecond
	b := begin(t, "bench-policy")
	b.part = "traffic"
	list, notes := chosen(t)
	legs := policyLegs(b, list)
	for round := range rounds {
		turn := slices.Clone(legs)
		if round%2 == 1 {
			slices.Reverse(turn)
		}
		for _, m := range append(flows(), connectionsOf(toPeers), connectionsOf(fromPeers)) {
			for _, l := range turn {
				if !slices.ContainsFunc(l.metrics, func(o metric) bool { return o.names[0] == m.names[0] }) {
					continue
				}
				values, err := m.take(l.path, window)
				if err != nil {
					t.Fatalf("%s, %s: %v", l.kind, l.rules, err)
				}
				for i, name := range m.names {
					b.run.Add(round, l.key(name), values[i])
				}
			}
		}
		b.progress("round %d of %d", round+1, rounds)
	}
	b.finish(policyComparisons(list), append(notes,
		fmt.Sprintf("With rules, both ends have so many in each direction, no two alike. Peers are %d addresses of an instance, random for each connection; each of %d rules has one of them, each of %d has 1,024.", manyRules, manyRules, fewRules)))
}

func connectionsOf(name string) metric {
	return metric{[]string{name}, []string{"per s"}, func(p traffic.Path, w time.Duration) ([]float64, error) {
		v, err := p.Connections(w)
		return []float64{v}, err
	}}
}

func policyComparisons(list []kind) (out []report.Comparison) {
	for _, k := range list {
		line := func(metric, unit, of, to string, g report.Goal) {
			out = append(out, report.Comparison{
				Name: metric + ", " + of, Unit: unit, Of: report.Key{Datapath: k.name, Metric: metric + ", " + of},
				To: report.Key{Datapath: k.name, Metric: metric + ", " + to}, Baseline: to, Goal: g,
			})
		}
		for _, m := range flows() {
			for i, name := range m.names {
				goal := report.Goal{AtMost: 1 / same}
				switch {
				case name == "tcp_stream_1":
					goal = report.Goal{AtLeast: same}
				case name == "tcp_rr_p99": // it says more of the machine
					goal = report.Goal{}
				}
				line(name, m.units[i], noPolicy, noPolicy, report.Goal{})
				line(name, m.units[i], many, noPolicy, goal)
			}
		}
		for _, name := range []string{toPeers, fromPeers} {
			line(name, "per s", noPolicy, few, report.Goal{})
			line(name, "per s", few, few, report.Goal{})
			line(name, "per s", many, few, report.Goal{AtLeast: 0.90})
		}
	}
	return out
}

// policyLegs makes for each kind two nodes without policies and two with many rules, whose pods
// talk to each other, and one with few; and an instance with the peers.
func policyLegs(b *bench, list []kind) (legs []policyLeg) {
	t := b.t
	v := newVPC(t)
	all := []*node{v.node(false)}
	outside := all[0]
	port := &v.top.Instances[outside.number-1].Ports[0]
	port.SourceDestCheck = false
	v.top.RouteTables[0].Routes = append(v.top.RouteTables[0].Routes, fabric.Route{Prefix: netip.MustParsePrefix(peersCIDR), NextHops: []string{port.ENI}})
	type arm struct {
		kind
		what  string
		rules int
		a, b  *node // b is nil: no other end
	}
	var arms []arm
	for _, k := range list {
		add := func() *node {
			n := v.node(false)
			eni := v.eni(n, 1)
			if n.shared = &eni; k.own {
				n.shared, n.own = nil, append(n.own, eni)
			}
			all = append(all, n)
			return n
		}
		arms = append(arms, arm{k, noPolicy, 0, add(), add()}, arm{k, few, fewRules, add(), nil}, arm{k, many, manyRules, add(), add()})
	}
	b.progress("%d instances on the fabric", len(all))
	v.open(all...)
	outside.IP("route add local " + peersCIDR + " dev lo")
	var addresses []netip.Addr
	for _, p := range peers(manyRules) {
		addresses = append(addresses, p.Addr())
	}
	for _, a := range arms {
		b.progress("%s, %s", a.kind.name, a.what)
		other := a.a.pod(1)
		if a.b != nil {
			other = a.b.pod(1)
		}
		x, err := a.a.judge(a.kind, upTo(1), a.rules, other)
		if err != nil {
			t.Fatal(err)
		}
		if a.rules > 0 {
			// It is a peer of no rule. An address that the instance has and a port that it has not: an answer is a reset.
			if _, err := x[0].Dial("tcp", "", stranger, time.Second); err == nil || !os.IsTimeout(err) {
				t.Fatalf("%s, %s: a connection that no rule allows is not dropped: %v", a.kind.name, a.what, err)
			}
		}
		if a.b != nil {
			y, err := a.b.judge(a.kind, upTo(1), a.rules, a.a.pod(1))
			if err != nil {
				t.Fatal(err)
			}
			legs = append(legs, policyLeg{a.kind.name, a.what, traffic.Path{Client: x[0], Server: y[0], Address: other}, flows()})
		}
		legs = append(legs,
			policyLeg{a.kind.name, a.what, traffic.Path{Client: x[0], Server: outside.NS, Peers: addresses}, []metric{connectionsOf(toPeers)}},
			policyLeg{a.kind.name, a.what, traffic.Path{Client: outside.NS, Server: x[0], Address: a.a.pod(1), Sources: addresses}, []metric{connectionsOf(fromPeers)}})
	}
	for _, l := range legs {
		// Few ports: closed connections must not fill the connection tables.
		l.path.Client.Sysctl("ipv4/ip_local_port_range", "32768 36863")
	}
	return legs
}
