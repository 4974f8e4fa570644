package state_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"terway.dev/terway/internal/vpcsim/state"
)

func (w *world) loadBalancer(change ...func(*state.CreateLoadBalancerRequest)) *state.LoadBalancer {
	req := state.CreateLoadBalancerRequest{AddressType: state.AddressIntranet, VSwitchId: w.vsw}
	for _, f := range change {
		f(&req)
	}
	return must(w.CreateLoadBalancer(req))
}

func (w *world) getLoadBalancer(id string) *state.LoadBalancer {
	return must(w.DescribeLoadBalancerAttribute(state.LoadBalancerRequest{LoadBalancerId: id}))
}

func (w *world) serverGroup(lb string) string {
	return must(w.CreateVServerGroup(state.CreateVServerGroupRequest{LoadBalancerId: lb, VServerGroupName: "g"})).VServerGroupId
}

// backend is the address of an ENI as a backend.
func backend(eni *state.NetworkInterface, i, port int) state.BackendServerItem {
	return state.BackendServerItem{ServerId: eni.NetworkInterfaceId, ServerIp: eni.PrivateIpAddresses[i].String(), Port: port, Type: state.ServerENI}
}

func (w *world) addBackends(group string, items ...state.BackendServerItem) error {
	return errOf(w.AddVServerGroupBackendServers(state.VServerGroupBackendServersRequest{VServerGroupId: group, BackendServers: items}))
}

func (w *world) servers(group string) []state.BackendServer {
	return must(w.DescribeVServerGroupAttribute(state.VServerGroupRequest{VServerGroupId: group})).BackendServers
}

// tcp creates a TCP listener that runs.
func (w *world) tcp(lb, group string, port int) state.ListenerRequest {
	check(w.CreateLoadBalancerTCPListener(state.ListenerSettingsRequest{LoadBalancerId: lb, ListenerPort: port, VServerGroupId: &group}))
	named := state.ListenerRequest{LoadBalancerId: lb, ListenerPort: port, ListenerProtocol: "tcp"}
	check(w.StartLoadBalancerListener(named))
	w.settle()
	return named
}

func withAddresses(n int) func(*state.CreateNetworkInterfaceRequest) {
	return func(r *state.CreateNetworkInterfaceRequest) { r.SecondaryPrivateIpAddressCount = n }
}

// A load balancer has an address of its vSwitch as long as it exists, which no ENI gets.
func TestLoadBalancerAddress(t *testing.T) {
	w := newWorld(t)
	free := w.available(w.vsw)
	lb := w.loadBalancer(func(r *state.CreateLoadBalancerRequest) { r.Address = "192.168.1.7" })
	if lb.Address.String() != "192.168.1.7" || lb.VpcId != w.vpc || lb.LoadBalancerStatus != "active" || lb.NetworkType() != "vpc" || lb.MasterZoneId != zone || lb.SlaveZoneId == zone {
		t.Errorf("%+v", lb)
	}
	if now := w.available(w.vsw); now != free-1 {
		t.Errorf("%d addresses are free, want %d", now, free-1)
	}
	named := func(r *state.CreateNetworkInterfaceRequest) { r.PrimaryIpAddress = "192.168.1.7" }
	w.refused(403, "InvalidIp.IpRepeated", func() error {
		req := state.CreateNetworkInterfaceRequest{VSwitchId: w.vsw, SecurityGroupId: w.sg}
		named(&req)
		return errOf(w.CreateNetworkInterface(req))
	})
	w.refused(400, "InvalidParameter", func() error {
		return errOf(w.CreateLoadBalancer(state.CreateLoadBalancerRequest{AddressType: "intranet", VSwitchId: w.vsw, Address: "192.168.1.7"}))
	})
	w.refused(400, "DependencyViolation", func() error { return w.DeleteVSwitch(state.DeleteVSwitchRequest{VSwitchId: w.vsw}) })
	w.State = must(state.Load(options(w.clock), must(w.MarshalJSON())))
	check(w.CheckIndex())
	check(w.DeleteLoadBalancer(state.LoadBalancerRequest{LoadBalancerId: lb.LoadBalancerId}))
	if now := w.available(w.vsw); now != free {
		t.Errorf("%d addresses are free at the end, want %d", now, free)
	}
	w.eni(named)
}

