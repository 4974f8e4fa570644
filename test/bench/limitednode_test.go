//go:build bench

package bench

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"terway.dev/terway/internal/bandwidth"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/testutil"
	"terway.dev/terway/test/bench/traffic"
)

// A node with many limited pods has so many, each with such a limit.
const (
	limitedPods = 50
	lowLimit    = 10e6
)

// podsEach is how many pods with the same limit a node has, so that no two measurements at the same time share one.
const podsEach = 5

// limitedNode is a node of one kind with pods of each limit and without. On the other node are two pods without a
// limit, the other ends of their connections.
type limitedNode struct {
	kind
	node, other *node
	pods        []*limitedPod
	far         []*testutil.NS
	// plain are pods of two nodes with many pods without a limit, beside of two nodes with many limited ones.
	plain, beside traffic.Path
}

// limitedPod is a pod with a limit in both directions, in bits per second; 0: none.
type limitedPod struct {
	*testutil.NS
	on    *limitedNode
	limit float64
	V4    netip.Addr
	// service is the address of a Service whose endpoint the pod is.
	service netip.Addr
	// in and out count what the pod receives and sends, one for each of its devices.
	in, out []gauge
}

type gauge struct {
	*traffic.Meter
	way traffic.Way
}

// to and from are the pod's paths to the other node and back; the next two to the node itself; the last one to
// the pod itself by its Service.
func (p *limitedPod) to() traffic.Path {
	return traffic.Path{Client: p.NS, Server: p.on.far[0], Address: p.on.other.pod(1)}
}

func (p *limitedPod) from() traffic.Path {
	return traffic.Path{Client: p.on.far[0], Server: p.NS, Address: p.V4}
}

func (p *limitedPod) toNode() traffic.Path {
	return traffic.Path{Client: p.NS, Server: p.on.node.NS, Address: p.on.node.V4}
}

func (p *limitedPod) fromNode() traffic.Path {
	return traffic.Path{Client: p.on.node.NS, Server: p.NS, Address: p.V4}
}

func (p *limitedPod) toItself() traffic.Path {
	return traffic.Path{Client: p.NS, Server: p.NS, Address: p.V4, Service: p.service}
}

// attach makes the gauges. What an exclusive ENI receives is counted where it leaves the queue: at eth0 it has
// not passed it.
func (p *limitedPod) attach() error {
	at := func(list *[]gauge, device string, way traffic.Way) error {
		m, err := traffic.NewMeter(p.NS, device)
		if err != nil {
			return err
		}
		p.on.node.t.Cleanup(func() {
			if err := m.Close(); err != nil {
				p.on.node.t.Error(err)
			}
		})
		*list = append(*list, gauge{m, way})
		return nil
	}
	if err := at(&p.out, "eth0", traffic.Out); err != nil {
		return err
	}
	if !p.on.own {
		return at(&p.in, "eth0", traffic.In)
	}
	if err := at(&p.out, claims.ExclusiveIfName, traffic.Out); err != nil {
		return err
	}
	if p.limit > 0 {
		return at(&p.in, claims.ShaperIngress, traffic.Out)
	}
	if err := at(&p.in, "eth0", traffic.In); err != nil {
		return err
	}
	return at(&p.in, claims.ExclusiveIfName, traffic.In)
}

// limitedNodes makes the nodes of each kind.
func limitedNodes(b *bench, list []kind, limits []float64) (out []*limitedNode) {
	v := newVPC(b.t)
	var all []*node
	add := func(k kind, own int, numbers []int, limits map[int]bandwidth.Limits) *node {
		n := v.node(false)
		n.limits = limits
		if k.own {
			for _, i := range numbers[:own] {
				n.own = append(n.own, v.eni(n, i))
			}
			numbers = numbers[own:]
		}
		if len(numbers) > 0 {
			shared := v.eni(n, numbers...)
			n.shared = &shared
		}
		all = append(all, n)
		return n
	}
	both := func(bits float64) bandwidth.Limits {
		return bandwidth.Limits{Ingress: uint64(bits), Egress: uint64(bits)}
	}
	type rest struct{ plain, beside [2]*node }
	var rests []rest
	for _, k := range list {
		l := &limitedNode{kind: k}
		given := map[int]bandwidth.Limits{}
		for _, bits := range append(limits, 0) {
			for range podsEach {
				l.pods = append(l.pods, &limitedPod{on: l, limit: bits})
				if bits > 0 {
					given[len(l.pods)] = both(bits)
				}
			}
		}
		l.node, l.other = add(k, len(l.pods), upTo(len(l.pods)), given), add(k, 2, upTo(2), nil)
		many := map[int]bandwidth.Limits{}
		for i := range limitedPods {
			many[i+2] = both(lowLimit)
		}
		var r rest
		for i := range 2 {
			r.plain[i], r.beside[i] = add(k, 1, upTo(limitedPods+1), nil), add(k, 1, upTo(limitedPods+1), many)
		}
		out, rests = append(out, l), append(rests, r)
	}
	b.progress("%d instances on the fabric", len(all))
	v.open(all...)
	populate := func(n *node, k kind, pods int) []*testutil.NS {
		list, err := n.judge(k, upTo(pods), 0, netip.Addr{})
		if err != nil {
			b.t.Fatal(err)
		}
		for _, ns := range list {
			// Few ports: closed connections must not fill the connection tables.
			ns.Sysctl("ipv4/ip_local_port_range", "32768 36863")
		}
		return list
	}
	for i, l := range out {
		b.progress("%s: the pods", l.name)
		service := clusterIP
		var endpoints []netip.Addr
		for k, ns := range populate(l.node, l.kind, len(l.pods)) {
			p := l.pods[k]
			p.NS, p.V4, p.service = ns, l.node.pod(k+1), service
			endpoints, service = append(endpoints, p.V4), service.Next()
			if err := p.attach(); err != nil {
				b.t.Fatal(err)
			}
		}
		l.node.kubeProxy(endpoints...)
		l.far = populate(l.other, l.kind, 2)
		many := func(pair [2]*node) traffic.Path {
			x, y := populate(pair[0], l.kind, limitedPods+1), populate(pair[1], l.kind, limitedPods+1)
			return traffic.Path{Client: x[0], Server: y[0], Address: pair[1].pod(1)}
		}
		l.plain, l.beside = many(rests[i].plain), many(rests[i].beside)
	}
	return out
}

// of returns the pods with a limit; 0: without.
func (l *limitedNode) of(limit float64) []*limitedPod {
	i := slices.IndexFunc(l.pods, func(p *limitedPod) bool { return p.limit == limit })
	return l.pods[i : i+podsEach]
}

// sent returns how many TCP segments a pod has sent, and how many of them again.
func (p *limitedPod) sent() (segments, again float64, err error) {
	var text []byte
	err = p.Do(func() (err error) {
		text, err = os.ReadFile("/proc/thread-self/net/snmp")
		return err
	})
	if err != nil {
		return 0, 0, fmt.Errorf("TCP segments of %s: %w", p.Name, err)
	}
	var names []string
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		switch {
		case fields[0] != "Tcp:":
		case names == nil:
			names = fields
		default:
			for i, name := range names {
				switch name {
				case "OutSegs":
					_, err = fmt.Sscan(fields[i], &segments)
				case "RetransSegs":
					_, err = fmt.Sscan(fields[i], &again)
				}
				if err != nil {
					return 0, 0, fmt.Errorf("TCP segments of %s: %w", p.Name, err)
				}
			}
		}
	}
	return segments, again, nil
}
