//go:build bench

package bench

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"terway.dev/terway/test/bench/report"
	"terway.dev/terway/test/bench/traffic"
)

// Suffixes of metrics: pods on one node; pods on two nodes through a Service; pods on two nodes
// with many other pods.
const (
	sameNode  = "_same_node"
	byService = "_service"
)

func manyPods(pods int) string { return fmt.Sprintf("_%d_pods", pods) }

// leg is a path whose metrics have a suffix.
type leg struct {
	datapath, suffix string
	path             traffic.Path
	// group is the datapath beside whose legs this leg of the host is measured.
	group string
}

// key returns the series of a metric of the leg.
func (l leg) key(metric string) report.Key {
	if l.group != "" {
		return beside(l.group, metric)
	}
	return report.Key{Datapath: l.datapath, Metric: metric + l.suffix}
}

// beside returns the host's series that was measured right before a datapath's: a change of the
// machine's speed during a round affects both.
func beside(group, metric string) report.Key {
	return report.Key{Datapath: host, Metric: metric + " beside " + group}
}

// host is the baseline: the nodes' own namespaces, on two nodes without a datapath. proxied is
// the same with kube-proxy's rules and so connection tracking, as on real nodes.
const (
	host    = "host"
	proxied = "host with kube-proxy and conntrack"
)

// clusterIP is the address of the first Service in a node's kube-proxy rules.
var clusterIP = netip.MustParseAddr("172.21.0.10")

// kubeProxy adds the rules of kube-proxy for Services with one endpoint each to a node, the first with address
// clusterIP and each other with the next one: DNAT for pods and the node, masquerade of marked packets and of those
// that an endpoint sends to itself, and a filter that drops what conntrack calls invalid.
func (n *node) kubeProxy(endpoints ...netip.Addr) {
	var services, own strings.Builder
	at := clusterIP
	for _, e := range endpoints {
		fmt.Fprintf(&services, "ip daddr %s meta l4proto { tcp, udp } dnat to %s\n", at, e)
		fmt.Fprintf(&own, "ip saddr %[1]s ip daddr %[1]s masquerade fully-random\n", e)
		at = at.Next()
	}
	n.NFT(fmt.Sprintf(`table ip kube-proxy {
		chain services { %s }
		chain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }
		chain nat-output { type nat hook output priority -100; jump services; }
		chain nat-postrouting { type nat hook postrouting priority srcnat
			mark and 0x4000 != 0 masquerade fully-random
			%s
		}
		chain filter-forward { type filter hook forward priority filter; ct state invalid drop; }
	}`, services.String(), own.String()))
}

// metric is what one measurement of a path gives.
type metric struct {
	names []string
	units []string
	take  func(p traffic.Path, window time.Duration) ([]float64, error)
}

func metrics() []metric {
	us := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }
	return []metric{
		{[]string{"tcp_stream_1", "cpu_per_gbit"}, []string{"Gbit/s", "CPU-ms"}, func(p traffic.Path, w time.Duration) ([]float64, error) {
			s, err := p.Stream(1, w)
			return []float64{s.Bits / 1e9, s.CPU * 1000}, err
		}},
		{[]string{"tcp_stream_8"}, []string{"Gbit/s"}, func(p traffic.Path, w time.Duration) ([]float64, error) {
			s, err := p.Stream(8, w)
			return []float64{s.Bits / 1e9}, err
		}},
		{[]string{"tcp_rr_p50", "tcp_rr_p99"}, []string{"µs", "µs"}, func(p traffic.Path, w time.Duration) ([]float64, error) {
			l, err := p.RoundTrips(w)
			return []float64{us(l.P50), us(l.P99)}, err
		}},
		{[]string{"udp_pps"}, []string{"packets/s"}, func(p traffic.Path, w time.Duration) ([]float64, error) {
			v, err := p.Packets(w)
			return []float64{v.PerSecond}, err
		}},
		{[]string{"connections"}, []string{"per s"}, func(p traffic.Path, w time.Duration) ([]float64, error) {
			v, err := p.Connections(w)
			return []float64{v}, err
		}},
	}
}

// TestDatapath measures every datapath, the host and other plugins, round by round, each round
// in the opposite order of the previous one.
func TestDatapath(t *testing.T) {
	rounds, many := number(t, "ROUNDS", 15), number(t, "PODS", 200)
	window := time.Duration(number(t, "WINDOW", 200)) * time.Millisecond
	b := begin(t, "bench-datapath")
	b.progress("building ptp, bridge and host-local")
	version := pluginVersion(t)
	list, notes := chosen(t)
	legs := build(b, list, many)
	for round := range rounds {
		hosts := map[string][]float64{}
		if round%2 == 1 {
			slices.Reverse(legs)
		}
		for _, m := range metrics() {
			for _, l := range legs {
				values, err := m.take(l.path, window)
				if err != nil {
					t.Fatalf("%s%s: %v", l.datapath, l.suffix, err)
				}
				for i, name := range m.names {
					b.run.Add(round, l.key(name), values[i])
					if l.group != "" {
						hosts[name] = append(hosts[name], values[i])
					}
				}
			}
			b.progress("round %d of %d: %s", round+1, rounds, m.names[0])
		}
		for name, values := range hosts {
			b.run.Add(round, report.Key{Datapath: host, Metric: name}, report.Median(values))
		}
		if round%2 == 1 {
			slices.Reverse(legs)
		}
	}
	b.finish(comparisons(legs, manyPods(many)), append(notes,
		"cpu_per_gbit is the important number on a real network card, which is full before the processors are.",
		fmt.Sprintf("ptp and bridge: containernetworking/plugins %s. With %s: %d pods on each of the two nodes.", version, manyPods(many), many)))
}

