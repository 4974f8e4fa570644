package state_test

import (
	"fmt"
	"testing"
	"time"

	"terway.dev/terway/internal/catalog"
	"terway.dev/terway/internal/vpcsim/state"
)

// big returns a cloud of n nodes with four ENIs each, and ten addresses on each ENI.
func big(b *testing.B, n int) (s *state.State, enis []string) {
	b.Helper()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s = must(state.New(state.Options{Now: func() time.Time { return now }, Seed: 1, Catalog: catalog.Default(), Limits: state.Limits{PrivateIPsPerVPC: 1 << 20}}))
	settle := func() {
		for due, ok := s.NextDue(); ok; due, ok = s.NextDue() {
			if due.After(now) {
				now = due
			}
			s.Tick(now)
		}
	}
	vpc := must(s.CreateVpc(state.CreateVpcRequest{CidrBlock: "10.0.0.0/8"}))
	settle()
	const perVSwitch = 1000
	for first := 0; first < n; first += perVSwitch {
		vsw := must(s.CreateVSwitch(state.CreateVSwitchRequest{VpcId: vpc.VpcId, ZoneId: "cn-hangzhou-i", CidrBlock: fmt.Sprintf("10.%d.0.0/16", first/perVSwitch)}))
		settle()
		group := must(s.CreateSecurityGroup(state.CreateSecurityGroupRequest{VpcId: vpc.VpcId, SecurityGroupType: "enterprise"}))
		for i := 0; i < min(perVSwitch, n-first); i += 100 {
			nodes := must(s.RunInstances(state.RunInstancesRequest{InstanceType: "ecs.g6.2xlarge", Amount: ptr(min(100, n-first-i)), VSwitchId: vsw, SecurityGroupId: group}))
			settle()
			for _, node := range nodes {
				for range 3 {
					eni := must(s.CreateNetworkInterface(state.CreateNetworkInterfaceRequest{
						ClientToken: fmt.Sprint(len(enis)), VSwitchId: vsw, SecurityGroupId: group, SecondaryPrivateIpAddressCount: 8,
						Tag: []state.Tag{{Key: "node", Value: node}, {Key: "creator", Value: "terway"}},
					}))
					enis = append(enis, eni.NetworkInterfaceId)
					check(s.AttachNetworkInterface(state.AttachNetworkInterfaceRequest{NetworkInterfaceId: eni.NetworkInterfaceId, InstanceId: node}))
				}
			}
			settle()
		}
	}
	return s, enis
}

// The cost of calls about one ENI, and about a page of a list, with 200 and with 20,000 ENIs.
// Nothing is asserted; compare the two results.
func BenchmarkOneENI(b *testing.B) {
	for _, nodes := range []int{50, 5000} {
		s, enis := big(b, nodes)
		b.Run(fmt.Sprintf("assign-and-unassign/nodes=%d", nodes), func(b *testing.B) {
			for i := range b.N {
				eni := enis[i%len(enis)]
				got := must(s.AssignPrivateIpAddresses(state.AssignPrivateIpAddressesRequest{NetworkInterfaceId: eni, SecondaryPrivateIpAddressCount: 1}))
				check(s.UnassignPrivateIpAddresses(state.UnassignPrivateIpAddressesRequest{NetworkInterfaceId: eni, PrivateIpAddress: []string{got.PrivateIpAddress[0].String()}}))
				s.Tick(time.Time{})
			}
		})
		b.Run(fmt.Sprintf("describe-of-instance/nodes=%d", nodes), func(b *testing.B) {
			on := must(s.DescribeNetworkInterfaceAttribute(enis[0])).InstanceId
			for range b.N {
				if got := must(s.DescribeNetworkInterfaces(state.DescribeNetworkInterfacesRequest{InstanceId: on})); len(got) != 4 {
					b.Fatalf("%d ENIs", len(got))
				}
			}
		})
		b.Run(fmt.Sprintf("describe-by-tag/nodes=%d", nodes), func(b *testing.B) {
			on := must(s.DescribeNetworkInterfaceAttribute(enis[0])).InstanceId
			for range b.N {
				if got := must(s.DescribeNetworkInterfaces(state.DescribeNetworkInterfacesRequest{Tag: []state.Tag{{Key: "node", Value: on}}})); len(got) != 3 {
					b.Fatalf("%d ENIs", len(got))
				}
			}
		})
		b.Run(fmt.Sprintf("select-all/nodes=%d", nodes), func(b *testing.B) {
			for range b.N {
				must(s.SelectNetworkInterfaces(state.DescribeNetworkInterfacesRequest{Tag: []state.Tag{{Key: "creator", Value: "terway"}}}))
			}
		})
		b.Run(fmt.Sprintf("page-of-instances/nodes=%d", nodes), func(b *testing.B) {
			for range b.N {
				for _, id := range must(s.SelectInstances(state.DescribeInstancesRequest{}))[:50] {
					must(s.DescribeInstanceAttribute(id))
				}
			}
		})
		b.Run(fmt.Sprintf("attach-and-detach/nodes=%d", nodes), func(b *testing.B) {
			for i := range b.N {
				eni := must(s.DescribeNetworkInterfaceAttribute(enis[i%len(enis)]))
				check(s.DetachNetworkInterface(state.DetachNetworkInterfaceRequest{NetworkInterfaceId: eni.NetworkInterfaceId, InstanceId: eni.InstanceId}))
				due, _ := s.NextDue()
				s.Tick(due)
				check(s.AttachNetworkInterface(state.AttachNetworkInterfaceRequest{NetworkInterfaceId: eni.NetworkInterfaceId, InstanceId: eni.InstanceId}))
				s.Tick(due)
			}
		})
		// From here on the state records changes.
		check(errOf(s.Snapshot()))
		b.Run(fmt.Sprintf("assign-and-save/nodes=%d", nodes), func(b *testing.B) {
			for i := range b.N {
				eni := enis[i%len(enis)]
				got := must(s.AssignPrivateIpAddresses(state.AssignPrivateIpAddressesRequest{NetworkInterfaceId: eni, SecondaryPrivateIpAddressCount: 1}))
				must(s.Changes())
				check(s.UnassignPrivateIpAddresses(state.UnassignPrivateIpAddressesRequest{NetworkInterfaceId: eni, PrivateIpAddress: []string{got.PrivateIpAddress[0].String()}}))
				must(s.Changes())
			}
		})
	}
}