func TestLoadBalancerRefusals(t *testing.T) {
	w := newWorld(t, func(o *state.Options) { o.Limits.LoadBalancers = 2 })
	create := func(code string, change func(*state.CreateLoadBalancerRequest)) {
		t.Helper()
		w.refused(400, code, func() error {
			req := state.CreateLoadBalancerRequest{AddressType: "intranet", VSwitchId: w.vsw}
			change(&req)
			return errOf(w.CreateLoadBalancer(req))
		})
	}
	create("VSwitchNotExist", func(r *state.CreateLoadBalancerRequest) { r.VSwitchId = "vsw-none" })
	create("MissingParam.VSwitchId", func(r *state.CreateLoadBalancerRequest) { r.VSwitchId = "" })
	create("InvalidVpcId.NotExist", func(r *state.CreateLoadBalancerRequest) { r.VpcId = "vpc-none" })
	create("InvalidParameter", func(r *state.CreateLoadBalancerRequest) { r.Address = "10.0.0.1" })
	create("InvalidParameter", func(r *state.CreateLoadBalancerRequest) { r.AddressType = "public" })
	create("InvalidParameter", func(r *state.CreateLoadBalancerRequest) { r.MasterZoneId = "cn-beijing-a" })
	create("ShareSlbHaltSales", func(r *state.CreateLoadBalancerRequest) { r.InstanceChargeType = "PayBySpec" })
	create("IllegalParam.InstanceChargeType", func(r *state.CreateLoadBalancerRequest) { r.InstanceChargeType = "Free" })
	create("InvalidParameter.Bandwidth", func(r *state.CreateLoadBalancerRequest) { r.InternetChargeType = "paybybandwidth" })
	create("InvalidParam.ModificationProtectionStatus", func(r *state.CreateLoadBalancerRequest) { r.ModificationProtectionStatus = "on" })
	create("RegionOrZonesNotSupportIpv6", func(r *state.CreateLoadBalancerRequest) { r.AddressIPVersion = "ipv6" })
	check(w.SetVSwitchFull(w.vsw, true))
	create("VSwitchAvailableIpNotExist", func(r *state.CreateLoadBalancerRequest) {})
	check(w.SetVSwitchFull(w.vsw, false))

	lb := w.loadBalancer(func(r *state.CreateLoadBalancerRequest) { r.DeleteProtection = "on" }).LoadBalancerId
	w.loadBalancer()
	create("OverQuota", func(r *state.CreateLoadBalancerRequest) {})
	w.refused(400, "OperationDenied.DeleteProtectionIsOn", func() error { return w.DeleteLoadBalancer(state.LoadBalancerRequest{LoadBalancerId: lb}) })
	w.refused(404, "InvalidLoadBalancerId.NotFound", func() error { return w.DeleteLoadBalancer(state.LoadBalancerRequest{LoadBalancerId: "lb-none"}) })
	w.refused(400, "OperationDenied.PayByCLCU", func() error {
		return w.ModifyLoadBalancerInstanceSpec(state.ModifyLoadBalancerInstanceSpecRequest{LoadBalancerId: lb, LoadBalancerSpec: "slb.s1.small"})
	})
	check(w.ModifyLoadBalancerInstanceChargeType(state.ModifyLoadBalancerInstanceChargeTypeRequest{LoadBalancerId: lb, InstanceChargeType: "PayBySpec", LoadBalancerSpec: "slb.s1.small"}))
	check(w.ModifyLoadBalancerInstanceSpec(state.ModifyLoadBalancerInstanceSpecRequest{LoadBalancerId: lb, LoadBalancerSpec: "slb.s2.small"}))
	check(w.ModifyLoadBalancerInternetSpec(state.ModifyLoadBalancerInternetSpecRequest{LoadBalancerId: lb, InternetChargeType: "paybybandwidth", Bandwidth: 7}))
	if got := w.getLoadBalancer(lb); got.LoadBalancerSpec != "slb.s2.small" || got.Bandwidth != 7 || got.InstanceChargeType != "PayBySpec" {
		t.Errorf("%+v", got)
	}
}

// A vSwitch without addresses is no reason for another token.
func TestLoadBalancerTokenWithAnotherVSwitch(t *testing.T) {
	w := newWorld(t)
	other := w.vSwitch("192.168.2.0/24")
	req := state.CreateLoadBalancerRequest{ClientToken: "t", AddressType: "intranet", VSwitchId: w.vsw}
	check(w.SetVSwitchFull(w.vsw, true))
	w.refused(400, "VSwitchAvailableIpNotExist", func() error { return errOf(w.CreateLoadBalancer(req)) })
	req.VSwitchId = other
	first := must(w.CreateLoadBalancer(req))
	req.VSwitchId = w.vsw
	if again := must(w.CreateLoadBalancer(req)); again.LoadBalancerId != first.LoadBalancerId || again.VSwitchId != other {
		t.Errorf("%+v, then %+v", first, again)
	}
	req.LoadBalancerName = "another"
	w.refused(400, "IdempotentParameterMismatch", func() error { return errOf(w.CreateLoadBalancer(req)) })
}

