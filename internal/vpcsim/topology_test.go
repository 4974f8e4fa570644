package vpcsim

import (
	"net/netip"
	"reflect"
	"testing"
	"time"

	"terway.dev/terway/internal/catalog"
	"terway.dev/terway/internal/vpcsim/fabric"
	"terway.dev/terway/internal/vpcsim/state"
)

func TestTopology(t *testing.T) {
	pfx, ip := netip.MustParsePrefix, netip.MustParseAddr
	kind, ok := catalog.Lookup("ecs.g7.xlarge")
	if !ok {
		t.Fatal("no ecs.g7.xlarge in the catalog")
	}
	view := &state.View{
		TypeBandwidth: true,
		VSwitches:     []state.VSwitch{{VSwitchId: "vsw-1", VpcId: "vpc-1", CidrBlock: pfx("10.0.0.0/24"), Ipv6CidrBlock: pfx("fd00::/64"), RouteTableId: "vtb-1"}},
		Instances: []state.InstanceView{
			{Type: kind, Instance: state.Instance{InstanceId: "i-aaa", HostName: "node-1", Status: state.InstanceRunning, EnableJumboFrame: true,
				NetworkInterfaces: []state.NetworkInterface{{
					NetworkInterfaceId: "eni-1", Type: state.ENIPrimary, VpcId: "vpc-1", VSwitchId: "vsw-1", MacAddress: "00:16:3e:00:00:01",
					PrivateIpAddresses: []netip.Addr{ip("10.0.0.1"), ip("10.0.0.2")}, Ipv6Addresses: []netip.Addr{ip("fd00::1")},
					Ipv4Prefixes: []netip.Prefix{pfx("10.0.0.16/28")}, SecurityGroupIds: []string{"sg-1"}, SourceDestCheck: true,
				}}}},
			{Type: kind, Instance: state.Instance{InstanceId: "i-bbb", HostName: "iZbbbZ", Status: state.InstanceStopped}},
		},
		RouteTables: []state.RouteTable{{RouteTableId: "vtb-1", VpcId: "vpc-1", RouteEntries: []state.RouteEntry{
			{DestinationCidrBlock: pfx("10.0.0.0/24"), Type: state.RouteEntrySystem, Status: state.StatusAvailable, NextHopType: state.NextHopLocal},
			{DestinationCidrBlock: pfx("100.64.0.0/10"), Type: state.RouteEntrySystem, Status: state.StatusAvailable, NextHopType: state.NextHopService},
			{DestinationCidrBlock: pfx("172.20.0.0/24"), Status: state.StatusAvailable, NextHopType: state.NextHopInstance, NextHopId: "i-aaa"},
			{DestinationCidrBlock: pfx("172.20.1.0/24"), Status: state.StatusAvailable, NextHopType: state.NextHopInstance, NextHopId: "i-bbb"},
			{DestinationCidrBlock: pfx("172.20.2.0/24"), Status: state.StatusPending, NextHopType: state.NextHopInstance, NextHopId: "i-aaa"},
			{DestinationCidrBlock: pfx("172.20.3.0/24"), Status: state.StatusAvailable, NextHops: []state.NextHop{
				{NextHopType: state.NextHopNetworkInterface, NextHopId: "eni-1"}, {NextHopType: state.NextHopNetworkInterface, NextHopId: "eni-gone"}}},
		}}},
		SecurityGroups: []state.SecurityGroup{{SecurityGroupId: "sg-1", SecurityGroupType: state.SecurityGroupNormal, InnerAccessPolicy: state.PolicyAccept,
			Rules: []state.SecurityGroupRule{
				{Direction: state.DirectionIngress, IpProtocol: "TCP", Policy: state.PolicyAccept, Priority: 1, PortRange: "80/443", SourcePortRange: "-1/-1", Peer: pfx("10.0.0.0/8")},
				{Direction: state.DirectionEgress, IpProtocol: "ICMPv6", Policy: state.PolicyDrop, Priority: 7, PortRange: "-1/-1", SourcePortRange: "-1/-1", PeerGroupId: "sg-2"},
			}}},
		Balancers: []state.Balancer{
			{LoadBalancerId: "lb-1", VpcId: "vpc-1", SecurityGroupIds: []string{"sg-1"},
				Addresses: []state.BalancerAddress{{Address: ip("10.0.0.9"), VSwitchId: "vsw-1"}, {Address: ip("198.51.100.1"), Public: true}},
				Listeners: []state.BalancerListener{
					{ListenerId: "lb-1/tcp/80", Protocol: state.ProtocolTCP, Port: 80, Scheduler: state.SchedulerWLC, PreserveClientIP: true,
						Persistence: time.Minute, EstablishedTimeout: 2 * time.Minute, ConnectionDrain: 3 * time.Minute,
						AccessList:  &state.AccessList{Allow: true, CIDRs: []netip.Prefix{pfx("192.0.2.0/24")}},
						HealthCheck: &state.BalancerHealthCheck{},
						Backends: []state.BalancerBackend{
							{Key: "a", Address: ip("10.0.0.1"), Port: 8080, Weight: 1, BackendVerdict: state.BackendVerdict{Health: state.Healthy}},
							{Key: "b", Address: ip("10.0.0.2"), Port: 8080, Weight: 2},
						}},
					{ListenerId: "lb-1/udp/53", Protocol: state.ProtocolUDP, Port: 53, Scheduler: state.SchedulerSCH,
						Backends: []state.BalancerBackend{{Key: "a", Address: ip("10.0.0.1"), Port: 53, Weight: 1}}},
					{ListenerId: "lb-1/http/81", Protocol: state.ProtocolHTTP, Port: 81, Scheduler: state.SchedulerWRR},
					{ListenerId: "lb-1/tcp/82", Protocol: state.ProtocolTCP, Port: 82, Scheduler: state.SchedulerTCH},
				}},
			{LoadBalancerId: "lb-2", Addresses: []state.BalancerAddress{{Address: ip("198.51.100.2"), Public: true}}},
		},
	}
	got, err := Topology(view)
	if err != nil {
		t.Fatal(err)
	}
	limit := fabric.Bandwidth{In: 3072000000, Out: 3072000000}
	want := fabric.Topology{
		VSwitches: []fabric.VSwitch{{ID: "vsw-1", VPC: "vpc-1", CIDR: pfx("10.0.0.0/24"), CIDR6: pfx("fd00::/64"),
			Gateway: ip("10.0.0.253"), Gateway6: view.VSwitches[0].Ipv6Gateway(), RouteTable: "vtb-1"}},
		Instances: []fabric.Instance{
			{ID: "i-aaa", Name: "node-1", Running: true, Limit: limit, Ports: []fabric.Port{{
				ENI: "eni-1", VPC: "vpc-1", VSwitch: "vsw-1", MAC: [6]byte{0, 0x16, 0x3e, 0, 0, 1}, Primary: true,
				Addresses: []netip.Addr{ip("10.0.0.1"), ip("10.0.0.2"), ip("fd00::1")}, Prefixes: []netip.Prefix{pfx("10.0.0.16/28")},
				SourceDestCheck: true, SecurityGroups: []string{"sg-1"}, MTU: 8500}}},
			{ID: "i-bbb", Limit: limit},
		},
		RouteTables: []fabric.RouteTable{{ID: "vtb-1", VPC: "vpc-1", Routes: []fabric.Route{
			{Prefix: pfx("100.64.0.0/10")},
			{Prefix: pfx("172.20.0.0/24"), NextHops: []string{"eni-1"}},
			{Prefix: pfx("172.20.1.0/24")},
			{Prefix: pfx("172.20.3.0/24"), NextHops: []string{"eni-1"}},
		}}},
		SecurityGroups: []fabric.SecurityGroup{{ID: "sg-1", InnerAccept: true, AcceptEgress: true, Rules: []fabric.Rule{
			{Accept: true, Priority: 1, Protocol: 6, Ports: fabric.PortRange{From: 80, To: 443}, Peer: pfx("10.0.0.0/8")},
			{Direction: fabric.Egress, Priority: 7, Protocol: 58, PeerGroup: "sg-2"},
		}}},
		Balancers: []fabric.Balancer{{ID: "lb-1", VPC: "vpc-1", SecurityGroups: []string{"sg-1"},
			Addresses: []fabric.BalancerAddress{{Address: ip("10.0.0.9")}, {Address: ip("198.51.100.1"), Public: true}},
			Listeners: []fabric.Listener{
				{ID: "lb-1/tcp/80", Protocol: 6, Port: 80, Scheduler: fabric.LeastConnections,
					Persistence: time.Minute, Timeout: 2 * time.Minute, Drain: 3 * time.Minute,
					Access: &fabric.AccessList{Allow: true, Ranges: []netip.Prefix{pfx("192.0.2.0/24")}},
					Backends: []fabric.Backend{
						{Address: netip.MustParseAddrPort("10.0.0.1:8080"), Weight: 1, Healthy: true},
						{Address: netip.MustParseAddrPort("10.0.0.2:8080"), Weight: 2},
					}},
				{ID: "lb-1/udp/53", Protocol: 17, Port: 53, Scheduler: fabric.SourceHash,
					Backends: []fabric.Backend{{Address: netip.MustParseAddrPort("10.0.0.1:53"), Weight: 1, Healthy: true}}},
				{ID: "lb-1/http/81", Protocol: 6, Port: 81, Proxy: true},
				{ID: "lb-1/tcp/82", Protocol: 6, Port: 82, Proxy: true, Scheduler: fabric.TupleHash},
			}}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if err := got.Validate(); err != nil {
		t.Errorf("the fabric refuses it: %v", err)
	}
	view.TypeBandwidth = false
	if got, err := Topology(view); err != nil || got.Instances[0].Limit != (fabric.Bandwidth{}) {
		t.Errorf("not held to its type's bandwidth, an instance has the limit %+v, %v", got.Instances[0].Limit, err)
	}
	view.SecurityGroups[0].Rules[0].IpProtocol = "CARRIER-PIGEON"
	if _, err := Topology(view); err == nil {
		t.Error("a protocol without a number is accepted")
	}
}