// The cost of a change of a group's backends, as it is made, saved and shown to a data plane,
// with 2 and with 50 load balancers of two listeners and 200 backends each.
func BenchmarkOneBackend(b *testing.B) {
	for _, many := range []int{2, 50} {
		s, enis := big(b, 50)
		var group string
		var items []state.BackendServerItem
		for _, id := range enis[:20] {
			for _, a := range must(s.DescribeNetworkInterfaceAttribute(id)).PrivateIpAddresses {
				if len(items) < 180 {
					items = append(items, state.BackendServerItem{ServerId: id, ServerIp: a.String(), Port: 80, Type: state.ServerENI})
				}
			}
		}
		for range many {
			lb := must(s.CreateLoadBalancer(state.CreateLoadBalancerRequest{})).LoadBalancerId
			group = must(s.CreateVServerGroup(state.CreateVServerGroupRequest{LoadBalancerId: lb, VServerGroupName: "g"})).VServerGroupId
			for i := 0; i < len(items); i += 20 {
				must(s.AddVServerGroupBackendServers(state.VServerGroupBackendServersRequest{VServerGroupId: group, BackendServers: items[i : i+20]}))
			}
			for _, port := range []int{80, 81} {
				check(s.CreateLoadBalancerTCPListener(state.ListenerSettingsRequest{LoadBalancerId: lb, ListenerPort: port, VServerGroupId: &group}))
				check(s.StartLoadBalancerListener(state.ListenerRequest{LoadBalancerId: lb, ListenerPort: port}))
			}
		}
		due, _ := s.NextDue()
		s.Tick(due)
		var reports []state.BackendHealth
		for _, balancer := range s.View().Balancers {
			for _, l := range balancer.Listeners {
				for _, x := range l.Backends {
					reports = append(reports, state.BackendHealth{ListenerId: l.ListenerId, Key: x.Key, BackendVerdict: state.BackendVerdict{Health: state.Healthy}})
				}
			}
		}
		s.ReportHealth(reports)
		check(errOf(s.Snapshot()))
		one := state.VServerGroupBackendServersRequest{VServerGroupId: group, BackendServers: items[7:8]}
		b.Run(fmt.Sprintf("change/balancers=%d", many), func(b *testing.B) {
			for range b.N {
				must(s.RemoveVServerGroupBackendServers(one))
				must(s.AddVServerGroupBackendServers(one))
			}
		})
		b.Run(fmt.Sprintf("change-and-save/balancers=%d", many), func(b *testing.B) {
			for range b.N {
				must(s.RemoveVServerGroupBackendServers(one))
				must(s.Changes())
				must(s.AddVServerGroupBackendServers(one))
				must(s.Changes())
			}
		})
		b.Run(fmt.Sprintf("report/balancers=%d", many), func(b *testing.B) {
			for i := range b.N {
				r := reports[i%len(reports)]
				r.Health = []state.Health{state.Unhealthy, state.Healthy}[i/len(reports)%2]
				s.ReportHealth([]state.BackendHealth{r})
			}
		})
		b.Run(fmt.Sprintf("view/balancers=%d", many), func(b *testing.B) {
			for range b.N {
				s.View()
			}
		})
	}
}