func TestPublicAddresses(t *testing.T) {
	w := newWorld(t, func(o *state.Options) { o.Limits.LoadBalancers = 1000 })
	public := func() (*state.LoadBalancer, error) {
		return w.CreateLoadBalancer(state.CreateLoadBalancerRequest{})
	}
	var all []*state.LoadBalancer
	for range 254 {
		all = append(all, must(public()))
	}
	if a, z := all[0].Address.String(), all[253].Address.String(); a != "198.51.100.1" || z != "198.51.100.254" || all[0].VpcId != "" || all[0].NetworkType() != "classic" {
		t.Errorf("from %s to %s: %+v", a, z, all[0])
	}
	w.refused(400, "OperationFailed.RegionResourceLimit", func() error { return errOf(public()) })
	check(w.DeleteLoadBalancer(state.LoadBalancerRequest{LoadBalancerId: all[9].LoadBalancerId}))
	o := options(w.clock)
	o.Limits.LoadBalancers = 1000
	w.State = must(state.Load(o, must(w.MarshalJSON())))
	if again := must(w.CreateLoadBalancer(state.CreateLoadBalancerRequest{Tag: []state.Tag{{"a", "b"}}})); again.Address != all[9].Address {
		t.Errorf("%s, want %s", again.Address, all[9].Address)
	}
	if got := must(w.DescribeLoadBalancers(state.DescribeLoadBalancersRequest{Tags: []state.TagFilter{{"a", "b"}}})); len(got) != 1 || got[0].Address != all[9].Address {
		t.Errorf("by tag: %+v", got)
	}
}

func TestBackends(t *testing.T) {
	w := newWorld(t, func(o *state.Options) { o.Limits.BackendsPerLoadBalancer = 4 })
	lb := w.loadBalancer().LoadBalancerId
	group, second := w.serverGroup(lb), w.serverGroup(lb)
	node := w.instance("ecs.g6.2xlarge")
	eni := w.attached(node, withAddresses(4))
	check(w.addBackends(group, backend(eni, 0, 80), backend(eni, 1, 80), state.BackendServerItem{ServerId: node, Port: 30080, Weight: ptr(7)}))
	got := w.servers(group)
	if len(got) != 3 || got[0].Weight != 100 || got[0].Type != "eni" || got[0].ServerIp != eni.PrivateIpAddresses[0] || got[0].VpcId != w.vpc ||
		got[2].Weight != 7 || got[2].Type != "ecs" || got[2].ServerIp != w.getInstance(node).PrimaryIpAddress {
		t.Errorf("%+v", got)
	}

	refuse := func(status int, code string, items ...state.BackendServerItem) {
		t.Helper()
		w.refused(status, code, func() error { return w.addBackends(group, items...) })
	}
	bad := func(change func(*state.BackendServerItem)) state.BackendServerItem {
		item := backend(eni, 2, 80)
		change(&item)
		return item
	}
	good := backend(eni, 2, 80)
	refuse(400, "MissingParameter")
	refuse(404, "ResourceNotFound.vServers", good, bad(func(b *state.BackendServerItem) { b.ServerId = "eni-none" }))
	refuse(400, "InvalidServerId.NotExist", bad(func(b *state.BackendServerItem) { b.ServerId, b.Type = "i-none", "" }))
	refuse(400, "InvalidParameter", bad(func(b *state.BackendServerItem) { b.ServerIp = "192.168.1.250" }))
	refuse(400, "InvalidParameter", bad(func(b *state.BackendServerItem) { b.Port = 0 }))
	refuse(400, "InvalidParameter", bad(func(b *state.BackendServerItem) { b.Weight = ptr(101) }))
	refuse(400, "BackendServer.InvalidType", bad(func(b *state.BackendServerItem) { b.Type = "eci" }))
	refuse(400, "InvalidParameter", good, good)
	refuse(400, "InvalidParameter", make([]state.BackendServerItem, 21)...)

	// Another port or group of the same address is no other address.
	check(w.addBackends(group, backend(eni, 0, 81)))
	check(w.addBackends(second, backend(eni, 1, 80), backend(eni, 2, 80)))
	w.refused(400, "InstanceBackendServerNumberOverLimit", func() error { return w.addBackends(second, backend(eni, 3, 80)) })

	// A member gets a new weight in two ways, and one that is not a member none.
	check(w.addBackends(second, state.BackendServerItem{ServerId: eni.NetworkInterfaceId, ServerIp: eni.PrivateIpAddresses[1].String(), Port: 80, Type: "eni", Weight: ptr(5)}))
	item := backend(eni, 2, 80)
	item.Weight = ptr(0)
	set := func(items ...state.BackendServerItem) error {
		return errOf(w.SetVServerGroupAttribute(state.SetVServerGroupAttributeRequest{VServerGroupId: second, BackendServers: items}))
	}
	check(set(item))
	if got := w.servers(second); len(got) != 2 || got[0].Weight != 5 || got[1].Weight != 0 {
		t.Errorf("%+v", got)
	}
	item.Port = 81
	w.refused(400, "InvalidParameter", func() error { return set(item) })

	// Replacing makes room first.
	check(errOf(w.ModifyVServerGroupBackendServers(state.ModifyVServerGroupBackendServersRequest{
		VServerGroupId: second, OldBackendServers: []state.BackendServerItem{backend(eni, 2, 80)}, NewBackendServers: []state.BackendServerItem{backend(eni, 3, 80)},
	})))
	// Removing one that is not a member is no error.
	after := must(w.RemoveVServerGroupBackendServers(state.VServerGroupBackendServersRequest{
		VServerGroupId: second, BackendServers: []state.BackendServerItem{backend(eni, 4, 80), backend(eni, 1, 80)},
	}))
	if len(after.BackendServers) != 1 || after.BackendServers[0].ServerIp != eni.PrivateIpAddresses[3] {
		t.Errorf("%+v", after.BackendServers)
	}

	// An unassigned address stays, a deleted ENI and a deleted instance do not.
	check(w.UnassignPrivateIpAddresses(state.UnassignPrivateIpAddressesRequest{NetworkInterfaceId: eni.NetworkInterfaceId, PrivateIpAddress: []string{eni.PrivateIpAddresses[3].String()}}))
	if got := w.servers(second); len(got) != 1 {
		t.Errorf("%+v", got)
	}
	check(w.DeleteInstances(state.DeleteInstancesRequest{InstanceId: []string{node}, Force: true}))
	w.settle()
	if a, b := w.servers(group), w.servers(second); len(a)+len(b) != 0 {
		t.Errorf("%+v, %+v", a, b)
	}
}

