package vpcsim

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"terway.dev/terway/internal/vpcsim/fabric"
	"terway.dev/terway/internal/vpcsim/state"
)

// MTUs of the cloud: jumbo frames between instances that have them enabled.
const (
	mtu      = 1500
	mtuJumbo = 8500
)

// NewFabric makes a data plane of the cloud's state out of package fabric's.
func NewFabric(f *fabric.Fabric) Fabric { return &dataPlane{f} }

type dataPlane struct{ fabric *fabric.Fabric }

func (d *dataPlane) Apply(ctx context.Context, view *state.View) error {
	t, err := Topology(view)
	if err != nil {
		return err
	}
	return d.fabric.Apply(ctx, t)
}

func (d *dataPlane) Listen(instanceID, network, addr string) (net.Listener, error) {
	return d.fabric.Listen(instanceID, network, addr)
}

func (d *dataPlane) Close() error { return d.fabric.Close() }

// Topology is what the state's view means for packets.
func Topology(view *state.View) (fabric.Topology, error) {
	var t fabric.Topology
	for i := range view.VSwitches {
		v := &view.VSwitches[i]
		t.VSwitches = append(t.VSwitches, fabric.VSwitch{
			ID: v.VSwitchId, VPC: v.VpcId,
			CIDR: v.CidrBlock, Gateway: v.Gateway(),
			CIDR6: v.Ipv6CidrBlock, Gateway6: v.Ipv6Gateway(),
			RouteTable: v.RouteTableId,
		})
	}
	primary := map[string]string{}
	for i := range view.Instances {
		in, err := fabricInstance(&view.Instances[i])
		if err != nil {
			return fabric.Topology{}, err
		}
		for _, p := range in.Ports {
			if p.Primary {
				primary[in.ID] = p.ENI
			}
		}
		t.Instances = append(t.Instances, in)
	}
	for i := range view.RouteTables {
		t.RouteTables = append(t.RouteTables, fabricRoutes(&view.RouteTables[i], primary))
	}
	for i := range view.SecurityGroups {
		g, err := fabricGroup(&view.SecurityGroups[i])
		if err != nil {
			return fabric.Topology{}, err
		}
		t.SecurityGroups = append(t.SecurityGroups, g)
	}
	return t, nil
}

func fabricInstance(i *state.InstanceView) (fabric.Instance, error) {
	in := fabric.Instance{
		ID: i.InstanceId, Running: i.Powered(),
		Limit: fabric.Bandwidth{In: bits(i.Type.BandwidthBase), Out: bits(i.Type.BandwidthBase)},
	}
	// A host name that the user gave is easier to find among namespaces than an id.
	if !strings.HasPrefix(i.HostName, "iZ") {
		in.Name = i.HostName
	}
	for j := range i.NetworkInterfaces {
		e := &i.NetworkInterfaces[j]
		mac, err := net.ParseMAC(e.MacAddress)
		if err != nil || len(mac) != 6 {
			return in, fmt.Errorf("ENI %s: MAC address %q is not six bytes in hexadecimal", e.NetworkInterfaceId, e.MacAddress)
		}
		p := fabric.Port{
			ENI: e.NetworkInterfaceId, VPC: e.VpcId, VSwitch: e.VSwitchId, MAC: [6]byte(mac),
			Primary: e.Type == state.ENIPrimary, SourceDestCheck: e.SourceDestCheck,
			SecurityGroups: e.SecurityGroupIds, Prefixes: e.Ipv4Prefixes, MTU: mtu,
		}
		if i.EnableJumboFrame {
			p.MTU = mtuJumbo
		}
		p.Addresses = append(append([]netip.Addr{}, e.PrivateIpAddresses...), e.Ipv6Addresses...)
		in.Ports = append(in.Ports, p)
	}
	return in, nil
}

// bits turns the catalog's Gbit/s into bit/s.
func bits(gbit float64) uint64 { return uint64(gbit * 1e9) }

// fabricRoutes keeps the entries that are in force. System entries say what the fabric
// does anyway. A hop that is neither an instance nor an ENI leads nowhere here.
func fabricRoutes(table *state.RouteTable, primary map[string]string) fabric.RouteTable {
	out := fabric.RouteTable{ID: table.RouteTableId, VPC: table.VpcId}
	for i := range table.RouteEntries {
		e := &table.RouteEntries[i]
		if e.Type != state.RouteEntryCustom || e.Status != state.StatusAvailable {
			continue
		}
		r := fabric.Route{Prefix: e.DestinationCidrBlock}
		hops := e.NextHops
		if len(hops) == 0 {
			hops = []state.NextHop{{NextHopType: e.NextHopType, NextHopId: e.NextHopId}}
		}
		for _, h := range hops {
			switch {
			case h.NextHopType == state.NextHopNetworkInterface:
				r.NextHops = append(r.NextHops, h.NextHopId)
			case h.NextHopType == state.NextHopInstance && primary[h.NextHopId] != "":
				r.NextHops = append(r.NextHops, primary[h.NextHopId])
			}
		}
		out.Routes = append(out.Routes, r)
	}
	return out
}

// protocols are the rule protocols' numbers (RFC 5237's registry); 0 is all.
var protocols = map[string]uint8{"ALL": 0, "ICMP": 1, "TCP": 6, "UDP": 17, "GRE": 47, "ICMPV6": 58}

func fabricGroup(g *state.SecurityGroup) (fabric.SecurityGroup, error) {
	out := fabric.SecurityGroup{
		ID:            g.SecurityGroupId,
		InnerAccept:   g.InnerAccessPolicy == state.PolicyAccept,
		AcceptIngress: g.DefaultPolicy(state.DirectionIngress) == state.PolicyAccept,
		AcceptEgress:  g.DefaultPolicy(state.DirectionEgress) == state.PolicyAccept,
	}
	for i := range g.Rules {
		r := &g.Rules[i]
		protocol, ok := protocols[strings.ToUpper(r.IpProtocol)]
		if !ok {
			return out, fmt.Errorf("security group %s, rule %s: the fabric knows no protocol %q", g.SecurityGroupId, r.SecurityGroupRuleId, r.IpProtocol)
		}
		rule := fabric.Rule{
			Direction: fabric.Ingress,
			Accept:    strings.EqualFold(r.Policy, state.PolicyAccept),
			Priority:  r.Priority,
			Protocol:  protocol,
			Peer:      r.Peer,
			PeerGroup: r.PeerGroupId,
			Local:     r.Local,
		}
		if r.Direction == state.DirectionEgress {
			rule.Direction = fabric.Egress
		}
		rule.Ports.From, rule.Ports.To = r.Ports()
		rule.SourcePorts.From, rule.SourcePorts.To = r.SourcePorts()
		out.Rules = append(out.Rules, rule)
	}
	return out, nil
}