// build makes a pair of nodes for each datapath, another pair with many pods, and wires the
// pods.
func build(b *bench, list []kind, many int) (legs []leg) {
	t := b.t
	dir := buildPrograms(t)
	v := newVPC(t)
	type pair struct {
		k      kind
		pods   int // on each node
		suffix string
		a, b   *node
	}
	var all []*node
	two := func(routed bool) (x, y *node) {
		x, y = v.node(routed), v.node(routed)
		all = append(all, x, y)
		return x, y
	}
	host1, host2 := two(false)
	proxied1, proxied2 := two(false)
	var pairs []pair
	for _, k := range list {
		for _, p := range []pair{{k: k, pods: 2}, {k: k, pods: 2, suffix: byService}, {k: k, pods: many, suffix: manyPods(many)}} {
			p.a, p.b = two(false)
			for _, n := range []*node{p.a, p.b} {
				numbers := upTo(p.pods)
				if k.own {
					n.own = append(n.own, v.eni(n, 1), v.eni(n, 2))
					numbers = numbers[2:]
				}
				shared := v.eni(n, numbers...)
				n.shared = &shared
			}
			pairs = append(pairs, p)
		}
	}
	type plugged struct {
		name, plugin string
		a, b         *node
	}
	var others []plugged
	for _, o := range []plugged{{name: redirects, plugin: "ptp"}, {name: "ptp", plugin: "ptp"}, {name: "bridge", plugin: "bridge"}} {
		o.a, o.b = two(true)
		others = append(others, o)
	}
	b.progress("%d instances on the fabric", len(all))
	v.open(all...)

	proxied1.kubeProxy(proxied2.V4)
	proxied2.kubeProxy(proxied1.V4)
	legs = append(legs, leg{host, "", traffic.Path{Client: host1.NS, Server: host2.NS, Address: host2.V4}, proxied},
		leg{proxied, "", traffic.Path{Client: proxied1.NS, Server: proxied2.NS, Address: proxied2.V4}, ""})
	baseline := func(group string) {
		legs = append(legs, leg{host, "", traffic.Path{Client: host1.NS, Server: host2.NS, Address: host2.V4}, group})
	}
	var service, same leg
	for _, p := range pairs {
		b.progress("%s: %d pods on each of two nodes", p.k.name, p.pods)
		x, err := p.a.wire(p.k, upTo(p.pods))
		if err != nil {
			t.Fatal(err)
		}
		y, err := p.b.wire(p.k, upTo(p.pods))
		if err != nil {
			t.Fatal(err)
		}
		if p.suffix == "" {
			baseline(p.k.name)
		}
		l := leg{p.k.name, p.suffix, traffic.Path{Client: x[0], Server: y[0], Address: p.b.pod(1)}, ""}
		switch p.suffix {
		case "":
			same = leg{p.k.name, sameNode, traffic.Path{Client: x[0], Server: x[1], Address: p.a.pod(2)}, ""}
		case byService:
			p.a.kubeProxy(p.b.pod(1))
			p.b.kubeProxy(p.a.pod(1))
			l.path.Service = clusterIP
			service = l
			continue
		}
		legs = append(legs, l)
		if p.suffix != "" {
			// Beside the host is the pair that has a goal, and beside that the one with many pods.
			legs = append(legs, service, same)
		}
	}
	for _, o := range others {
		b.progress("%s", o.name)
		x, inside := o.a.plug(dir, o.plugin, 2)
		y, outside := o.b.plug(dir, o.plugin, 2)
		baseline(o.name)
		legs = append(legs, leg{o.name, "", traffic.Path{Client: x[0], Server: y[0], Address: outside[0]}, ""})
		if o.name == redirects {
			o.a.redirect(x[0], inside[0], o.b)
			o.b.redirect(y[0], outside[0], o.a)
			continue
		}
		legs = append(legs, leg{o.name, sameNode, traffic.Path{Client: x[0], Server: x[1], Address: inside[1]}, ""})
	}
	for _, l := range legs {
		// Few ports: closed connections must not fill the connection tables.
		l.path.Client.Sysctl("ipv4/ip_local_port_range", "32768 36863")
	}
	return legs
}

func upTo(n int) (list []int) {
	for i := range n {
		list = append(list, i+1)
	}
	return list
}

// noLoss is the goal for many pods relative to few.
const noLoss = 0.98

func comparisons(legs []leg, many string) (list []report.Comparison) {
	goals := map[string]map[string]report.Goal{}
	for _, k := range kinds() {
		goals[k.name] = k.goals
	}
	for _, m := range metrics() {
		for i, name := range m.names {
			own := report.Key{Datapath: host, Metric: name}
			list = append(list, report.Comparison{Name: name, Unit: m.units[i], Of: own, To: own, Baseline: host})
		}
	}
	for _, l := range legs {
		if l.group != "" {
			continue
		}
		for _, m := range metrics() {
			for i, name := range m.names {
				c := report.Comparison{
					Name: name + l.suffix, Unit: m.units[i], Of: l.key(name), To: beside(l.datapath, name), Baseline: host,
				}
				switch l.suffix {
				case "":
					c.Goal = goals[l.datapath][name]
				case many:
					c.To, c.Baseline = report.Key{Datapath: l.datapath, Metric: name}, "few pods"
					c.Goal = report.Goal{AtLeast: noLoss}
					if m.units[i] == "µs" || m.units[i] == "CPU-ms" { // less is better
						c.Goal = report.Goal{AtMost: 1 / noLoss}
					}
				}
				list = append(list, c)
			}
		}
	}
	return list
}
