package state_test

import (
	"net/netip"
	"slices"
	"strings"

	"pgregory.net/rapid"

	"terway.dev/terway/internal/vpcsim/state"
)

// This file has the machine's steps and invariants of SLB.

func (m *machine) clbs() []string {
	all, err := m.DescribeLoadBalancers(state.DescribeLoadBalancersRequest{})
	return idsOf(all, err, func(l state.LoadBalancer) string { return l.LoadBalancerId })
}

func (m *machine) clbListeners() []state.Listener {
	return must(m.DescribeLoadBalancerListeners(state.DescribeLoadBalancerListenersRequest{}))
}

func (m *machine) clbGroups() []state.VServerGroup {
	var all []state.VServerGroup
	for _, id := range m.clbs() {
		all = append(all, must(m.DescribeVServerGroups(state.DescribeVServerGroupsRequest{LoadBalancerId: id}))...)
	}
	return all
}

func (m *machine) clbGroupIDs() []string {
	return idsOf(m.clbGroups(), nil, func(g state.VServerGroup) string { return g.VServerGroupId })
}

// someBackends selects members of a group, addresses of ENIs, and instances.
func (m *machine) someBackends(t *rapid.T, group string) []state.BackendServerItem {
	var own []state.BackendServer
	if g, err := m.DescribeVServerGroupAttribute(state.VServerGroupRequest{VServerGroupId: group}); err == nil {
		own = g.BackendServers
	}
	var items []state.BackendServerItem
	for range few(t, "backends", 3) {
		item := state.BackendServerItem{Type: state.ServerENI, Port: 80 + few(t, "port", 1)}
		switch {
		case len(own) > 0 && rapid.Bool().Draw(t, "own"):
			b := rapid.SampledFrom(own).Draw(t, "member")
			item = state.BackendServerItem{ServerId: b.ServerId, ServerIp: b.ServerIp.String(), Port: b.Port, Type: b.Type}
		case few(t, "an instance", 3) == 0:
			item.ServerId, item.Type = pick(t, "instance", m.instances()), ""
		default:
			item.ServerId = pick(t, "eni", m.enis())
			if four, _, _ := m.someAddresses(t, item.ServerId); len(four) > 0 {
				item.ServerIp = four[0]
			}
		}
		if rapid.Bool().Draw(t, "weighted") {
			item.Weight = ptr(few(t, "weight", 101))
		}
		items = append(items, item)
	}
	return items
}

