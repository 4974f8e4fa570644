package vpcsim

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"terway.dev/terway/internal/vpcsim/balance"
	"terway.dev/terway/internal/vpcsim/fabric"
	"terway.dev/terway/internal/vpcsim/state"
)

// Dataplane adapts package fabric to a Fabric: it converts views of the state to topologies.
type Dataplane struct{ *fabric.Fabric }

// Connect registers the report of lost ports.
func (d Dataplane) Connect(f Feedback) { d.Fabric.Notify(f.Lost) }

// Apply makes the data plane match the view.
func (d Dataplane) Apply(ctx context.Context, view *state.View) error {
	t, err := Topology(view)
	if err != nil {
		return err
	}
	return d.Fabric.Apply(ctx, t)
}

// MTUs of an instance without and with jumbo frames.
const (
	mtu      = 1500
	jumboMTU = 8500
)

// Topology returns the topology for a view.
func Topology(view *state.View) (fabric.Topology, error) {
	var t fabric.Topology
	for i := range view.VSwitches {
		v := &view.VSwitches[i]
		t.VSwitches = append(t.VSwitches, fabric.VSwitch{
			ID: v.VSwitchId, VPC: v.VpcId, CIDR: v.CidrBlock, CIDR6: v.Ipv6CidrBlock,
			Gateway: v.Gateway(), Gateway6: v.Ipv6Gateway(), RouteTable: v.RouteTableId,
		})
	}
	primary, attached := map[string]string{}, map[string]bool{}
	for i := range view.Instances {
		in, err := instanceOf(&view.Instances[i])
		if err != nil {
			return t, err
		}
		if view.TypeBandwidth {
			// kbit/s of the catalog are thousands.
			limit := uint64(view.Instances[i].Type.BandwidthKbit()) * 1000
			in.Limit = fabric.Bandwidth{In: limit, Out: limit}
		}
		t.Instances = append(t.Instances, in)
		for _, p := range in.Ports {
			attached[p.ENI] = true
			if p.Primary {
				primary[in.ID] = p.ENI
			}
		}
	}
	for i := range view.RouteTables {
		t.RouteTables = append(t.RouteTables, tableOf(&view.RouteTables[i], primary, attached))
	}
	for i := range view.SecurityGroups {
		g, err := groupOf(&view.SecurityGroups[i])
		if err != nil {
			return t, err
		}
		t.SecurityGroups = append(t.SecurityGroups, g)
	}
	for i := range view.Balancers {
		// Without a VPC there are no backends, and no namespace that could refuse connections.
		if b := &view.Balancers[i]; b.VpcId != "" {
			t.Balancers = append(t.Balancers, balancerOf(b))
		}
	}
	return t, nil
}

func balancerOf(b *state.Balancer) fabric.Balancer {
	out := fabric.Balancer{ID: b.LoadBalancerId, VPC: b.VpcId, SecurityGroups: b.SecurityGroupIds}
	for _, a := range b.Addresses {
		out.Addresses = append(out.Addresses, fabric.BalancerAddress{Address: a.Address, Public: a.Public})
	}
	for i := range b.Listeners {
		l := &b.Listeners[i]
		protocol, _ := protocols("TCP")
		if l.Protocol == state.ProtocolUDP {
			protocol, _ = protocols("UDP")
		}
		listener := fabric.Listener{
			ID: l.ListenerId, Protocol: protocol, Port: l.Port, Proxy: isProxy(l), Scheduler: balance.SchedulerOf(l.Scheduler),
			Persistence: l.Persistence, Timeout: l.EstablishedTimeout, Drain: l.ConnectionDrain,
		}
		if l.AccessList != nil {
			listener.Access = &fabric.AccessList{Allow: l.AccessList.Allow, Ranges: l.AccessList.CIDRs}
		}
		for _, s := range l.Backends {
			listener.Backends = append(listener.Backends, fabric.Backend{
				Address: netip.AddrPortFrom(s.Address, s.Port), Weight: s.Weight,
				Healthy: l.HealthCheck == nil || s.Health == state.Healthy,
			})
		}
		out.Listeners = append(out.Listeners, listener)
	}
	return out
}

// isProxy reports whether the load balancer ends the clients' connections itself. UDP is always
// forwarded, with the client's address.
func isProxy(l *state.BalancerListener) bool {
	return l.Protocol == state.ProtocolHTTP || l.Protocol == state.ProtocolTCP && !l.PreserveClientIP
}

