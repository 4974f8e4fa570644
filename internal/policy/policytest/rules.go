package policytest

import (
	"fmt"

	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/selector"
)

// Set returns a Set of one to five tiers.
func (w World) Set() policy.Set {
	var s policy.Set
	for i := range 1 + w.IntN(5) {
		t := policy.Tier{Name: TierNames[i], Default: w.Default()}
		for k := range w.IntN(4) {
			t.Policies = append(t.Policies, w.Policy(fmt.Sprintf("p%d-%d", i, k)))
		}
		s.Tiers = append(s.Tiers, t)
	}
	return s
}

// TierNames are the names of the tiers.
var TierNames = []string{"t0", "t1", "t2", "t3", "t4"}

// Default returns the default action of a tier.
func (w World) Default() policy.Action { return pick(w, policy.Deny, policy.Pass, policy.Pass) }

// Policy returns a policy with this name.
func (w World) Policy(name string) policy.Policy {
	p := policy.Policy{Ref: policy.Ref{Kind: "NetworkPolicy", Namespace: "blue", Name: name}, Subject: w.subject()}
	for d := range p.Rules {
		if p.Directions[d] = !w.oneIn(4); !p.Directions[d] && !w.oneIn(4) {
			continue
		}
		for i := range w.IntN(5) {
			p.Rules[d] = append(p.Rules[d], w.rule(i))
		}
	}
	return p
}

// subject returns a selector that often selects many pods, so that pods have several policies.
func (w World) subject() policy.PodSelector {
	if w.oneIn(2) {
		return policy.PodSelector{}
	}
	return w.pods()
}

func (w World) pods() policy.PodSelector {
	var s policy.PodSelector
	if w.oneIn(4) {
		s.Namespace = pick(w, Namespaces...)
	}
	if w.oneIn(3) {
		s.Namespaces = w.selector()
	}
	if !w.oneIn(3) {
		s.Pods = w.selector()
	}
	if w.oneIn(10) {
		s.ServiceAccountNames = append([]string{}, some(w, 2, func() string { return pick(w, accounts...) })...)
	}
	if w.oneIn(10) {
		s.ServiceAccounts = w.selector()
	}
	return s
}

func (w World) rule(i int) policy.Rule {
	r := policy.Rule{Number: i}
	switch n := w.IntN(20); {
	case n < 6:
		r.Action = policy.Allow
	case n < 12:
		r.Action = policy.Deny
	case n < 17:
		r.Action = policy.Pass
	default:
		r.Action = policy.Log
	}
	if w.oneIn(8) {
		r.Family = pick[uint8](w, 4, 6)
	}
	if w.oneIn(8) {
		r.Self = w.match()
	}
	if !w.oneIn(3) {
		r.Peers = []policy.Match{}
		for range w.IntN(3) + w.IntN(2) {
			r.Peers = append(r.Peers, w.match())
		}
	}
	if w.oneIn(2) {
		r.Traffic = []policy.Traffic{}
		for range w.IntN(3) + w.IntN(2) {
			r.Traffic = append(r.Traffic, w.traffic())
		}
	}
	return r
}

func (w World) match() policy.Match {
	var m policy.Match
	for range w.IntN(3) {
		m.In = append(m.In, w.addrSet())
	}
	if w.oneIn(3) {
		m.NotIn = append(m.NotIn, w.addrSet())
	}
	return m
}

func (w World) addrSet() policy.AddrSet {
	var s policy.AddrSet
	for range 1 + w.IntN(2) {
		switch w.IntN(10) {
		case 0, 1, 2, 3:
			p := w.pods()
			if w.oneIn(4) {
				p = policy.PodSelector{}
			}
			s.Pods = &p
		case 4, 5, 6:
			s.Nets = append(s.Nets, w.Nets()...)
		case 7:
			s.Nodes = w.selector()
			if s.Nodes == nil {
				s.Nodes = selector.All()
			}
		case 8:
			s.NetworkSets = &policy.NetworkSetSelector{Global: w.oneIn(2), Namespaced: !w.oneIn(3), Namespaces: w.selector(), Sets: w.selector()}
			if w.oneIn(3) {
				s.NetworkSets.Namespace = pick(w, Namespaces...)
			}
		case 9:
			n := policy.ServiceRef(w.ServiceName())
			s.Service = &n
		}
	}
	return s
}

func (w World) traffic() policy.Traffic {
	var t policy.Traffic
	if !w.oneIn(3) {
		t.Protocols = new([256]bool)
		for range 1 + w.IntN(3) {
			t.Protocols[pick(w, protocols...)] = true
		}
		if w.oneIn(5) {
			for i := range t.Protocols {
				t.Protocols[i] = !t.Protocols[i]
			}
		}
	}
	switch w.IntN(8) {
	case 0, 1, 2:
		t.DestinationPorts = w.ports()
		if w.oneIn(4) {
			t.NotDestinationPorts = w.ports()
		}
	case 3:
		t.NotDestinationPorts = w.ports()
	case 4:
		t.SourcePorts = w.ports()
		if w.oneIn(2) {
			t.DestinationPorts = w.ports()
		}
		if w.oneIn(3) {
			t.NotSourcePorts = w.ports()
		}
	case 5:
		t.ICMP = w.icmp()
		if w.oneIn(2) {
			t.NotICMP = w.icmp()
		}
	case 6:
		t.NotICMP = w.icmp()
	}
	if w.oneIn(12) {
		n := policy.ServiceRef(w.ServiceName())
		t.DestinationService = &n
	}
	return t
}

func (w World) icmp() *policy.ICMP {
	return &policy.ICMP{Type: pick[uint8](w, 0, 8, 255), Code: int16(w.IntN(4) - 1)}
}

func (w World) ports() []policy.Port {
	return append([]policy.Port{}, some(w, 3, func() policy.Port {
		if w.oneIn(4) {
			return policy.Port{Name: pick(w, portNames...)}
		}
		// The range may be empty, with the end before the start.
		from := pick(w, ports...)
		return policy.Port{From: from, To: pick(w, from, pick(w, ports...), 65535)}
	})...)
}

// Connection returns a connection of a pod that policies can select; false if there is none.
func (w World) Connection(c policy.Cluster) (policy.Connection, bool) {
	var can []*policy.Pod
	for _, n := range PodNames() {
		if p := c.Pods[n]; p != nil && !p.Ended && !p.HostNetwork && len(p.Addresses) > 0 {
			can = append(can, p)
		}
	}
	if len(can) == 0 {
		return policy.Connection{}, false
	}
	p := pick(w, can...)
	conn := policy.Connection{Pod: p.NamespacedName, Direction: pick(w, policy.Ingress, policy.Egress), Own: pick(w, p.Addresses...), Protocol: pick(w, protocols...)}
	for try := 0; ; try++ {
		conn.Peer = w.Address()
		if conn.Peer.Is4() == conn.Own.Is4() {
			break
		}
		if try > 20 { // an exhausted Source always returns the same
			conn.Peer = conn.Own
			break
		}
	}
	conn.SourcePort, conn.DestinationPort = w.port(), w.port()
	conn.ICMPType, conn.ICMPCode = pick[uint8](w, 0, 8, 9, 255), pick[uint8](w, 0, 1, 2, 255)
	return conn, true
}

// port returns a port near one that rules use.
func (w World) port() uint16 { return pick(w, ports...) + uint16(w.IntN(3)) - 1 }
