//go:build bench

// Package policy measures the cost of compiling policies: make bench-policy.
package policy

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/compile"
	"terway.dev/terway/internal/policy/selector"
)

func heap() float64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc) / (1 << 20)
}

func name(ns, n int) policy.NamespacedName {
	return policy.NamespacedName{Namespace: fmt.Sprintf("ns%d", ns), Name: fmt.Sprintf("pod%d", n)}
}

func address(n int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)})
}

func app(n int) *policy.PodSelector {
	return &policy.PodSelector{Pods: selector.In("app", fmt.Sprintf("app%d", n))}
}

func tcp(ports ...policy.Port) []policy.Traffic {
	t := policy.Traffic{Protocols: new([256]bool), DestinationPorts: ports}
	t.Protocols[policy.TCPProtocol] = true
	return []policy.Traffic{t}
}

func port(n int) policy.Port { return policy.Port{From: uint16(n), To: uint16(n)} }

// TestPolicyTenThousandRules compiles 10,000 different rules of one pod.
func TestPolicyTenThousandRules(t *testing.T) {
	const rules = 10_000
	pods := map[policy.NamespacedName]*policy.Pod{}
	for i := range rules {
		pods[name(0, i)] = &policy.Pod{NamespacedName: name(0, i), Node: "node", Addresses: []netip.Addr{address(i)}, Labels: policy.Labels{"app": fmt.Sprintf("app%d", i)}}
	}
	peer := func(s policy.AddrSet) []policy.Match { return []policy.Match{{In: []policy.AddrSet{s}}} }
	action := func(i int) policy.Action { return []policy.Action{policy.Allow, policy.Deny}[i%2] }
	for _, c := range []struct {
		what string
		rule func(i int) policy.Rule
	}{
		{"peers are pods", func(i int) policy.Rule {
			return policy.Rule{Action: action(i), Peers: peer(policy.AddrSet{Pods: app(i)}), Traffic: tcp(policy.Port{From: uint16(i), To: uint16(i + 9)})}
		}},
		{"peers are networks", func(i int) policy.Rule {
			return policy.Rule{Action: action(i), Peers: peer(policy.AddrSet{Nets: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{100, byte(i >> 8), byte(i), 0}), 24)}}), Traffic: tcp(port(i))}
		}},
		{"half for anyone, half for pods and all ports", func(i int) policy.Rule {
			if i%2 == 0 {
				return policy.Rule{Action: action(i / 2), Traffic: tcp(port(i))}
			}
			return policy.Rule{Action: action(i / 2), Peers: peer(policy.AddrSet{Pods: app(i)})}
		}},
		{"the same after one that passes", func(i int) policy.Rule {
			switch {
			case i == 0:
				return policy.Rule{Action: policy.Pass, Traffic: tcp(port(53))}
			case i%100 == 0:
				return policy.Rule{Action: action(i / 2), Traffic: tcp(port(i))}
			}
			return policy.Rule{Action: action(i / 2), Peers: peer(policy.AddrSet{Pods: app(i)})}
		}},
		{"a tenth pass, for pods; the others for anyone", func(i int) policy.Rule {
			if i%10 == 0 {
				return policy.Rule{Action: policy.Pass, Peers: peer(policy.AddrSet{Pods: app(i)}), Traffic: tcp(policy.Port{From: 0, To: uint16(i)})}
			}
			return policy.Rule{Action: action(i / 2), Traffic: tcp(port(i))}
		}},
		{"source ports", func(i int) policy.Rule {
			r := policy.Rule{Action: action(i), Traffic: tcp(port(i))}
			r.Traffic[0].SourcePorts = []policy.Port{{From: uint16(i), To: uint16(i + 100)}}
			return r
		}},
		{"nested networks, beyond the budget", func(i int) policy.Rule {
			return policy.Rule{Action: action(i), Peers: peer(policy.AddrSet{Nets: []netip.Prefix{netip.PrefixFrom(address(i<<12), 8+i%25).Masked()}}), Traffic: tcp(port(i))}
		}},
	} {
		p := policy.Policy{Ref: policy.Ref{Kind: "GlobalNetworkPolicy", Name: "p"}, Subject: *app(0), Directions: [2]bool{true, false}}
		for i := range rules {
			r := c.rule(i)
			r.Number = i
			p.Rules[policy.Ingress] = append(p.Rules[policy.Ingress], r)
		}
		set := policy.Set{Tiers: []policy.Tier{{Name: "default", Default: policy.Deny, Policies: []policy.Policy{p}}}}
		before := heap()
		start := time.Now()
		compiled, err := compile.Compile(set, policy.Cluster{Pods: pods}, compile.DefaultBudget)
		if err != nil {
			t.Fatal(err)
		}
		took := time.Since(start)
		after := heap()
		for _, err := range compiled.Errors() {
			t.Log(err)
		}
		start = time.Now()
		node := compiled.ForNode("node")
		m := node.Maps()
		part := time.Since(start)
		packet := compile.Packet{Endpoint: m.EndpointOf[name(0, 0)], Protocol: policy.TCPProtocol}
		start = time.Now()
		const lookups = 1_000_000
		for i := range lookups {
			packet.Peer, packet.DestinationPort = address(i*7919%rules), uint16(i)
			m.Lookup(packet)
		}
		t.Logf("%-45s %7.0f ms, %4.0f MB; node: %d peers, %d addresses, %d ranges, %d tables, %d rows of them, %d verdicts in %.0f ms; lookup in Go %d ns", c.what,
			float64(took.Microseconds())/1000, after-before, len(m.Peers), len(m.Addresses), m.IPv4, len(node.Tables), len(m.Spans)-int(compile.FirstTable), len(m.Verdicts)-1,
			float64(part.Microseconds())/1000, time.Since(start).Nanoseconds()/lookups)
		runtime.KeepAlive(compiled)
	}
}

