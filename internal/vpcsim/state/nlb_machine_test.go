package state_test

import (
	"fmt"
	"net/netip"
	"slices"

	"pgregory.net/rapid"

	"terway.dev/terway/internal/vpcsim/state"
)

// This file has the machine's steps and invariants of NLB.

func (m *machine) nlbs() []string {
	all, err := m.NLBListLoadBalancers(state.NLBListLoadBalancersRequest{})
	return idsOf(all, err, func(b state.NLBLoadBalancer) string { return b.LoadBalancerId })
}

func (m *machine) nlbListeners() []string {
	all, err := m.NLBListListeners(state.NLBListListenersRequest{})
	return idsOf(all, err, func(l state.NLBListener) string { return l.ListenerId })
}

func (m *machine) nlbGroups() []string {
	all, err := m.NLBListServerGroups(state.NLBListServerGroupsRequest{})
	return idsOf(all, err, func(g state.NLBServerGroup) string { return g.ServerGroupId })
}

// someZones selects one to three vSwitches, by their zones or, seldom, another's.
func (m *machine) someZones(t *rapid.T) []state.NLBZoneMappingRequest {
	var zones []state.NLBZoneMappingRequest
	for range few(t, "zones", 2) + 1 {
		v, err := m.DescribeVSwitchAttributes(pick(t, "vSwitch", m.vSwitches()))
		if err != nil {
			v = &state.VSwitch{VSwitchId: "none", ZoneId: "cn-hangzhou-h"}
		}
		z := state.NLBZoneMappingRequest{ZoneId: v.ZoneId, VSwitchId: v.VSwitchId}
		if few(t, "another zone", 9) == 0 {
			z.ZoneId = rapid.SampledFrom(m.options.Zones).Draw(t, "zone")
		}
		if all := must(m.DescribeEipAddresses(state.DescribeEipAddressesRequest{})); len(all) > 0 && few(t, "EIP", 3) == 0 {
			z.AllocationId = rapid.SampledFrom(all).Draw(t, "EIP").AllocationId
		}
		if few(t, "named", 3) == 0 {
			z.PrivateIPv4Address = fmt.Sprintf("10.0.0.%d", few(t, "host", 100))
		}
		zones = append(zones, z)
	}
	return zones
}

// ownZones returns the zones of a load balancer, with EIPs, or nothing.
func (m *machine) ownZones(t *rapid.T, id string) []state.NLBZoneMappingRequest {
	all := must(m.DescribeEipAddresses(state.DescribeEipAddressesRequest{}))
	b, err := m.NLBGetLoadBalancerAttribute(state.NLBLoadBalancerRequest{LoadBalancerId: id})
	if err != nil || len(all) == 0 || rapid.Bool().Draw(t, "no EIPs") {
		return nil
	}
	var zones []state.NLBZoneMappingRequest
	for _, z := range b.ZoneMappings {
		zones = append(zones, state.NLBZoneMappingRequest{ZoneId: z.ZoneId, VSwitchId: z.VSwitchId, AllocationId: rapid.SampledFrom(all).Draw(t, "EIP").AllocationId})
	}
	return zones
}

// someServers selects servers for a group: its own, or addresses of ENIs.
func (m *machine) someServers(t *rapid.T, group string) []state.NLBServerRequest {
	own, _ := m.NLBListServerGroupServers(state.NLBListServerGroupServersRequest{ServerGroupId: group})
	var servers []state.NLBServerRequest
	for range few(t, "servers", 2) + 1 {
		r := state.NLBServerRequest{ServerType: state.NLBServerEni, Port: 80 + few(t, "port", 1)}
		switch {
		case len(own) > 0 && rapid.Bool().Draw(t, "own"):
			v := rapid.SampledFrom(own).Draw(t, "server")
			r = state.NLBServerRequest{ServerId: v.ServerId, ServerType: v.ServerType, ServerIp: v.ServerIp.String(), Port: v.Port}
		case few(t, "an instance", 3) == 0:
			r.ServerId, r.ServerType = pick(t, "instance", m.instances()), state.NLBServerEcs
		default:
			r.ServerId = pick(t, "eni", m.enis())
			if four, _, _ := m.someAddresses(t, r.ServerId); len(four) > 0 {
				r.ServerIp = four[0]
			}
		}
		if rapid.Bool().Draw(t, "weighted") {
			r.Weight = ptr(few(t, "weight", 101))
		}
		servers = append(servers, r)
	}
	return servers
}

