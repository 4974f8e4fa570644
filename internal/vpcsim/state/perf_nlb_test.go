package state_test

import (
	"fmt"
	"testing"
	"time"

	"terway.dev/terway/internal/vpcsim/state"
)

// The cost of a change of one server, with 50 load balancers of two listeners and four servers,
// and with as many as an account may have. Nothing is asserted; compare the results.
func BenchmarkNLB(b *testing.B) {
	for _, x := range []struct{ balancers, listeners int }{{50, 2}, {60, 50}} {
		s, enis := big(b, 10)
		now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
		settle := func() {
			for due, ok := s.NextDue(); ok; due, ok = s.NextDue() {
				now = due
				s.Tick(now)
			}
		}
		vpc := must(s.DescribeVpcs(state.DescribeVpcsRequest{}))[0].VpcId
		old := must(s.DescribeVSwitches(state.DescribeVSwitchesRequest{}))[0].VSwitchId
		other := must(s.CreateVSwitch(state.CreateVSwitchRequest{VpcId: vpc, ZoneId: "cn-hangzhou-h", CidrBlock: "10.200.0.0/16"}))
		settle()
		var group string
		for i := range x.balancers {
			id := must(s.NLBCreateLoadBalancer(state.NLBCreateLoadBalancerRequest{VpcId: vpc, AddressType: state.NLBIntranet, ZoneMappings: []state.NLBZoneMappingRequest{
				{ZoneId: "cn-hangzhou-i", VSwitchId: old}, {ZoneId: "cn-hangzhou-h", VSwitchId: other},
			}}))
			req := state.NLBCreateServerGroupRequest{VpcId: vpc}
			req.ServerGroupName = ptr(fmt.Sprintf("group-%d", i))
			group = must(s.NLBCreateServerGroup(req)).Id
			settle()
			servers := state.NLBServersRequest{ServerGroupId: group}
			for n := range 4 {
				servers.Servers = append(servers.Servers, state.NLBServerRequest{ServerId: enis[n], ServerType: "Eni", Port: 80})
			}
			must(s.NLBAddServersToServerGroup(servers))
			settle()
			for n := range x.listeners {
				listener := state.NLBCreateListenerRequest{LoadBalancerId: id, ListenerProtocol: "TCP", ListenerPort: ptr(80 + n)}
				listener.ServerGroupId = &group
				must(s.NLBCreateListener(listener))
			}
			settle()
		}
		must(s.Snapshot())
		name := fmt.Sprintf("balancers=%d,listeners=%d", x.balancers, x.balancers*x.listeners)
		server := state.NLBServersRequest{ServerGroupId: group, Servers: []state.NLBServerRequest{{ServerId: enis[9], ServerType: "Eni", Port: 80}}}
		b.Run("add-and-remove/"+name, func(b *testing.B) {
			for range b.N {
				must(s.NLBAddServersToServerGroup(server))
				settle()
				must(s.NLBRemoveServersFromServerGroup(server))
				settle()
			}
		})
		b.Run("change-line/"+name, func(b *testing.B) {
			size := 0
			for range b.N {
				must(s.NLBUpdateServerGroupServersAttribute(state.NLBServersRequest{ServerGroupId: group, Servers: []state.NLBServerRequest{{ServerId: enis[0], ServerType: "Eni", Port: 80}}}))
				size += len(must(s.Changes()))
				settle()
			}
			b.ReportMetric(float64(size)/float64(b.N), "bytes/op")
		})
		b.Run("view/"+name, func(b *testing.B) {
			for range b.N {
				s.View()
			}
		})
	}
}