// A cluster of namespaces with a number of pods each. Two pods share an app, and each app has a
// policy.
func cluster(namespaces, pods, policies int) (policy.Set, policy.Cluster) {
	c := policy.Cluster{Namespaces: map[string]policy.Labels{}, Pods: map[policy.NamespacedName]*policy.Pod{}}
	var list []policy.Policy
	for ns := range namespaces {
		c.Namespaces[name(ns, 0).Namespace] = policy.Labels{"team": fmt.Sprint(ns % 10)}
		for i := range pods {
			p := pod(ns, i, ns*pods+i)
			c.Pods[p.NamespacedName] = p
		}
		for i := range policies {
			list = append(list, networkPolicy(ns, i, 8080))
		}
	}
	return policy.Set{Tiers: []policy.Tier{{Name: "default", Default: policy.Deny, Policies: list}}}, c
}

const nodes = 300

func pod(ns, i, n int) *policy.Pod {
	return &policy.Pod{
		NamespacedName: name(ns, i), Node: fmt.Sprintf("node%d", n%nodes), Addresses: []netip.Addr{address(n)},
		Labels: policy.Labels{"app": fmt.Sprintf("app%d", i/2), "pod-template-hash": fmt.Sprintf("%x", i), "statefulset.kubernetes.io/pod-name": name(ns, i).Name},
	}
}

// networkPolicy returns the policy of app i/2 of a namespace: from two others and monitoring,
// to one more, DNS and a network outside; every tenth from the whole namespace and from a
// team's.
func networkPolicy(ns, i, at int) policy.Policy {
	in := func(n int) policy.Match {
		s := *app(n)
		s.Namespace = name(ns, 0).Namespace
		return policy.Match{In: []policy.AddrSet{{Pods: &s}}}
	}
	p := policy.Policy{
		Ref:     policy.Ref{Kind: "NetworkPolicy", Namespace: name(ns, 0).Namespace, Name: fmt.Sprintf("policy%d", i)},
		Subject: *in(i / 2).In[0].Pods, Directions: [2]bool{true, true},
	}
	p.Rules[policy.Ingress] = []policy.Rule{
		{Action: policy.Allow, Peers: []policy.Match{in(i/2 + 1), in(i/2 + 2)}, Traffic: tcp(port(at), port(8443))},
		{Action: policy.Allow, Number: 1, Peers: []policy.Match{{In: []policy.AddrSet{{Pods: &policy.PodSelector{Namespace: "ns0", Pods: selector.In("app", "app0")}}}}}, Traffic: tcp(port(9090))},
	}
	p.Rules[policy.Egress] = []policy.Rule{
		{Action: policy.Allow, Peers: []policy.Match{in(i/2 + 3)}, Traffic: tcp(port(at))},
		{Action: policy.Allow, Number: 1, Peers: []policy.Match{{In: []policy.AddrSet{{Pods: &policy.PodSelector{Namespace: "ns1", Pods: selector.In("app", "app1")}}}}}, Traffic: tcp(port(53))},
		{Action: policy.Allow, Number: 2, Peers: []policy.Match{{
			In:    []policy.AddrSet{{Nets: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}}},
			NotIn: []policy.AddrSet{{Nets: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("100.100.100.200/32")}}},
		}}, Traffic: tcp(port(443))},
	}
	if i%10 == 0 {
		p.Rules[policy.Ingress] = append(p.Rules[policy.Ingress], policy.Rule{Action: policy.Allow, Number: 2, Peers: []policy.Match{
			{In: []policy.AddrSet{{Pods: &policy.PodSelector{Namespace: name(ns, 0).Namespace}}}},
			{In: []policy.AddrSet{{Pods: &policy.PodSelector{Namespaces: selector.In("team", fmt.Sprint(i%7)), Pods: selector.In("app", "app3")}}}},
		}})
	}
	return p
}