// clbActions are the changes of SLB.
func (m *machine) clbActions() map[string]func(*rapid.T) error {
	backends := func(f func(state.VServerGroupBackendServersRequest) (*state.VServerGroup, error), t *rapid.T) error {
		group := pick(t, "server group", m.clbGroupIDs())
		return errOf(f(state.VServerGroupBackendServersRequest{VServerGroupId: group, BackendServers: m.someBackends(t, group)}))
	}
	settings := func(t *rapid.T) state.ListenerSettingsRequest {
		r := state.ListenerSettingsRequest{
			LoadBalancerId: pick(t, "CLB", m.clbs()), ListenerPort: 80 + few(t, "port", 1), VServerGroupId: ptr(pick(t, "server group", m.clbGroupIDs())),
			HealthyThreshold: ptr(2 + few(t, "threshold", 9)), Scheduler: rapid.SampledFrom([]*string{nil, ptr("rr"), ptr("tch")}).Draw(t, "scheduler"),
		}
		on := rapid.SampledFrom([]*string{nil, ptr("on"), ptr("off")})
		r.HealthCheck, r.HealthCheckSwitch, r.ConnectionDrain = on.Draw(t, "check"), on.Draw(t, "switch"), on.Draw(t, "drain")
		r.StickySession, r.StickySessionType = on.Draw(t, "sticky"), ptr("server")
		return r
	}
	listener := func(t *rapid.T) state.ListenerRequest {
		return state.ListenerRequest{
			LoadBalancerId: pick(t, "CLB", m.clbs()), ListenerPort: 80 + few(t, "port", 1),
			ListenerProtocol: rapid.SampledFrom([]string{"", "tcp", "udp", "http"}).Draw(t, "protocol"),
		}
	}
	return map[string]func(*rapid.T) error{
		"CLBCreate": func(t *rapid.T) error {
			return errOf(m.CreateLoadBalancer(state.CreateLoadBalancerRequest{
				ClientToken: token(t), AddressType: rapid.SampledFrom([]string{"", "intranet", "intranet"}).Draw(t, "type"),
				VSwitchId: pick(t, "vSwitch", m.vSwitches()), Address: rapid.SampledFrom([]string{"", "", "10.0.0.9", "10.0.0.62"}).Draw(t, "address"),
				DeleteProtection: rapid.SampledFrom([]string{"", "", "on"}).Draw(t, "protection"),
			}))
		},
		"CLBDelete": func(t *rapid.T) error {
			return m.DeleteLoadBalancer(state.LoadBalancerRequest{LoadBalancerId: pick(t, "CLB", m.clbs())})
		},
		"CLBModify": func(t *rapid.T) error {
			id := pick(t, "CLB", m.clbs())
			switch few(t, "what", 3) {
			case 0:
				return m.SetLoadBalancerDeleteProtection(state.SetLoadBalancerDeleteProtectionRequest{LoadBalancerId: id, DeleteProtection: "off"})
			case 1:
				return m.SetLoadBalancerStatus(state.SetLoadBalancerStatusRequest{LoadBalancerId: id, LoadBalancerStatus: rapid.SampledFrom([]string{"active", "inactive"}).Draw(t, "status")})
			case 2:
				return m.ModifyLoadBalancerInstanceChargeType(state.ModifyLoadBalancerInstanceChargeTypeRequest{LoadBalancerId: id, InstanceChargeType: "PayBySpec", LoadBalancerSpec: "slb.s1.small"})
			}
			return m.TagResources(state.TagResourcesRequest{ResourceType: "slb:instance", ResourceId: []string{id}, Tag: []state.Tag{{Key: "k", Value: "v"}}})
		},
		"CLBCreateGroup": func(t *rapid.T) error {
			return errOf(m.CreateVServerGroup(state.CreateVServerGroupRequest{LoadBalancerId: pick(t, "CLB", m.clbs()), VServerGroupName: "g", BackendServers: m.someBackends(t, "")}))
		},
		"CLBDeleteGroup": func(t *rapid.T) error {
			return m.DeleteVServerGroup(state.VServerGroupRequest{VServerGroupId: pick(t, "server group", m.clbGroupIDs())})
		},
		"CLBAddBackends":    func(t *rapid.T) error { return backends(m.AddVServerGroupBackendServers, t) },
		"CLBRemoveBackends": func(t *rapid.T) error { return backends(m.RemoveVServerGroupBackendServers, t) },
		"CLBSetGroup": func(t *rapid.T) error {
			group := pick(t, "server group", m.clbGroupIDs())
			return errOf(m.SetVServerGroupAttribute(state.SetVServerGroupAttributeRequest{VServerGroupId: group, VServerGroupName: "other", BackendServers: m.someBackends(t, group)}))
		},
		"CLBReplaceBackends": func(t *rapid.T) error {
			group := pick(t, "server group", m.clbGroupIDs())
			return errOf(m.ModifyVServerGroupBackendServers(state.ModifyVServerGroupBackendServersRequest{
				VServerGroupId: group, OldBackendServers: m.someBackends(t, group), NewBackendServers: m.someBackends(t, group),
			}))
		},
		"CLBAccess": func(t *rapid.T) error {
			all := must(m.DescribeAccessControlLists(state.DescribeAccessControlListsRequest{}))
			id := pick(t, "ACL", idsOf(all, nil, func(l state.AccessControlList) string { return l.AclId }))
			entries := state.AccessControlListEntryRequest{AclId: id, AclEntrys: []state.AclEntryItem{{Entry: rapid.SampledFrom([]string{"10.0.0.0/8", "10.0.0.1", "x"}).Draw(t, "entry")}}}
			switch few(t, "what", 4) {
			case 0:
				return errOf(m.CreateAccessControlList(state.CreateAccessControlListRequest{AclName: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "name")}))
			case 1:
				return m.DeleteAccessControlList(state.AccessControlListRequest{AclId: id})
			case 2:
				return m.AddAccessControlListEntry(entries)
			case 3:
				return m.RemoveAccessControlListEntry(entries)
			}
			r := settings(t)
			r.AclStatus, r.AclType, r.AclId = rapid.SampledFrom([]*string{ptr("on"), ptr("off")}).Draw(t, "status"), ptr("white"), &id
			return m.SetLoadBalancerTCPListenerAttribute(r)
		},
		"CLBCreateTCP":      func(t *rapid.T) error { return m.CreateLoadBalancerTCPListener(settings(t)) },
		"CLBCreateUDP":      func(t *rapid.T) error { return m.CreateLoadBalancerUDPListener(settings(t)) },
		"CLBCreateHTTP":     func(t *rapid.T) error { return m.CreateLoadBalancerHTTPListener(settings(t)) },
		"CLBSetTCP":         func(t *rapid.T) error { return m.SetLoadBalancerTCPListenerAttribute(settings(t)) },
		"CLBSetHTTP":        func(t *rapid.T) error { return m.SetLoadBalancerHTTPListenerAttribute(settings(t)) },
		"CLBStart":          func(t *rapid.T) error { return m.StartLoadBalancerListener(listener(t)) },
		"CLBStop":           func(t *rapid.T) error { return m.StopLoadBalancerListener(listener(t)) },
		"CLBDeleteListener": func(t *rapid.T) error { return m.DeleteLoadBalancerListener(listener(t)) },
	}
}

