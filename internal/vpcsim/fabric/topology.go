package fabric

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
)

// Topology is the desired state of the data plane. Apply implements it.
type Topology struct {
	Instances      []Instance
	VSwitches      []VSwitch
	RouteTables    []RouteTable
	SecurityGroups []SecurityGroup
	Balancers      []Balancer
}

// Instance is a guest: a network namespace.
type Instance struct {
	ID string
	// Name is used for the name of the namespace when it is made, if it is valid and free;
	// otherwise the ID is used.
	Name string
	// Running: if false, the devices stay without carrier.
	Running bool
	// Limit is the instance's bandwidth.
	Limit Bandwidth
	// Ports are the attached ENIs, in the order in which devices are made.
	Ports []Port
}

// Bandwidth is in bits per second; 0 is no limit.
type Bandwidth struct {
	In  uint64
	Out uint64
}

// Port is an attached ENI.
type Port struct {
	ENI     string
	VPC     string
	VSwitch string
	MAC     [6]byte
	// Primary: the device is configured when it is made (address, default route, up).
	Primary bool
	// Addresses are all IPv4 and IPv6 addresses, the primary one first.
	Addresses       []netip.Addr
	Prefixes        []netip.Prefix
	SourceDestCheck bool
	SecurityGroups  []string
	MTU             int

	// balancer: the port is of a balancers' namespace.
	balancer bool
}

// VSwitch is a subnet. Packets to addresses in it that no ENI has are dropped.
type VSwitch struct {
	ID         string
	VPC        string
	CIDR       netip.Prefix
	CIDR6      netip.Prefix // zero without IPv6
	Gateway    netip.Addr
	Gateway6   netip.Addr // zero: the fabric's link-local address
	RouteTable string
}

// RouteTable is a VPC's route table.
type RouteTable struct {
	ID     string
	VPC    string
	Routes []Route
}

// Route routes a range to ENIs; packets of a flow always use the same one. Without next hops,
// packets are dropped.
type Route struct {
	Prefix   netip.Prefix
	NextHops []string // ENI ids
}

// SecurityGroup is a group with its rules and defaults.
type SecurityGroup struct {
	ID string
	// InnerAccept lets members reach each other if no rule decides otherwise.
	InnerAccept bool
	// AcceptIngress and AcceptEgress are the defaults if nothing else decides.
	AcceptIngress bool
	AcceptEgress  bool
	Rules         []Rule
}

// Direction is a rule's direction, seen from the ENI.
type Direction uint8

const (
	Ingress Direction = iota
	Egress
)

// PortRange is inclusive; the zero value means all ports.
type PortRange struct {
	From, To uint16
}

// Rule is a security group's rule.
type Rule struct {
	Direction Direction
	Accept    bool
	Priority  int
	// Protocol is an IP protocol number; 0 means all.
	Protocol uint8
	// Ports is the range of destination ports, SourcePorts of source ports.
	Ports       PortRange
	SourcePorts PortRange
	// Peer is the range of the far end; zero: any.
	Peer netip.Prefix
	// PeerGroup: the far end's ENI must be in this group.
	PeerGroup string
	// Local is the range of the near end; zero: any.
	Local netip.Prefix
}

const (
	maxGroups = 16   // MAX_GROUPS of bpf/vpcsim_fabric.h
	maxHops   = 16   // MAX_HOPS
	maxRules  = 4096 // MAX_RULES
)

var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`)

// Validate reports every contradiction: Apply supports every topology that it accepts.
func (t *Topology) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	vswitches := map[string]*VSwitch{}
	for i := range t.VSwitches {
		vs := &t.VSwitches[i]
		if vswitches[vs.ID] != nil {
			bad("vSwitch %s is listed twice", vs.ID)
		}
		vswitches[vs.ID] = vs
		if !vs.CIDR.IsValid() || !vs.CIDR.Addr().Is4() {
			bad("vSwitch %s: CIDR %v must be an IPv4 range", vs.ID, vs.CIDR)
		}
		if vs.VPC == OutsideID {
			bad("vSwitch %s: the VPC %q is what the outside namespace is called", vs.ID, vs.VPC)
		}
		if vs.CIDR6.IsValid() && !vs.CIDR6.Addr().Is6() {
			bad("vSwitch %s: CIDR6 %v must be an IPv6 range", vs.ID, vs.CIDR6)
		}
	}
	ids := map[string]bool{}
	enis := map[string]string{}
	holders := map[string]string{}
	for i := range t.Instances {
		in := &t.Instances[i]
		if !nameForm.MatchString(in.ID) {
			bad("instance %q: the id cannot name a namespace; letters, digits, '.', '_' and '-' can", in.ID)
		}
		if ids[in.ID] || isReserved(in.ID) {
			bad("instance %s is listed twice, or is called as a namespace of the fabric's own is", in.ID)
		}
		ids[in.ID] = true
		primaries := 0
		for j := range in.Ports {
			p := &in.Ports[j]
			if other, ok := enis[p.ENI]; ok {
				bad("ENI %s is attached to %s and %s", p.ENI, other, in.ID)
			}
			enis[p.ENI] = in.ID
			if p.Primary {
				primaries++
			}
			vs := vswitches[p.VSwitch]
			switch {
			case vs == nil:
				bad("ENI %s: its vSwitch %q is not listed", p.ENI, p.VSwitch)
			case vs.VPC != p.VPC:
				bad("ENI %s is in VPC %s and its vSwitch %s in %s", p.ENI, p.VPC, vs.ID, vs.VPC)
			}
			if p.MAC[0]&1 != 0 || p.MAC == ([6]byte{}) {
				bad("ENI %s: MAC %x must be a unicast address", p.ENI, p.MAC)
			}
			if p.MTU < 68 || p.MTU > 65535 {
				bad("ENI %s: MTU %d must be between 68 and 65535", p.ENI, p.MTU)
			}
			if len(p.SecurityGroups) > maxGroups {
				bad("ENI %s is in %d security groups, the fabric knows %d at most", p.ENI, len(p.SecurityGroups), maxGroups)
			}
			for _, a := range p.Addresses {
				key := p.VPC + " " + a.String()
				if other, ok := holders[key]; ok {
					bad("address %s of VPC %s is on ENI %s and %s", a, p.VPC, other, p.ENI)
				}
				holders[key] = p.ENI
			}
		}
		if primaries > 1 {
			bad("instance %s has %d primary ENIs", in.ID, primaries)
		}
	}
	for i := range t.RouteTables {
		for _, r := range t.RouteTables[i].Routes {
			if !r.Prefix.IsValid() {
				bad("route table %s: a route has no destination", t.RouteTables[i].ID)
			}
			if len(r.NextHops) > maxHops {
				bad("route table %s: %v has %d next hops, the fabric knows %d at most", t.RouteTables[i].ID, r.Prefix, len(r.NextHops), maxHops)
			}
		}
	}
	t.validateBalancers(holders, bad)
	return errors.Join(errs...)
}