// nlbActions are the changes of NLB.
func (m *machine) nlbActions() map[string]func(*rapid.T) error {
	servers := func(f func(state.NLBServersRequest) (string, error), t *rapid.T) error {
		group := pick(t, "server group", m.nlbGroups())
		return errOf(f(state.NLBServersRequest{ClientToken: token(t), ServerGroupId: group, Servers: m.someServers(t, group), DryRun: few(t, "dry", 9) == 0}))
	}
	listener := func(t *rapid.T) state.NLBListenerRequest {
		return state.NLBListenerRequest{ListenerId: pick(t, "listener", m.nlbListeners())}
	}
	groups := func(t *rapid.T) state.NLBSecurityGroupsRequest {
		return state.NLBSecurityGroupsRequest{LoadBalancerId: pick(t, "NLB", m.nlbs()), SecurityGroupIds: []string{pick(t, "group", m.groups())}}
	}
	addressType := rapid.SampledFrom([]string{state.NLBIntranet, state.NLBInternet})
	attributes := func(t *rapid.T) state.NLBServerGroupAttributes {
		return state.NLBServerGroupAttributes{
			ServerGroupName: ptr("group"), Scheduler: rapid.SampledFrom([]string{"", "Wlc", "rr", "qch"}).Draw(t, "scheduler"),
			ConnectionDrainTimeout: ptr(few(t, "drain", 1000)),
			HealthCheckConfig: state.NLBHealthCheckRequest{
				HealthCheckEnabled: ptr(rapid.Bool().Draw(t, "checked")), HealthCheckType: rapid.SampledFrom([]string{"", "HTTP", "UDP"}).Draw(t, "check"),
			},
		}
	}
	return map[string]func(*rapid.T) error{
		"NLBCreateLoadBalancer": func(t *rapid.T) error {
			return errOf(m.NLBCreateLoadBalancer(state.NLBCreateLoadBalancerRequest{
				ClientToken: token(t), VpcId: pick(t, "vpc", m.vpcs), AddressType: addressType.Draw(t, "type"), ZoneMappings: m.someZones(t),
				DeletionProtectionConfig: state.NLBDeletionProtection{Enabled: few(t, "protected", 4) == 0}, DryRun: few(t, "dry", 9) == 0,
			}))
		},
		"NLBUpdateLoadBalancer": func(t *rapid.T) error {
			id := pick(t, "NLB", m.nlbs())
			switch few(t, "what", 3) {
			case 0:
				return errOf(m.NLBUpdateLoadBalancerAttribute(state.NLBUpdateLoadBalancerAttributeRequest{LoadBalancerId: id, CrossZoneEnabled: ptr(rapid.Bool().Draw(t, "cross"))}))
			case 1:
				return m.NLBUpdateLoadBalancerProtection(state.NLBUpdateLoadBalancerProtectionRequest{LoadBalancerId: id, DeletionProtectionEnabled: ptr(false)})
			case 2:
				return errOf(m.NLBUpdateLoadBalancerAddressTypeConfig(state.NLBUpdateLoadBalancerZonesRequest{LoadBalancerId: id, AddressType: addressType.Draw(t, "type"), ZoneMappings: m.ownZones(t, id)}))
			}
			return errOf(m.NLBUpdateLoadBalancerZones(state.NLBUpdateLoadBalancerZonesRequest{ClientToken: token(t), LoadBalancerId: id, ZoneMappings: m.someZones(t)}))
		},
		"NLBDeleteLoadBalancer": func(t *rapid.T) error {
			return errOf(m.NLBDeleteLoadBalancer(state.NLBLoadBalancerRequest{LoadBalancerId: pick(t, "NLB", m.nlbs())}))
		},
		"NLBJoinSecurityGroup":  func(t *rapid.T) error { return errOf(m.NLBLoadBalancerJoinSecurityGroup(groups(t))) },
		"NLBLeaveSecurityGroup": func(t *rapid.T) error { return errOf(m.NLBLoadBalancerLeaveSecurityGroup(groups(t))) },
		"NLBCreateListener": func(t *rapid.T) error {
			req := state.NLBCreateListenerRequest{
				ClientToken: token(t), LoadBalancerId: pick(t, "NLB", m.nlbs()), ListenerPort: ptr(80 + few(t, "port", 2)),
				ListenerProtocol: rapid.SampledFrom([]string{"TCP", "UDP"}).Draw(t, "protocol"),
			}
			req.ServerGroupId = ptr(pick(t, "server group", m.nlbGroups()))
			return errOf(m.NLBCreateListener(req))
		},
		"NLBUpdateListener": func(t *rapid.T) error {
			req := state.NLBUpdateListenerAttributeRequest{ListenerId: pick(t, "listener", m.nlbListeners())}
			req.ServerGroupId = ptr(pick(t, "server group", m.nlbGroups()))
			return errOf(m.NLBUpdateListenerAttribute(req))
		},
		"NLBStopListener":   func(t *rapid.T) error { return errOf(m.NLBStopListener(listener(t))) },
		"NLBStartListener":  func(t *rapid.T) error { return errOf(m.NLBStartListener(listener(t))) },
		"NLBDeleteListener": func(t *rapid.T) error { return errOf(m.NLBDeleteListener(listener(t))) },
		"NLBCreateServerGroup": func(t *rapid.T) error {
			return errOf(m.NLBCreateServerGroup(state.NLBCreateServerGroupRequest{
				ClientToken: token(t), VpcId: pick(t, "vpc", m.vpcs), Protocol: rapid.SampledFrom([]string{"", "UDP", "TCP_UDP"}).Draw(t, "protocol"),
				NLBServerGroupAttributes: attributes(t),
			}))
		},
		"NLBUpdateServerGroup": func(t *rapid.T) error {
			return errOf(m.NLBUpdateServerGroupAttribute(state.NLBUpdateServerGroupAttributeRequest{ServerGroupId: pick(t, "server group", m.nlbGroups()), NLBServerGroupAttributes: attributes(t)}))
		},
		"NLBDeleteServerGroup": func(t *rapid.T) error {
			return errOf(m.NLBDeleteServerGroup(state.NLBDeleteServerGroupRequest{ServerGroupId: pick(t, "server group", m.nlbGroups())}))
		},
		"NLBAddServers":    func(t *rapid.T) error { return servers(m.NLBAddServersToServerGroup, t) },
		"NLBRemoveServers": func(t *rapid.T) error { return servers(m.NLBRemoveServersFromServerGroup, t) },
		"NLBUpdateServers": func(t *rapid.T) error { return servers(m.NLBUpdateServerGroupServersAttribute, t) },
		"NLBTags": func(t *rapid.T) error {
			return m.TagResources(state.TagResourcesRequest{ResourceType: "nlb:servergroup", ResourceId: []string{pick(t, "server group", m.nlbGroups())}, Tag: []state.Tag{{Key: "k", Value: "v"}}})
		},
		"NLBFaults": func(t *rapid.T) error {
			m.stuckJobs = few(t, "stuck", 3) == 0
			m.SetStuckJobs(m.stuckJobs)
			m.SetFailingJobs(few(t, "failing", 3) == 0)
			return nil
		},
		"ReportHealth": func(t *rapid.T) error {
			var all []state.BackendHealth
			for _, b := range m.View().Balancers {
				for _, l := range b.Listeners {
					for _, v := range l.Backends {
						all = append(all, state.BackendHealth{ListenerId: l.ListenerId, Key: v.Key})
					}
				}
			}
			all = append(all, state.BackendHealth{ListenerId: "none", Key: "none"})
			report := rapid.SampledFrom(all).Draw(t, "backend")
			report.Health = rapid.SampledFrom([]state.Health{state.Healthy, state.Unhealthy}).Draw(t, "health")
			m.ReportHealth([]state.BackendHealth{report})
			return nil
		},
	}
}