func instanceOf(i *state.InstanceView) (fabric.Instance, error) {
	in := fabric.Instance{ID: i.InstanceId, Running: i.Powered()}
	// A generated host name says less than the id.
	if i.HostName != "iZ"+strings.TrimPrefix(i.InstanceId, "i-")+"Z" {
		in.Name = i.HostName
	}
	size := mtu
	if i.EnableJumboFrame && i.Type.JumboFrames() {
		size = jumboMTU
	}
	for _, n := range i.NetworkInterfaces {
		mac, err := net.ParseMAC(n.MacAddress)
		if err != nil || len(mac) != 6 {
			return in, fmt.Errorf("ENI %s has the MAC address %q, want six octets", n.NetworkInterfaceId, n.MacAddress)
		}
		p := fabric.Port{
			ENI: n.NetworkInterfaceId, VPC: n.VpcId, VSwitch: n.VSwitchId, MAC: [6]byte(mac),
			Primary: n.Type == state.ENIPrimary, Prefixes: n.Ipv4Prefixes, SourceDestCheck: n.SourceDestCheck,
			SecurityGroups: n.SecurityGroupIds, MTU: size,
		}
		p.Addresses = append(append(p.Addresses, n.PrivateIpAddresses...), n.Ipv6Addresses...)
		in.Ports = append(in.Ports, p)
	}
	return in, nil
}

// tableOf returns the entries that need a route. The ranges of vSwitches ("local") need none:
// their addresses are known individually. Packets for entries that lead out of the simulated
// VPC, or to a missing instance or ENI, are dropped, and do not use a less specific entry.
func tableOf(rt *state.RouteTable, primary map[string]string, attached map[string]bool) fabric.RouteTable {
	t := fabric.RouteTable{ID: rt.RouteTableId, VPC: rt.VpcId}
	for _, e := range rt.RouteEntries {
		if e.Status != state.StatusAvailable || e.NextHopType == state.NextHopLocal {
			continue
		}
		hops := e.NextHops
		if len(hops) == 0 {
			hops = []state.NextHop{{NextHopType: e.NextHopType, NextHopId: e.NextHopId}}
		}
		r := fabric.Route{Prefix: e.DestinationCidrBlock}
		for _, h := range hops {
			id := ""
			switch h.NextHopType {
			case state.NextHopInstance:
				id = primary[h.NextHopId]
			case state.NextHopNetworkInterface:
				id = h.NextHopId
			}
			if attached[id] {
				r.NextHops = append(r.NextHops, id)
			}
		}
		t.Routes = append(t.Routes, r)
	}
	return t
}

func groupOf(g *state.SecurityGroup) (fabric.SecurityGroup, error) {
	out := fabric.SecurityGroup{
		ID:            g.SecurityGroupId,
		InnerAccept:   g.InnerAccessPolicy == state.PolicyAccept,
		AcceptIngress: g.DefaultPolicy(state.DirectionIngress) == state.PolicyAccept,
		AcceptEgress:  g.DefaultPolicy(state.DirectionEgress) == state.PolicyAccept,
	}
	for i := range g.Rules {
		r := &g.Rules[i]
		protocol, ok := protocols(r.IpProtocol)
		if !ok {
			return out, fmt.Errorf("rule %s of security group %s has the protocol %q, want TCP, UDP, ICMP, ICMPv6, GRE or ALL", r.SecurityGroupRuleId, g.SecurityGroupId, r.IpProtocol)
		}
		rule := fabric.Rule{
			Accept: r.Policy == state.PolicyAccept, Priority: r.Priority, Protocol: protocol,
			Ports: ports(r.Ports()), SourcePorts: ports(r.SourcePorts()),
			Peer: r.Peer, PeerGroup: r.PeerGroupId, Local: r.Local,
		}
		if r.Direction == state.DirectionEgress {
			rule.Direction = fabric.Egress
		}
		out.Rules = append(out.Rules, rule)
	}
	return out, nil
}

// ports converts a range; all ports give the zero value, which protocols without ports have
// too.
func ports(from, to uint16) fabric.PortRange {
	if from == 0 && to == 65535 {
		return fabric.PortRange{}
	}
	return fabric.PortRange{From: from, To: to}
}

// protocols returns the IP protocol numbers of security group rules; 0 is all.
func protocols(name string) (uint8, bool) {
	switch strings.ToUpper(name) {
	case "ALL":
		return 0, true
	case "ICMP":
		return 1, true
	case "TCP":
		return 6, true
	case "UDP":
		return 17, true
	case "GRE":
		return 47, true
	case "ICMPV6":
		return 58, true
	}
	return 0, false
}
