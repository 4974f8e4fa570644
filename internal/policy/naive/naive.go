// Package naive judges a connection by evaluating the model directly: tier by tier, policy by
// policy, rule by rule, with the cluster's objects.
//
// It exists only to test the tables of package compile: a decision costs as much as there are
// rules and objects. So it shares no code with compile, and neither package may import the
// other. If the two differ, compile is wrong.
package naive

import (
	"net/netip"
	"slices"

	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/selector"
)

// Decide judges a connection at a pod that policies can select. It also returns the number of
// tiers that select the pod and passed the connection on.
func Decide(set policy.Set, cluster policy.Cluster, c policy.Connection) (d policy.Decision, passed int) {
	j := judge{cluster, c, cluster.Pods[c.Pod]}
	var logs []policy.RuleID
tiers:
	for _, tier := range set.Tiers {
		selected := false
		for _, p := range tier.Policies {
			if !p.Directions[c.Direction] || !j.selects(p.Subject, j.own) {
				continue
			}
			selected = true
			for _, r := range p.Rules[c.Direction] {
				if !j.matches(r) {
					continue
				}
				id := policy.RuleID{Policy: p.Ref, Direction: c.Direction, Number: r.Number}
				switch r.Action {
				case policy.Allow, policy.Deny:
					return policy.Decision{Action: r.Action, Reason: policy.ByRule, Tier: tier.Name, Rule: id, Logs: logs}, passed
				case policy.Pass:
					passed++
					continue tiers
				case policy.Log:
					logs = append(logs, id)
				}
			}
		}
		if !selected {
			continue
		}
		if tier.Default == policy.Deny {
			return policy.Decision{Action: policy.Deny, Reason: policy.ByTier, Tier: tier.Name, Logs: logs}, passed
		}
		passed++
	}
	return policy.Decision{Action: policy.Allow, Logs: logs}, passed
}

type judge struct {
	cluster policy.Cluster
	c       policy.Connection
	own     *policy.Pod
}

func (j judge) matches(r policy.Rule) bool {
	if r.Family == 4 && !j.c.Peer.Is4() || r.Family == 6 && !j.c.Peer.Is6() {
		return false
	}
	if !j.holds(r.Self, j.c.Own) {
		return false
	}
	if r.Peers != nil && !slices.ContainsFunc(r.Peers, func(m policy.Match) bool { return j.holds(m, j.c.Peer) }) {
		return false
	}
	return r.Traffic == nil || slices.ContainsFunc(r.Traffic, j.carries)
}

func (j judge) holds(m policy.Match, a netip.Addr) bool {
	for _, s := range m.In {
		if !j.contains(s, a) {
			return false
		}
	}
	return !slices.ContainsFunc(m.NotIn, func(s policy.AddrSet) bool { return j.contains(s, a) })
}

func (j judge) contains(s policy.AddrSet, a netip.Addr) bool {
	inside := func(n netip.Prefix) bool { return n.Contains(a) }
	if slices.ContainsFunc(s.Nets, inside) {
		return true
	}
	if s.Pods != nil {
		for _, p := range j.at(a) {
			if j.selects(*s.Pods, p) {
				return true
			}
		}
	}
	if s.Nodes != nil {
		for _, n := range j.cluster.Nodes {
			if s.Nodes.Matches(selector.Map(n.Labels)) && slices.Contains(n.Addresses, a) {
				return true
			}
		}
	}
	if s.NetworkSets != nil {
		for name, n := range j.cluster.NetworkSets {
			if j.selectsNets(*s.NetworkSets, name) && slices.ContainsFunc(n.Nets, inside) {
				return true
			}
		}
	}
	if s.Service != nil {
		for _, e := range j.cluster.Services[policy.NamespacedName(*s.Service)] {
			if e.Address == a {
				return true
			}
		}
	}
	return false
}

// at returns the pods with the address that policies can select.
func (j judge) at(a netip.Addr) (pods []*policy.Pod) {
	for _, p := range j.cluster.Pods {
		if !p.HostNetwork && !p.Ended && slices.Contains(p.Addresses, a) {
			pods = append(pods, p)
		}
	}
	return pods
}

func (j judge) selects(s policy.PodSelector, p *policy.Pod) bool {
	account := policy.NamespacedName{Namespace: p.Namespace, Name: p.ServiceAccount}
	c := &j.cluster
	return !p.HostNetwork && !p.Ended &&
		(s.Namespace == "" || s.Namespace == p.Namespace) &&
		s.Namespaces.Matches(c.NamespaceLabels(p.Namespace)) &&
		s.Pods.Matches(c.PodLabels(p)) &&
		(s.ServiceAccountNames == nil || slices.Contains(s.ServiceAccountNames, p.ServiceAccount)) &&
		s.ServiceAccounts.Matches(c.ServiceAccountLabels(account))
}

func (j judge) selectsNets(s policy.NetworkSetSelector, name policy.NamespacedName) bool {
	if !s.Sets.Matches(j.cluster.NetworkSetLabels(name)) {
		return false
	}
	if name.Namespace == "" {
		return s.Global && s.Namespace == ""
	}
	return s.Namespaced && (s.Namespace == "" || s.Namespace == name.Namespace) &&
		s.Namespaces.Matches(j.cluster.NamespaceLabels(name.Namespace))
}

// carries reports whether the protocol and its ports or ICMP type match.
func (j judge) carries(t policy.Traffic) bool {
	c := j.c
	if t.Protocols != nil && !t.Protocols[c.Protocol] {
		return false
	}
	icmp := func(i policy.ICMP) bool {
		return (c.Protocol == policy.ICMPProtocol || c.Protocol == policy.ICMPv6Protocol) &&
			c.ICMPType == i.Type && (i.Code == -1 || i.Code == int16(c.ICMPCode))
	}
	if t.ICMP != nil && !icmp(*t.ICMP) || t.NotICMP != nil && icmp(*t.NotICMP) {
		return false
	}
	asksPorts := t.SourcePorts != nil || t.DestinationPorts != nil || len(t.NotSourcePorts) > 0 || len(t.NotDestinationPorts) > 0
	if asksPorts && !hasPorts(c.Protocol) {
		return false
	}
	source, destination := c.Peer, c.Own
	if c.Direction == policy.Egress {
		source, destination = c.Own, c.Peer
	}
	among := func(ports []policy.Port, a netip.Addr, number uint16) bool {
		return slices.ContainsFunc(ports, func(p policy.Port) bool {
			if p.Name == "" {
				return p.From <= number && number <= p.To
			}
			return slices.ContainsFunc(j.at(a), func(pod *policy.Pod) bool {
				return slices.Contains(pod.Ports, policy.NamedPort{Name: p.Name, Protocol: c.Protocol, Port: number})
			})
		})
	}
	if t.SourcePorts != nil && !among(t.SourcePorts, source, c.SourcePort) || among(t.NotSourcePorts, source, c.SourcePort) ||
		t.DestinationPorts != nil && !among(t.DestinationPorts, destination, c.DestinationPort) || among(t.NotDestinationPorts, destination, c.DestinationPort) {
		return false
	}
	return t.DestinationService == nil || hasPorts(c.Protocol) && slices.Contains(j.cluster.Services[policy.NamespacedName(*t.DestinationService)],
		policy.Endpoint{Address: destination, Protocol: c.Protocol, Port: c.DestinationPort})
}

func hasPorts(protocol uint8) bool {
	return protocol == policy.TCPProtocol || protocol == policy.UDPProtocol || protocol == policy.SCTPProtocol
}
