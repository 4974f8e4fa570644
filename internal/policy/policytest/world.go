// Package policytest generates random policies, clusters and connections for tests.
//
// It uses few names, labels, networks and ports, so that rules overlap, contradict and shadow
// each other, and most connections match some rule. It depends only on the model, not on an
// implementation that it tests.
package policytest

import (
	"fmt"
	"net/netip"

	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/selector"
)

// A Source is a source of random numbers; *rand.Rand is one.
type Source interface {
	// IntN returns a number from 0 to n-1.
	IntN(n int) int
}

// Bytes is a Source for fuzzing: each call uses one byte. After the last byte it returns 0.
type Bytes []byte

// IntN implements Source.
func (b *Bytes) IntN(n int) int {
	if len(*b) == 0 {
		return 0
	}
	v := int((*b)[0])
	*b = (*b)[1:]
	if n > 256 && len(*b) > 0 {
		v = v<<8 | int((*b)[0])
		*b = (*b)[1:]
	}
	return v % n
}

// A World generates random objects.
type World struct{ Source }

func pick[T any](w World, list ...T) T { return list[w.IntN(len(list))] }

// oneIn is true with a probability of 1/n.
func (w World) oneIn(n int) bool { return w.IntN(n) == n-1 }

func some[T any](w World, most int, newOne func() T) []T {
	list := make([]T, w.IntN(most+1))
	for i := range list {
		list[i] = newOne()
	}
	return list
}

// The names and values to choose from.
var (
	Namespaces = []string{"blue", "green", "red"}
	accounts   = []string{"default", "builder"}
	// Nodes are the names of the cluster's nodes.
	Nodes     = []string{"node1", "node2"}
	keys      = []string{"app", "role", "zone"}
	values    = []string{"a", "b", "c"}
	portNames = []string{"http", "dns"}
	ports     = []uint16{0, 53, 79, 80, 81, 443, 8080, 8081, 65535}
	protocols = []uint8{policy.TCPProtocol, policy.UDPProtocol, policy.SCTPProtocol, policy.ICMPProtocol, policy.ICMPv6Protocol, 47, 255}
	nets      = []string{
		"0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/24", "10.0.0.0/29", "10.0.0.0/30", "10.0.0.4/30", "10.0.0.4/32", "192.168.0.0/16", "192.168.0.1/32",
		"203.0.113.0/24", "203.0.113.128/25", "255.255.255.255/32",
		"::/0", "fd00::/64", "fd00::/126", "fd00::4/127", "fd00:1::/64", "2001:db8::/32", "2001:db8::/33", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128",
	}
	outside = []string{
		"203.0.113.1", "203.0.113.200", "10.0.0.200", "10.1.0.0", "0.0.0.0", "255.255.255.255", "198.51.100.9",
		"2001:db8::1", "2001:db8:8000::1", "fd00::ffff", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db9::1",
	}
)

// most is the maximum number of pods. Each has its own name and addresses.
const most = 8

// PodNames returns the names that pods can have. A pod that replaces another has the same name.
func PodNames() (names []policy.NamespacedName) {
	for i := range most {
		names = append(names, policy.NamespacedName{Namespace: Namespaces[i%len(Namespaces)], Name: fmt.Sprintf("pod%d", i)})
	}
	return names
}

// Labels returns random labels.
func (w World) Labels() policy.Labels {
	l := policy.Labels{}
	for _, k := range keys {
		if !w.oneIn(3) {
			l[k] = pick(w, values...)
		}
	}
	return l
}

// Pod returns the pod with this number. A running pod has the addresses of its number; a pod
// that has ended has any addresses.
func (w World) Pod(i int) *policy.Pod {
	p := &policy.Pod{NamespacedName: PodNames()[i], Labels: w.Labels(), ServiceAccount: pick(w, accounts...), Node: pick(w, Nodes...)}
	p.Ended, p.HostNetwork = w.oneIn(8), w.oneIn(8)
	number := i
	if p.Ended {
		number = w.IntN(most)
	}
	switch {
	case p.HostNetwork:
		p.Addresses = w.Node(p.Node).Addresses
	case w.oneIn(12):
	case w.oneIn(6):
		p.Addresses = podAddresses(number)[1:]
	case w.oneIn(6):
		p.Addresses = podAddresses(number)[:1]
	default:
		p.Addresses = podAddresses(number)
	}
	p.Ports = some(w, 3, func() policy.NamedPort {
		return policy.NamedPort{Name: pick(w, portNames...), Protocol: pick(w, protocols[:3]...), Port: pick(w, ports...)}
	})
	return p
}