// All backends of a load balancer are in one VPC.
func TestBackendsOfAnotherVPC(t *testing.T) {
	w := newWorld(t)
	other := must(w.CreateVpc(state.CreateVpcRequest{CidrBlock: "10.0.0.0/16"}))
	w.settle()
	vsw := must(w.CreateVSwitch(state.CreateVSwitchRequest{VpcId: other.VpcId, ZoneId: zone, CidrBlock: "10.0.0.0/24"}))
	w.settle()
	sg := must(w.CreateSecurityGroup(state.CreateSecurityGroupRequest{VpcId: other.VpcId}))
	foreign := must(w.CreateNetworkInterface(state.CreateNetworkInterfaceRequest{VSwitchId: vsw, SecurityGroupId: sg}))
	w.settle()
	inside := w.serverGroup(w.loadBalancer().LoadBalancerId)
	w.refused(400, "NetworkConflict", func() error { return w.addBackends(inside, backend(foreign, 0, 80)) })
	public := w.loadBalancer(func(r *state.CreateLoadBalancerRequest) { r.AddressType = "internet" }).LoadBalancerId
	group := w.serverGroup(public)
	check(w.addBackends(group, backend(foreign, 0, 80)))
	mine := w.eni()
	w.refused(400, "NetworkConflict", func() error { return w.addBackends(group, backend(mine, 0, 80)) })
	for _, b := range w.View().Balancers {
		if want := map[bool]string{true: other.VpcId, false: w.vpc}[b.LoadBalancerId == public]; b.VpcId != want {
			t.Errorf("%+v, want VPC %s", b, want)
		}
	}
}

