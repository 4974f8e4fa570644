package compile

import (
	"cmp"
	"net/netip"
	"slices"

	"terway.dev/terway/internal/policy"
)

// facts holds the current objects of the cluster.
type facts struct{ policy.Cluster }

func newFacts() facts {
	return facts{policy.Cluster{
		Namespaces:      map[string]policy.Labels{},
		ServiceAccounts: map[policy.NamespacedName]policy.Labels{},
		Pods:            map[policy.NamespacedName]*policy.Pod{},
		Nodes:           map[string]*policy.Node{},
		NetworkSets:     map[policy.NamespacedName]*policy.NetworkSet{},
		Services:        map[policy.NamespacedName][]policy.Endpoint{},
	}}
}

// judged reports whether policies can select a pod.
func judged(p *policy.Pod) bool { return !p.HostNetwork && !p.Ended }

// selects reports whether a selector selects a pod, which policies can select.
func (f *facts) selects(s policy.PodSelector, p *policy.Pod) bool {
	if s.Namespace != "" && s.Namespace != p.Namespace || s.ServiceAccountNames != nil && !slices.Contains(s.ServiceAccountNames, p.ServiceAccount) {
		return false
	}
	if !s.Namespaces.Matches(f.NamespaceLabels(p.Namespace)) || !s.Pods.Matches(f.PodLabels(p)) {
		return false
	}
	account := policy.NamespacedName{Namespace: p.Namespace, Name: p.ServiceAccount}
	return s.ServiceAccounts.Matches(f.ServiceAccountLabels(account))
}

// nets returns the networks of the sets that a selector selects.
func (f *facts) nets(s *policy.NetworkSetSelector) (nets []netip.Prefix) {
	for name, set := range f.NetworkSets {
		if f.selectsNets(s, name) {
			nets = append(nets, set.Nets...)
		}
	}
	return nets
}

func (f *facts) selectsNets(s *policy.NetworkSetSelector, name policy.NamespacedName) bool {
	switch {
	case s.Namespace != "" && s.Namespace != name.Namespace:
		return false
	case name.Namespace == "" && !s.Global:
		return false
	case name.Namespace != "" && (!s.Namespaced || !s.Namespaces.Matches(f.NamespaceLabels(name.Namespace))):
		return false
	}
	return s.Sets.Matches(f.NetworkSetLabels(name))
}

// own reports whether a pod's own address matches.
func (c *Compiler) own(m *policy.Match, p *pod, a netip.Addr) bool {
	for _, s := range m.In {
		if !c.ownIn(s, p, a) {
			return false
		}
	}
	for _, s := range m.NotIn {
		if c.ownIn(s, p, a) {
			return false
		}
	}
	return true
}

func (c *Compiler) ownIn(s policy.AddrSet, p *pod, a netip.Addr) bool {
	f := &c.facts
	if s.Pods != nil && f.selects(*s.Pods, p.Pod) {
		return true
	}
	if s.NetworkSets != nil {
		for name, set := range f.NetworkSets {
			if f.selectsNets(s.NetworkSets, name) && contain(set.Nets, a) {
				return true
			}
		}
	}
	r := c.addresses.all[a]
	if s.Nodes != nil && slices.ContainsFunc(r.nodes, func(n *policy.Node) bool { return matchesNode(s.Nodes, n) }) {
		return true
	}
	if s.Service != nil && slices.ContainsFunc(r.services, func(e serviceEndpoint) bool { return e.name == policy.NamespacedName(*s.Service) }) {
		return true
	}
	return contain(s.Nets, a)
}

func contain(nets []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(nets, func(n netip.Prefix) bool { return n.Contains(a) })
}

func compareNamedPorts(a, b policy.NamedPort) int {
	return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port))
}

func (e serviceEndpoint) compare(o serviceEndpoint) int {
	return cmp.Or(cmp.Compare(e.name.Namespace, o.name.Namespace), cmp.Compare(e.name.Name, o.name.Name),
		cmp.Compare(e.protocol, o.protocol), cmp.Compare(e.port, o.port))
}