// furnishCLB creates what random steps alone rarely make: a load balancer with a listener that
// runs and a backend.
func (m *machine) furnishCLB(vSwitch, eni string) {
	lb := must(m.CreateLoadBalancer(state.CreateLoadBalancerRequest{AddressType: "intranet", VSwitchId: vSwitch})).LoadBalancerId
	group := must(m.CreateVServerGroup(state.CreateVServerGroupRequest{
		LoadBalancerId: lb, VServerGroupName: "g", BackendServers: []state.BackendServerItem{{ServerId: eni, Type: "eni", Port: 80}},
	})).VServerGroupId
	check(m.CreateLoadBalancerTCPListener(state.ListenerSettingsRequest{LoadBalancerId: lb, ListenerPort: 80, VServerGroupId: &group}))
	check(m.StartLoadBalancerListener(state.ListenerRequest{LoadBalancerId: lb, ListenerPort: 80}))
	m.settle()
}

// removeCLBs deletes all load balancers.
func (m *machine) removeCLBs() {
	for _, id := range m.clbs() {
		check(m.SetLoadBalancerDeleteProtection(state.SetLoadBalancerDeleteProtectionRequest{LoadBalancerId: id, DeleteProtection: "off"}))
		check(m.DeleteLoadBalancer(state.LoadBalancerRequest{LoadBalancerId: id}))
	}
}

// pendingCLB returns the number of listeners that are being started or stopped.
func (m *machine) pendingCLB() int {
	n := 0
	for _, l := range m.clbListeners() {
		if l.Status == state.ListenerStarting || l.Status == state.ListenerStopping {
			n++
		}
	}
	return n
}