// furnishNLB creates what random steps alone rarely make: a load balancer with a listener and a
// server.
func (m *machine) furnishNLB(vSwitch, eni string) {
	v := must(m.DescribeVSwitchAttributes(vSwitch))
	other := must(m.CreateVSwitch(state.CreateVSwitchRequest{VpcId: v.VpcId, ZoneId: "cn-hangzhou-h", CidrBlock: v.CidrBlock.String()[:5] + "0.64/27"}))
	m.settle()
	nlb := must(m.NLBCreateLoadBalancer(state.NLBCreateLoadBalancerRequest{
		VpcId: v.VpcId, AddressType: state.NLBInternet, ZoneMappings: []state.NLBZoneMappingRequest{{ZoneId: v.ZoneId, VSwitchId: vSwitch}, {ZoneId: "cn-hangzhou-h", VSwitchId: other}},
	}))
	group := state.NLBCreateServerGroupRequest{VpcId: v.VpcId, Protocol: "TCP_UDP"}
	group.ServerGroupName = ptr("group")
	id := must(m.NLBCreateServerGroup(group)).Id
	m.settle()
	listener := state.NLBCreateListenerRequest{LoadBalancerId: nlb, ListenerProtocol: "TCP", ListenerPort: ptr(80)}
	listener.ServerGroupId = &id
	must(m.NLBCreateListener(listener))
	must(m.NLBAddServersToServerGroup(state.NLBServersRequest{ServerGroupId: id, Servers: []state.NLBServerRequest{{ServerId: eni, ServerType: state.NLBServerEni, Port: 80}}}))
	m.settle()
}