func TestListeners(t *testing.T) {
	w := newWorld(t, func(o *state.Options) {
		o.Limits.ListenersPerLoadBalancer = 3
		o.Timing.Listener = time.Second
	})
	lb := w.loadBalancer().LoadBalancerId
	group := w.serverGroup(lb)
	settings := func(port int) state.ListenerSettingsRequest {
		return state.ListenerSettingsRequest{LoadBalancerId: lb, ListenerPort: port, VServerGroupId: &group}
	}
	check(w.CreateLoadBalancerTCPListener(settings(80)))
	w.refused(400, "ListenerAlreadyExists", func() error { return w.CreateLoadBalancerTCPListener(settings(80)) })
	w.refused(400, "ListenerAlreadyExists", func() error { return w.CreateLoadBalancerHTTPListener(settings(80)) })
	check(w.CreateLoadBalancerUDPListener(settings(80)))
	check(w.CreateLoadBalancerHTTPListener(settings(81)))
	w.refused(400, "OverQuota", func() error { return w.CreateLoadBalancerTCPListener(settings(82)) })
	w.refused(400, "RspoolVipExist", func() error { return w.DeleteVServerGroup(state.VServerGroupRequest{VServerGroupId: group}) })

	status := func(protocol string, port int) string {
		return must(w.DescribeLoadBalancerListenerAttribute(state.ListenerRequest{LoadBalancerId: lb, ListenerPort: port, ListenerProtocol: protocol})).Status
	}
	on80 := state.ListenerRequest{LoadBalancerId: lb, ListenerPort: 80}
	w.refused(400, "TooManyListeners", func() error { return w.StartLoadBalancerListener(on80) })
	on80.ListenerProtocol = "TCP"
	if got := status("tcp", 80); got != "stopped" {
		t.Errorf("a new listener is %s", got)
	}
	check(w.StartLoadBalancerListener(on80))
	if got := status("tcp", 80); got != "starting" {
		t.Errorf("a listener that is started is %s", got)
	}
	w.settle()
	check(w.StartLoadBalancerListener(on80))
	if a, b := status("tcp", 80), status("udp", 80); a != "running" || b != "stopped" {
		t.Errorf("tcp is %s, udp %s", a, b)
	}
	if view := w.View().Balancers; len(view) != 1 || len(view[0].Listeners) != 1 || view[0].Listeners[0].ListenerId != lb+"/tcp/80" {
		t.Errorf("%+v", view)
	}
	check(w.StopLoadBalancerListener(on80))
	if got := status("tcp", 80); got != "stopping" || len(w.View().Balancers[0].Listeners) != 0 {
		t.Errorf("a listener that is stopped is %s", got)
	}
	check(w.StartLoadBalancerListener(on80)) // overtakes
	w.settle()
	if got := status("tcp", 80); got != "running" {
		t.Errorf("a listener that is stopped and started is %s", got)
	}
	check(w.SetLoadBalancerStatus(state.SetLoadBalancerStatusRequest{LoadBalancerId: lb, LoadBalancerStatus: "inactive"}))
	if view := w.View().Balancers; len(view) != 0 {
		t.Errorf("inactive: %+v", view)
	}
	w.refused(400, "InvalidParameter", func() error {
		return w.DeleteLoadBalancerListener(state.ListenerRequest{LoadBalancerId: lb, ListenerPort: 99})
	})
	check(w.DeleteLoadBalancerListener(on80))
	check(w.DeleteLoadBalancer(state.LoadBalancerRequest{LoadBalancerId: lb}))
	if left := must(w.DescribeLoadBalancerListeners(state.DescribeLoadBalancerListenersRequest{})); len(left) != 0 {
		t.Errorf("left: %+v", left)
	}
	w.refused(400, "InvalidParameter", func() error {
		return errOf(w.DescribeVServerGroupAttribute(state.VServerGroupRequest{VServerGroupId: group}))
	})
}

