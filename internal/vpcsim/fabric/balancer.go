package fabric

import (
	"fmt"
	"net/netip"
	"time"
)

// Balancer is a load balancer: its addresses belong to no ENI. The program sends what comes to a
// listener on to a backend, and changes only the packet's destination: the backend sees the
// client's address. Replies get the balancer's address as their source.
//
// What no listener takes goes to the balancer's namespace, whose kernel refuses it: a packet to
// another port, a TCP segment of no known connection, a connection when no backend is left.
type Balancer struct {
	ID  string
	VPC string
	// Addresses are IPv4.
	Addresses []BalancerAddress
	// SecurityGroups judge new connections to the addresses, like an ENI's; without one, all
	// pass.
	SecurityGroups []string
	Listeners      []Listener
}

// BalancerAddress is an address of a balancer. It is reached inside the VPC; a public one from
// the outside namespace too.
type BalancerAddress struct {
	Address netip.Addr
	Public  bool
}

// Listener is a port of a balancer.
type Listener struct {
	// ID is unique among all listeners.
	ID string
	// Protocol is TCP (6) or UDP (17).
	Protocol uint8
	Port     uint16
	// Proxy: a process in the balancer's namespace listens on the port; the program only checks
	// who may connect.
	Proxy     bool
	Scheduler Scheduler
	// Persistence sends new connections of a client to the backend of its last one, if that was
	// not longer ago and the backend takes new ones; 0: no.
	Persistence time.Duration
	// Timeout ends a connection after its last packet from the client; 0: 900 s for TCP, 90 s
	// for UDP. A change applies to new connections.
	Timeout time.Duration
	// Drain ends the TCP connections to a backend that long after it was removed or became
	// unhealthy; 0: they continue.
	Drain time.Duration
	// Access restricts the clients; nil: all.
	Access   *AccessList
	Backends []Backend
}

// Scheduler selects the backend of a new connection.
type Scheduler uint8

const (
	// WeightedRoundRobin takes backends in turns, by weight.
	WeightedRoundRobin Scheduler = iota
	// RoundRobin takes backends in turns; a weight only says whether there are any turns.
	RoundRobin
	// LeastConnections takes the backend with the fewest open connections for its weight.
	LeastConnections
	// SourceHash takes the same backend for all connections of a client's address.
	SourceHash
	// TupleHash takes a backend by the hash of both addresses and ports.
	TupleHash
)

// AccessList restricts a listener's clients: only these ranges (Allow), or all but these.
type AccessList struct {
	Allow  bool
	Ranges []netip.Prefix
}

// Backend is an address and port behind a listener. With weight 0, or not healthy, it gets no
// new connection.
type Backend struct {
	Address netip.AddrPort
	Weight  int
	Healthy bool
}

func (b *Backend) takes() bool { return b.Healthy && b.Weight > 0 }

const (
	tcpTimeout = 900 * time.Second
	udpTimeout = 90 * time.Second
	// maxBackends limits a listener's backends; NLB has up to 400 servers.
	maxBackends = 1024
)

const (
	protocolTCP = 6
	protocolUDP = 17
)

// validateBalancers reports contradictions of the balancers; holders has the ENIs' addresses.
func (t *Topology) validateBalancers(holders map[string]string, bad func(string, ...any)) {
	ids, listeners := map[string]bool{}, map[string]string{}
	for i := range t.Balancers {
		b := &t.Balancers[i]
		if b.ID == "" || ids[b.ID] {
			bad("balancer %q is listed twice or has no id", b.ID)
		}
		ids[b.ID] = true
		if !nameForm.MatchString(b.VPC) {
			bad("balancer %s: the VPC %q cannot name a namespace; letters, digits, '.', '_' and '-' can", b.ID, b.VPC)
		}
		if len(b.SecurityGroups) > maxGroups {
			bad("balancer %s is in %d security groups, the fabric knows %d at most", b.ID, len(b.SecurityGroups), maxGroups)
		}
		for _, a := range b.Addresses {
			if !a.Address.Is4() {
				bad("balancer %s: address %v must be IPv4", b.ID, a.Address)
			}
			scopes := []string{b.VPC}
			if a.Public {
				scopes = append(scopes, OutsideID)
			}
			for _, scope := range scopes {
				key := scope + " " + a.Address.String()
				if other, ok := holders[key]; ok {
					bad("address %s of VPC %s is on %s and balancer %s", a.Address, scope, other, b.ID)
				}
				holders[key] = "balancer " + b.ID
			}
		}
		ports := map[string]string{}
		for j := range b.Listeners {
			l := &b.Listeners[j]
			if other, ok := listeners[l.ID]; ok || l.ID == "" {
				bad("listener %q of balancer %s has no id of its own: %s has it", l.ID, b.ID, other)
			}
			listeners[l.ID] = "balancer " + b.ID
			if l.Protocol != protocolTCP && l.Protocol != protocolUDP {
				bad("listener %s: protocol %d must be 6 (TCP) or 17 (UDP)", l.ID, l.Protocol)
			}
			if l.Port == 0 {
				bad("listener %s: port 0 must be between 1 and 65535", l.ID)
			}
			key := fmt.Sprintf("%d/%d", l.Protocol, l.Port)
			if other, ok := ports[key]; ok {
				bad("listeners %s and %s of balancer %s have the same port", other, l.ID, b.ID)
			}
			ports[key] = l.ID
			if l.Scheduler > TupleHash {
				bad("listener %s: scheduler %d is none of the five", l.ID, l.Scheduler)
			}
			for _, d := range []time.Duration{l.Persistence, l.Timeout, l.Drain} {
				if d < 0 || d > time.Hour {
					bad("listener %s: a time of %v must be between 0 and 1 h", l.ID, d)
				}
			}
			if len(l.Backends) > maxBackends {
				bad("listener %s has %d backends, the fabric knows %d at most", l.ID, len(l.Backends), maxBackends)
			}
			for _, s := range l.Backends {
				if !s.Address.Addr().Is4() || s.Address.Port() == 0 {
					bad("listener %s: backend %v must be an IPv4 address and a port", l.ID, s.Address)
				}
				if s.Weight < 0 || s.Weight > maxWeight {
					bad("listener %s: backend %v has the weight %d, must be between 0 and %d", l.ID, s.Address, s.Weight, maxWeight)
				}
			}
			if l.Access != nil {
				for _, r := range l.Access.Ranges {
					if !r.IsValid() {
						bad("listener %s: a range of its access list is not valid", l.ID)
					}
				}
			}
		}
	}
}