// checkCLB checks load balancers, groups and listeners, and that a data plane sees all that it
// needs and no more.
func (m *machine) checkCLB(t *rapid.T) {
	limits := m.options.Limits
	if n := len(must(m.DescribeAccessControlLists(state.DescribeAccessControlListsRequest{}))); n > limits.AccessControlLists {
		t.Fatalf("%d access control lists", n)
	}
	enis, instances := m.enis(), m.instances()
	all := must(m.DescribeLoadBalancers(state.DescribeLoadBalancersRequest{}))
	if len(all) > limits.LoadBalancers {
		t.Fatalf("%d load balancers", len(all))
	}
	balancers, public := map[string]state.LoadBalancer{}, map[netip.Addr]string{}
	held, vpcs := map[string]map[string]bool{}, map[string]string{}
	for _, l := range all {
		balancers[l.LoadBalancerId] = l
		held[l.LoadBalancerId], vpcs[l.LoadBalancerId] = map[string]bool{}, l.VpcId
		if (l.VSwitchId == "") != (l.AddressType == state.AddressInternet) || (l.VSwitchId == "") != (l.VpcId == "") {
			t.Fatalf("load balancer %+v", l)
		}
		if l.VSwitchId == "" {
			if other := public[l.Address]; other != "" {
				t.Fatalf("load balancers %s and %s both have %s", other, l.LoadBalancerId, l.Address)
			}
			public[l.Address] = l.LoadBalancerId
		}
	}
	groups := map[string]state.VServerGroup{}
	for _, g := range m.clbGroups() {
		groups[g.VServerGroupId] = g
		keys := map[string]bool{}
		for _, b := range g.BackendServers {
			if keys[b.Key()] || b.Weight < 0 || b.Weight > 100 || !b.ServerIp.Is4() || !slices.Contains(enis, b.ServerId) && !slices.Contains(instances, b.ServerId) {
				t.Fatalf("group %s has backend %+v", g.VServerGroupId, b)
			}
			keys[b.Key()] = true
			held[g.LoadBalancerId][b.ServerId+b.ServerIp.String()] = true
			if vpcs[g.LoadBalancerId] == "" {
				vpcs[g.LoadBalancerId] = b.VpcId
			}
			if b.VpcId != vpcs[g.LoadBalancerId] {
				t.Fatalf("load balancer %s has backends in VPCs %s and %s", g.LoadBalancerId, b.VpcId, vpcs[g.LoadBalancerId])
			}
		}
	}
	for id, h := range held {
		if len(h) > limits.BackendsPerLoadBalancer {
			t.Fatalf("load balancer %s has %d backends", id, len(h))
		}
	}
	ports, running := map[string]map[string]bool{}, map[string]state.Listener{}
	for _, l := range m.clbListeners() {
		if g := groups[l.VServerGroupId]; g.LoadBalancerId != l.LoadBalancerId {
			t.Fatalf("listener %s of group %+v", l.ListenerId, g)
		}
		keys := map[string]bool{}
		for _, b := range groups[l.VServerGroupId].BackendServers {
			keys[b.Key()] = true
		}
		for key := range l.Verdicts {
			if !keys[key] {
				t.Fatalf("listener %s has a verdict on %s, which is not in its group", l.ListenerId, key)
			}
		}
		_, at, _ := strings.Cut(strings.Replace(l.ListenerId, "/http/", "/tcp/", 1), "/")
		if ports[l.LoadBalancerId] == nil {
			ports[l.LoadBalancerId] = map[string]bool{}
		}
		if ports[l.LoadBalancerId][at] || len(ports[l.LoadBalancerId]) == limits.ListenersPerLoadBalancer {
			t.Fatalf("load balancer %s has %v and %s", l.LoadBalancerId, ports[l.LoadBalancerId], at)
		}
		ports[l.LoadBalancerId][at] = true
		if l.Status == state.ListenerRunning && balancers[l.LoadBalancerId].LoadBalancerStatus == state.LoadBalancerActive {
			running[l.ListenerId] = l
		}
	}
	for _, b := range m.View().Balancers {
		if b.Product != state.ProductCLB {
			continue
		}
		if b.Addresses[0].Address != balancers[b.LoadBalancerId].Address || b.VpcId != vpcs[b.LoadBalancerId] {
			t.Fatalf("a data plane sees %+v of %+v", b, balancers[b.LoadBalancerId])
		}
		for _, l := range b.Listeners {
			want, ok := running[l.ListenerId]
			if delete(running, l.ListenerId); !ok || len(l.Backends) != len(groups[want.VServerGroupId].BackendServers) {
				t.Fatalf("a data plane sees %+v of %+v", l, want)
			}
			acl := state.AccessControlList{}
			if want.AclStatus == "on" {
				acl = *must(m.DescribeAccessControlListAttribute(state.AccessControlListRequest{AclId: want.AclId}))
			}
			if (l.AccessList == nil) != (len(acl.AclEntrys) == 0) || l.AccessList != nil && len(l.AccessList.CIDRs) != len(acl.AclEntrys) {
				t.Fatalf("a data plane sees %+v of %+v with %+v", l, want, acl)
			}
			for _, x := range l.Backends {
				if x.BackendVerdict != want.Verdicts[x.Key] {
					t.Fatalf("a data plane sees %+v of %+v", x, want)
				}
			}
		}
	}
	if len(running) > 0 {
		t.Fatalf("no data plane sees %v", running)
	}
}