func TestListenerSettings(t *testing.T) {
	w := newWorld(t)
	lb := w.loadBalancer().LoadBalancerId
	group, foreign := w.serverGroup(lb), w.serverGroup(w.loadBalancer().LoadBalancerId)
	create := map[string]func(state.ListenerSettingsRequest) error{
		"tcp": w.CreateLoadBalancerTCPListener, "udp": w.CreateLoadBalancerUDPListener, "http": w.CreateLoadBalancerHTTPListener,
	}
	for _, c := range []struct {
		protocol, code string
		change         func(*state.ListenerSettingsRequest)
	}{
		{"tcp", "MissingParameter", func(r *state.ListenerSettingsRequest) { r.VServerGroupId = nil }},
		{"tcp", "InvalidParameter", func(r *state.ListenerSettingsRequest) { r.VServerGroupId = &foreign }},
		{"tcp", "InvalidParameter", func(r *state.ListenerSettingsRequest) { r.ListenerPort = 65536 }},
		{"tcp", "InvalidParameter", func(r *state.ListenerSettingsRequest) { r.Scheduler = ptr("random") }},
		{"http", "InvalidParameter", func(r *state.ListenerSettingsRequest) { r.Scheduler = ptr("sch") }},
		{"tcp", "InvalidParameter", func(r *state.ListenerSettingsRequest) { r.HealthyThreshold = ptr(1) }},
		{"tcp", "InvalidParameter", func(r *state.ListenerSettingsRequest) { r.EstablishedTimeout = ptr(901) }},
		{"tcp", "InvalidParameter", func(r *state.ListenerSettingsRequest) { r.HealthCheckURI = ptr("x") }},
		{"tcp", "InvalidParameter", func(r *state.ListenerSettingsRequest) { r.HealthCheckHttpCode = ptr("http_2xx,200") }},
		{"udp", "InvalidParameter", func(r *state.ListenerSettingsRequest) { r.HealthCheckType = ptr("tcp") }},
		{"udp", "InvalidParameter", func(r *state.ListenerSettingsRequest) {
			r.ConnectionDrain, r.ConnectionDrainTimeout = ptr("on"), ptr(5)
		}},
		{"http", "MissingParameter", func(r *state.ListenerSettingsRequest) { r.StickySession = ptr("on") }},
		{"http", "MissingParameter", func(r *state.ListenerSettingsRequest) {
			r.StickySession, r.StickySessionType = ptr("on"), ptr("insert")
		}},
		{"http", "MissingParameter", func(r *state.ListenerSettingsRequest) {
			r.StickySession, r.StickySessionType = ptr("on"), ptr("server")
		}},
		{"http", "UnsupportedParameter", func(r *state.ListenerSettingsRequest) { r.ListenerForward = ptr("on") }},
		{"tcp", "MissingParameter", func(r *state.ListenerSettingsRequest) { r.AclStatus = ptr("on") }},
		{"tcp", "AclNotExist", func(r *state.ListenerSettingsRequest) {
			r.AclStatus, r.AclType, r.AclId = ptr("on"), ptr("white"), ptr("acl-1")
		}},
		{"tcp", "UnsupportedParameter", func(r *state.ListenerSettingsRequest) { r.ProxyProtocolV2Enabled = ptr(true) }},
		{"tcp", "UnsupportedParameter", func(r *state.ListenerSettingsRequest) { r.PortRange = make([]state.ListenerPortRange, 1) }},
		{"tcp", "UnsupportedParameter", func(r *state.ListenerSettingsRequest) { r.MasterSlaveServerGroupId = "rsp-1" }},
	} {
		req := state.ListenerSettingsRequest{LoadBalancerId: lb, ListenerPort: 80, VServerGroupId: &group}
		c.change(&req)
		w.refused(400, c.code, func() error { return create[c.protocol](req) })
	}

	// What a data plane gets of all settings; those that are not set again stay.
	check(w.CreateLoadBalancerTCPListener(state.ListenerSettingsRequest{
		LoadBalancerId: lb, ListenerPort: 80, VServerGroupId: &group, Scheduler: ptr("sch"), PersistenceTimeout: ptr(60),
		HealthCheckType: ptr("http"), HealthCheckURI: ptr("/healthz"), HealthCheckDomain: ptr("$_ip"), HealthCheckConnectPort: ptr(8080), HealthCheckConnectTimeout: ptr(3),
		AclStatus: ptr("off"), ListenerForward: ptr("off"), ProxyProtocolV2Enabled: ptr(false),
	}))
	check(w.SetLoadBalancerTCPListenerAttribute(state.ListenerSettingsRequest{
		LoadBalancerId: lb, ListenerPort: 80, VServerGroup: "on", ConnectionDrain: ptr("on"), ConnectionDrainTimeout: ptr(30), EstablishedTimeout: ptr(100), HealthCheckInterval: ptr(4),
	}))
	check(w.CreateLoadBalancerUDPListener(state.ListenerSettingsRequest{
		LoadBalancerId: lb, ListenerPort: 53, VServerGroupId: &group, HealthCheckReq: ptr("ping"), HealthCheckExp: ptr("pong"),
	}))
	check(w.CreateLoadBalancerHTTPListener(state.ListenerSettingsRequest{
		LoadBalancerId: lb, ListenerPort: 8080, VServerGroupId: &group, StickySession: ptr("on"), StickySessionType: ptr("insert"), CookieTimeout: ptr(9),
		XForwardedForProto: ptr("on"), XForwardedForSLBIP: ptr("on"), IdleTimeout: ptr(20),
	}))
	for _, l := range must(w.DescribeLoadBalancerListeners(state.DescribeLoadBalancerListenersRequest{LoadBalancerId: []string{lb}})) {
		check(w.StartLoadBalancerListener(state.ListenerRequest{LoadBalancerId: lb, ListenerPort: l.ListenerPort}))
	}
	w.settle()
	i := slices.IndexFunc(w.View().Balancers, func(b state.Balancer) bool { return b.LoadBalancerId == lb })
	got := ""
	for _, l := range w.View().Balancers[i].Listeners {
		got += fmt.Sprintf("%s %d %s %s %s %s %v", l.Protocol, l.Port, l.Scheduler, l.Persistence, l.EstablishedTimeout, l.ConnectionDrain, l.PreserveClientIP)
		if l.HealthCheck != nil {
			got += fmt.Sprintf(" %+v", *l.HealthCheck)
		}
		if l.HTTP != nil {
			got += fmt.Sprintf(" %+v", *l.HTTP)
		}
		got += "\n"
	}
	want := `UDP 53 wrr 0s 0s 0s true {Type:udp Port:0 Interval:2s Timeout:5s Healthy:3 Unhealthy:3 Method: Domain: URI: Codes:[] Request:ping Expect:pong}
TCP 80 sch 1m0s 1m40s 30s true {Type:http Port:8080 Interval:4s Timeout:3s Healthy:3 Unhealthy:3 Method:HEAD Domain: URI:/healthz Codes:[http_2xx] Request: Expect:}
HTTP 8080 wrr 0s 0s 0s false {RequestTimeout:1m0s IdleTimeout:20s StickySession:insert CookieTimeout:9s Cookie: ForwardedProto:true ForwardedPort:false ForwardedClientPort:false ForwardedAddress:true ForwardedID:false}
`
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestAccessControlLists(t *testing.T) {
	w := newWorld(t, func(o *state.Options) { o.Limits.AccessControlLists, o.Limits.EntriesPerAccessControlList = 2, 3 })
	create := func(name string) (string, error) {
		return w.CreateAccessControlList(state.CreateAccessControlListRequest{AclName: name})
	}
	acl := must(create("a"))
	w.refused(400, "AclNameExist", func() error { return errOf(create("a")) })
	w.refused(400, "MissingParameter", func() error { return errOf(create("")) })
	unused := must(create("b"))
	w.refused(400, "AclNumberOverLimit", func() error { return errOf(create("c")) })
	check(w.DeleteAccessControlList(state.AccessControlListRequest{AclId: unused}))
	w.refused(400, "AclNotExist", func() error { return w.DeleteAccessControlList(state.AccessControlListRequest{AclId: unused}) })

	lb := w.loadBalancer().LoadBalancerId
	group := w.serverGroup(lb)
	w.tcp(lb, group, 80)
	access := func(status, kind string) {
		check(w.SetLoadBalancerTCPListenerAttribute(state.ListenerSettingsRequest{LoadBalancerId: lb, ListenerPort: 80, AclStatus: &status, AclType: &kind, AclId: &acl}))
	}
	want := func(want string) {
		t.Helper()
		got := "all"
		if l := w.View().Balancers[0].Listeners[0].AccessList; l != nil {
			got = fmt.Sprint(*l)
		}
		if got != want {
			t.Errorf("a data plane serves %s, want %s", got, want)
		}
	}
	entries := func(texts ...string) state.AccessControlListEntryRequest {
		r := state.AccessControlListEntryRequest{AclId: acl}
		for _, e := range texts {
			r.AclEntrys = append(r.AclEntrys, state.AclEntryItem{Entry: e, Comment: "c"})
		}
		return r
	}
	access("on", "white")
	want("all") // a list without entries
	before := w.Revision()
	check(w.AddAccessControlListEntry(entries("10.0.0.0/8", "192.168.1.7")))
	want("{true [10.0.0.0/8 192.168.1.7/32]}")
	if w.Revision() == before {
		t.Error("new entries are no change")
	}
	check(w.AddAccessControlListEntry(entries("192.168.1.7/32"))) // no other one
	w.refused(400, "AclEntryNumberOverLimit", func() error { return w.AddAccessControlListEntry(entries("1.0.0.0/8", "2.0.0.0/8")) })
	w.refused(400, "AclEntryEmpty", func() error { return w.AddAccessControlListEntry(entries()) })
	w.refused(400, "InvalidParameter", func() error { return w.AddAccessControlListEntry(entries("10.0.0.1/8")) })
	w.refused(400, "InvalidParameter", func() error { return w.AddAccessControlListEntry(entries("::1")) })
	access("on", "black")
	check(w.RemoveAccessControlListEntry(entries("10.0.0.0/8", "1.0.0.0/8")))
	want("{false [192.168.1.7/32]}")
	w.State = must(state.Load(options(w.clock), must(w.MarshalJSON())))
	want("{false [192.168.1.7/32]}")
	w.refused(400, "AclInUsed", func() error { return w.DeleteAccessControlList(state.AccessControlListRequest{AclId: acl}) })
	if got := must(w.DescribeAccessControlListAttribute(state.AccessControlListRequest{AclId: acl})); len(got.AclEntrys) != 1 || len(got.RelatedListeners) != 1 || got.RelatedListeners[0].AclType != "black" {
		t.Errorf("%+v", got)
	}
	access("off", "")
	want("all")
	check(w.DeleteAccessControlList(state.AccessControlListRequest{AclId: acl}))
}

// A verdict lasts as long as the backend is in the group and the listener runs.
func TestHealth(t *testing.T) {
	w := newWorld(t)
	lb := w.loadBalancer().LoadBalancerId
	group := w.serverGroup(lb)
	eni := w.eni(withAddresses(1))
	check(w.addBackends(group, backend(eni, 0, 80), backend(eni, 1, 80)))
	named := w.tcp(lb, group, 80)
	health := func() string {
		got := ""
		for _, b := range must(w.DescribeHealthStatus(state.DescribeHealthStatusRequest{LoadBalancerId: lb})) {
			got += b.ServerHealthStatus + " "
		}
		return got
	}
	want := func(want string) {
		t.Helper()
		if got := health(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	backends := w.View().Balancers[0].Listeners[0].Backends
	report := func(i int, h state.Health) {
		w.ReportHealth([]state.BackendHealth{{ListenerId: lb + "/tcp/80", Key: backends[i].Key, BackendVerdict: state.BackendVerdict{Health: h}}})
	}
	want("unavailable unavailable ")
	report(0, state.Healthy)
	report(1, state.Unhealthy)
	want("normal abnormal ")
	l := w.View().Balancers[0].Listeners[0]
	if !l.Takes(&l.Backends[0]) || l.Takes(&l.Backends[1]) {
		t.Errorf("%+v", l.Backends)
	}
	// What is no news, and what is about nothing, changes nothing.
	before := w.Revision()
	report(0, state.Healthy)
	w.ReportHealth([]state.BackendHealth{
		{ListenerId: "lb-none/tcp/80", Key: backends[0].Key, BackendVerdict: state.BackendVerdict{Health: state.Unhealthy}},
		{ListenerId: lb + "/tcp/80", Key: "eni-none/1.1.1.1:1", BackendVerdict: state.BackendVerdict{Health: state.Unhealthy}},
	})
	if w.Revision() != before {
		t.Error("old news are a change")
	}
	w.State = must(state.Load(options(w.clock), must(w.MarshalJSON())))
	want("normal abnormal ")

	one := state.VServerGroupBackendServersRequest{VServerGroupId: group, BackendServers: []state.BackendServerItem{backend(eni, 0, 80)}}
	must(w.RemoveVServerGroupBackendServers(one))
	must(w.AddVServerGroupBackendServers(one))
	want("abnormal unavailable ")
	check(w.SetLoadBalancerTCPListenerAttribute(state.ListenerSettingsRequest{LoadBalancerId: lb, ListenerPort: 80, HealthCheckSwitch: ptr("off")}))
	want("unavailable unavailable ")
	if l := w.View().Balancers[0].Listeners[0]; !l.Takes(&l.Backends[0]) {
		t.Errorf("without checks: %+v", l)
	}
	check(w.SetLoadBalancerTCPListenerAttribute(state.ListenerSettingsRequest{LoadBalancerId: lb, ListenerPort: 80, HealthCheckSwitch: ptr("on")}))
	check(w.StopLoadBalancerListener(named))
	w.settle()
	check(w.StartLoadBalancerListener(named))
	w.settle()
	want("unavailable unavailable ")

	assuming := options(w.clock)
	assuming.AssumeHealthy = true
	w.State = must(state.Load(assuming, must(w.MarshalJSON())))
	want("normal normal ")
	report(0, state.Unhealthy) // the second one since it was removed and added
	want("normal abnormal ")
}