// heldAddress is a private address of a load balancer.
type heldAddress struct {
	VpcId, VSwitchId string
	Address          netip.Addr
	Id               string
}

// held returns the private addresses of load balancers.
func (m *machine) held() []heldAddress {
	var all []heldAddress
	for _, b := range must(m.NLBListLoadBalancers(state.NLBListLoadBalancersRequest{})) {
		for _, z := range b.ZoneMappings {
			all = append(all, heldAddress{b.VpcId, z.VSwitchId, z.PrivateIPv4Address, b.LoadBalancerId})
		}
	}
	for _, l := range must(m.DescribeLoadBalancers(state.DescribeLoadBalancersRequest{AddressType: state.AddressIntranet})) {
		all = append(all, heldAddress{l.VpcId, l.VSwitchId, l.Address, l.LoadBalancerId})
	}
	return all
}

// removeBalancers deletes all load balancers.
func (m *machine) removeBalancers() {
	m.stuckJobs = false
	m.SetStuckJobs(false)
	m.SetFailingJobs(false)
	m.settle()
	m.removeCLBs()
	for _, id := range m.nlbs() {
		check(m.NLBUpdateLoadBalancerProtection(state.NLBUpdateLoadBalancerProtectionRequest{LoadBalancerId: id, DeletionProtectionEnabled: ptr(false)}))
		must(m.NLBDeleteLoadBalancer(state.NLBLoadBalancerRequest{LoadBalancerId: id}))
	}
	m.settle()
	for _, id := range m.nlbGroups() {
		must(m.NLBDeleteServerGroup(state.NLBDeleteServerGroupRequest{ServerGroupId: id}))
	}
	m.settle()
}