// TestPolicyOneChange measures single changes in clusters with different numbers of policies.
func TestPolicyOneChange(t *testing.T) {
	for _, size := range []struct{ namespaces, pods, policies int }{{100, 300, 30}, {100, 300, 300}} {
		set, objects := cluster(size.namespaces, size.pods, size.policies)
		before := heap()
		start := time.Now()
		c, err := compile.Compile(set, objects, compile.DefaultBudget)
		if err != nil {
			t.Fatal(err)
		}
		took := time.Since(start)
		t.Logf("%d pods, %d policies: compiled in %.1f s, %.0f MB beside %.0f MB of objects", len(objects.Pods), size.namespaces*size.policies, took.Seconds(), heap()-before, before)
		for _, err := range c.Errors() {
			t.Fatal(err)
		}
		start = time.Now()
		part := c.ForNode("node7")
		m := part.Maps()
		t.Logf("  a node's part: %d endpoints, %d peers, %d addresses, %d ranges, %d tables, %d rows of them in %.1f ms", len(m.Endpoints)-1, len(m.Peers), len(m.Addresses),
			m.IPv4, len(part.Tables), len(m.Spans)-int(compile.FirstTable), float64(time.Since(start).Microseconds())/1000)

		free := len(objects.Pods)
		one := func(what string, times int, delta func(i int) compile.Delta) {
			var told int
			var total, worst time.Duration
			for i := range times {
				d := delta(i)
				start := time.Now()
				nodes, err := c.Apply(d)
				took := time.Since(start)
				if err != nil {
					t.Fatal(err)
				}
				told += len(nodes)
				total, worst = total+took, max(worst, took)
			}
			t.Logf("  %-45s %8.1f µs, at most %8.1f µs; %.1f nodes' parts change", what, float64(total.Nanoseconds())/1000/float64(times), float64(worst.Nanoseconds())/1000, float64(told)/float64(times))
		}
		podDelta := func(p *policy.Pod) compile.Delta {
			return compile.Delta{Pods: map[policy.NamespacedName]*policy.Pod{p.NamespacedName: p}}
		}
		one("a pod like others comes", 200, func(i int) compile.Delta {
			p := pod(i%size.namespaces, i*2%size.pods, free+i)
			p.Name = fmt.Sprintf("more%d", i)
			return podDelta(p)
		})
		one("it goes", 200, func(i int) compile.Delta {
			return compile.Delta{Pods: map[policy.NamespacedName]*policy.Pod{{Namespace: name(i%size.namespaces, 0).Namespace, Name: fmt.Sprintf("more%d", i)}: nil}}
		})
		one("a pod like no other comes", 200, func(i int) compile.Delta {
			p := pod(i%size.namespaces, i*2%size.pods, free+i)
			p.Name, p.Labels = fmt.Sprintf("new%d", i), policy.Labels{"app": fmt.Sprintf("new%d", i)}
			return podDelta(p)
		})
		one("a pod gets another app", 200, func(i int) compile.Delta {
			p := *objects.Pods[name(i%size.namespaces, i*2%size.pods)]
			p.Labels = policy.Labels{"app": fmt.Sprintf("app%d", (i+5)%(size.pods/2))}
			return podDelta(&p)
		})
		one("a policy changes a port", 200, func(i int) compile.Delta {
			k := i * 7 % (size.namespaces * size.policies)
			p := networkPolicy(k/size.policies, k%size.policies, 8081)
			return compile.Delta{Policies: []compile.Change{{Ref: p.Ref, Policy: &p, Tier: "default", Index: k}}}
		})
		one("a policy goes", 200, func(i int) compile.Delta {
			k := i * 7 % (size.namespaces * size.policies)
			return compile.Delta{Policies: []compile.Change{{Ref: networkPolicy(k/size.policies, k%size.policies, 0).Ref}}}
		})
		one("a policy for a new network comes", 100, func(i int) compile.Delta {
			p := networkPolicy(i%size.namespaces, i%size.policies, 0)
			p.Ref.Name = fmt.Sprintf("network%d", i)
			p.Rules[policy.Egress] = []policy.Rule{{Action: policy.Allow, Peers: []policy.Match{{In: []policy.AddrSet{{Nets: []netip.Prefix{netip.PrefixFrom(address(i<<8), 24)}}}}}}}
			return compile.Delta{Policies: []compile.Change{{Ref: p.Ref, Policy: &p, Tier: "default"}}}
		})
		one("a namespace gets another label", 50, func(i int) compile.Delta {
			return compile.Delta{Namespaces: map[string]policy.Labels{name(i%size.namespaces, 0).Namespace: {"team": fmt.Sprint(i % 7)}}}
		})
		one("a namespace gets a label nobody asks for", 50, func(i int) compile.Delta {
			return compile.Delta{Namespaces: map[string]policy.Labels{name(i%size.namespaces, 0).Namespace: {"team": fmt.Sprint(i % 7), "other": fmt.Sprint(i)}}}
		})
		runtime.KeepAlive(c)
	}
}