func podAddresses(i int) []netip.Addr {
	return []netip.Addr{
		netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}),
		netip.MustParseAddr(fmt.Sprintf("fd00::%x", i)),
	}
}

// Node returns the node with this name, with random labels.
func (w World) Node(name string) *policy.Node {
	n := name[len(name)-1:]
	return &policy.Node{Labels: w.Labels(), Addresses: []netip.Addr{netip.MustParseAddr("192.168.0." + n), netip.MustParseAddr("fd00:1::" + n)}}
}

// Nets returns random networks.
func (w World) Nets() (list []netip.Prefix) {
	for range 1 + w.IntN(3) {
		list = append(list, netip.MustParsePrefix(pick(w, nets...)))
	}
	return list
}

// NetworkSet returns a random network set.
func (w World) NetworkSet() *policy.NetworkSet {
	return &policy.NetworkSet{Labels: w.Labels(), Nets: w.Nets()}
}

// SetName returns the name of a network set.
func (w World) SetName() policy.NamespacedName {
	return policy.NamespacedName{Namespace: pick(w, append([]string{""}, Namespaces...)...), Name: pick(w, "s1", "s2")}
}

// ServiceName returns the name of a Service.
func (w World) ServiceName() policy.NamespacedName {
	return policy.NamespacedName{Namespace: pick(w, Namespaces[:2]...), Name: "svc"}
}

// AccountName returns the name of a service account.
func (w World) AccountName() policy.NamespacedName {
	return policy.NamespacedName{Namespace: pick(w, Namespaces...), Name: pick(w, accounts...)}
}

// Endpoints returns the endpoints of a Service: pods, nodes and other addresses.
func (w World) Endpoints() []policy.Endpoint {
	return append([]policy.Endpoint{}, some(w, 4, func() policy.Endpoint {
		return policy.Endpoint{Address: w.Address(), Protocol: pick(w, protocols[:3]...), Port: pick(w, ports...)}
	})...)
}

// Address returns an address of a pod, of a node or outside the cluster.
func (w World) Address() netip.Addr {
	switch w.IntN(6) {
	case 0:
		return pick(w, w.Node(pick(w, Nodes...)).Addresses...)
	case 1:
		return netip.MustParseAddr(pick(w, outside...))
	}
	return pick(w, podAddresses(w.IntN(most))...)
}

// Cluster returns a random cluster.
func (w World) Cluster() policy.Cluster {
	c := policy.Cluster{
		Namespaces:      map[string]policy.Labels{},
		ServiceAccounts: map[policy.NamespacedName]policy.Labels{},
		Pods:            map[policy.NamespacedName]*policy.Pod{},
		Nodes:           map[string]*policy.Node{},
		NetworkSets:     map[policy.NamespacedName]*policy.NetworkSet{},
		Services:        map[policy.NamespacedName][]policy.Endpoint{},
	}
	for _, n := range Namespaces {
		if !w.oneIn(6) {
			c.Namespaces[n] = w.Labels()
		}
		for _, a := range accounts {
			if w.oneIn(2) {
				c.ServiceAccounts[policy.NamespacedName{Namespace: n, Name: a}] = w.Labels()
			}
		}
	}
	for i, name := range PodNames() {
		if !w.oneIn(6) {
			c.Pods[name] = w.Pod(i)
		}
	}
	for _, n := range Nodes {
		c.Nodes[n] = w.Node(n)
	}
	for range w.IntN(4) {
		c.NetworkSets[w.SetName()] = w.NetworkSet()
	}
	for range w.IntN(3) {
		c.Services[w.ServiceName()] = w.Endpoints()
	}
	return c
}

// selector returns a selector of labels, sometimes nil.
func (w World) selector() *selector.Selector {
	one := func() *selector.Selector {
		k := pick(w, keys...)
		if w.oneIn(10) {
			k = pick(w, policy.LabelNamespace, policy.LabelServiceAccount, policy.PrefixNamespace+k, policy.PrefixServiceAccount+k, policy.LabelName)
		}
		var s *selector.Selector
		switch w.IntN(4) {
		case 0:
			s = selector.Has(k)
		case 1:
			s = selector.In(k, pick(w, values...), pick(w, append(Namespaces, values...)...))
		default:
			s = selector.In(k, pick(w, values...))
		}
		if w.oneIn(4) {
			s = selector.Not(s)
		}
		return s
	}
	switch w.IntN(8) {
	case 0:
		return nil
	case 1:
		return selector.All()
	case 2:
		return selector.And(one(), one())
	case 3:
		return selector.Or(one(), one())
	}
	return one()
}