// checkNLB checks load balancers, listeners and server groups.
func (m *machine) checkNLB(t *rapid.T) {
	l := m.options.Limits
	groups, public := map[string]state.NLBServerGroup{}, map[netip.Addr]string{}
	all := must(m.NLBListServerGroups(state.NLBListServerGroupsRequest{}))
	for _, g := range all {
		groups[g.ServerGroupId] = g
		seen := map[string]bool{}
		for _, v := range g.Servers {
			key := fmt.Sprint(v.ServerId, v.ServerIp, v.Port)
			if seen[key] || v.Weight < 0 || v.Weight > 100 || !v.ServerIp.Is4() {
				t.Fatalf("group %s has server %+v", g.ServerGroupId, v)
			}
			seen[key] = true
		}
		if len(g.Servers) > l.NLBServersPerGroup {
			t.Fatalf("group %s has %d servers", g.ServerGroupId, len(g.Servers))
		}
	}
	balancers := must(m.NLBListLoadBalancers(state.NLBListLoadBalancersRequest{}))
	if len(balancers) > l.NLBs || len(groups) > l.NLBServerGroups {
		t.Fatalf("%d load balancers, %d server groups", len(balancers), len(groups))
	}
	listeners := must(m.NLBListListeners(state.NLBListListenersRequest{}))
	for _, b := range balancers {
		// While zones change, a load balancer has the old ones and the new ones.
		if zones := len(b.ZoneMappings); zones < 2 || len(b.SecurityGroupIds) > l.NLBSecurityGroups {
			t.Fatalf("load balancer %+v", b)
		}
		for n, z := range b.ZoneMappings {
			if n > 0 && z.ZoneId <= b.ZoneMappings[n-1].ZoneId || z.Pending && b.LoadBalancerStatus != state.NLBConfiguring {
				t.Fatalf("load balancer %s has the zones %+v", b.LoadBalancerId, b.ZoneMappings)
			}
			if b.AddressType == state.NLBInternet && !z.Pending && !z.PublicIPv4Address.IsValid() ||
				b.AddressType == state.NLBIntranet && b.LoadBalancerStatus == state.NLBActive && z.PublicIPv4Address.IsValid() {
				t.Fatalf("load balancer %s of type %s has zone %+v", b.LoadBalancerId, b.AddressType, z)
			}
			if !z.PublicIPv4Address.IsValid() {
				if z.AllocationId != "" {
					t.Fatalf("load balancer %s has zone %+v", b.LoadBalancerId, z)
				}
				continue
			}
			if z.AllocationId != "" {
				eip := must(m.DescribeEipAddresses(state.DescribeEipAddressesRequest{AllocationId: z.AllocationId}))
				if len(eip) != 1 || eip[0].IpAddress != z.PublicIPv4Address || eip[0].InstanceId != b.LoadBalancerId {
					t.Fatalf("load balancer %s has zone %+v and EIPs %+v", b.LoadBalancerId, z, eip)
				}
			}
			if other := public[z.PublicIPv4Address]; other != "" {
				t.Fatalf("load balancers %s and %s both have %s", other, b.LoadBalancerId, z.PublicIPv4Address)
			}
			public[z.PublicIPv4Address] = b.LoadBalancerId
		}
		ports, servers := map[string]bool{}, map[string]int{}
		for _, x := range listeners {
			if x.LoadBalancerId != b.LoadBalancerId {
				continue
			}
			g, ok := groups[x.ServerGroupId]
			if !ok || g.VpcId != b.VpcId || g.Protocol != "TCP_UDP" && g.Protocol != x.ListenerProtocol || !slices.Contains(g.RelatedLoadBalancerIds, b.LoadBalancerId) {
				t.Fatalf("listener %+v has group %+v", x, g)
			}
			port := fmt.Sprint(x.ListenerProtocol, x.ListenerPort)
			if ports[port] {
				t.Fatalf("load balancer %s listens twice on %s", b.LoadBalancerId, port)
			}
			ports[port], servers[x.ServerGroupId] = true, len(g.Servers)
		}
		n := 0
		for _, of := range servers {
			n += of
		}
		if len(ports) > l.NLBListeners || n > l.NLBServersPerLoadBalancer {
			t.Fatalf("load balancer %s has %d listeners and %d servers", b.LoadBalancerId, len(ports), n)
		}
	}
	for _, x := range listeners {
		if !slices.ContainsFunc(balancers, func(b state.NLBLoadBalancer) bool { return b.LoadBalancerId == x.LoadBalancerId }) {
			t.Fatalf("listener %+v is on no load balancer", x)
		}
	}
	for _, b := range m.View().Balancers {
		for _, x := range b.Listeners {
			for n, v := range x.Backends {
				if n > 0 && v.Key == x.Backends[n-1].Key || v.Key == "" || !v.Address.IsValid() {
					t.Fatalf("listener %s has backend %+v", x.ListenerId, v)
				}
			}
		}
	}
}

// pendingNLB returns the number of resources of NLB on which a job runs.
func (m *machine) pendingNLB(t *rapid.T) int {
	n := 0
	for _, b := range must(m.NLBListLoadBalancers(state.NLBListLoadBalancersRequest{})) {
		if b.LoadBalancerStatus != state.NLBActive {
			n++
		}
	}
	for _, l := range must(m.NLBListListeners(state.NLBListListenersRequest{})) {
		if l.ListenerStatus != state.NLBListenerRunning && l.ListenerStatus != state.NLBListenerStopped {
			n++
		}
		if l.ListenerStatus == state.NLBListenerRunning && !l.Serves || l.ListenerStatus == state.NLBListenerStopped && l.Serves {
			t.Fatalf("listener %+v", l)
		}
	}
	for _, g := range must(m.NLBListServerGroups(state.NLBListServerGroupsRequest{})) {
		if g.ServerGroupStatus != state.NLBGroupAvailable {
			n++
			continue
		}
		for _, v := range g.Servers {
			if v.Status != state.NLBServerAvailable {
				t.Fatalf("group %s is Available, and its server %+v is not", g.ServerGroupId, v)
			}
		}
	}
	return n
}
