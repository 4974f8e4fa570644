package state_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"terway.dev/terway/internal/vpcsim/state"
)

// nlbWorld is a world with a second zone, an ENI with three addresses on an instance, and a load
// balancer with a server group.
type nlbWorld struct {
	*world
	other string // a vSwitch in another zone
	eni   *state.NetworkInterface
	nlb   string
	group string
}

func newNLBWorld(t *testing.T, change ...func(*state.Options)) *nlbWorld {
	t.Helper()
	w := &nlbWorld{world: newWorld(t, change...)}
	w.other = must(w.CreateVSwitch(state.CreateVSwitchRequest{VpcId: w.vpc, ZoneId: "cn-hangzhou-h", CidrBlock: "192.168.2.0/24"}))
	w.settle()
	w.eni = w.attached(w.instance("ecs.g6.2xlarge"), func(r *state.CreateNetworkInterfaceRequest) { r.SecondaryPrivateIpAddressCount = 2 })
	w.nlb = must(w.NLBCreateLoadBalancer(w.balancer()))
	w.group = must(w.NLBCreateServerGroup(w.serverGroup(func(r *state.NLBCreateServerGroupRequest) { r.Protocol = "TCP_UDP" }))).Id
	w.settle()
	return w
}

func (w *nlbWorld) balancer(change ...func(*state.NLBCreateLoadBalancerRequest)) state.NLBCreateLoadBalancerRequest {
	req := state.NLBCreateLoadBalancerRequest{
		LoadBalancerName: "web", AddressType: state.NLBIntranet, VpcId: w.vpc,
		ZoneMappings: []state.NLBZoneMappingRequest{{ZoneId: zone, VSwitchId: w.vsw}, {ZoneId: "cn-hangzhou-h", VSwitchId: w.other}},
	}
	for _, f := range change {
		f(&req)
	}
	return req
}

func (w *nlbWorld) serverGroup(change ...func(*state.NLBCreateServerGroupRequest)) state.NLBCreateServerGroupRequest {
	req := state.NLBCreateServerGroupRequest{VpcId: w.vpc}
	req.ServerGroupName = ptr("k8s.80.TCP.web.default.c1")
	for _, f := range change {
		f(&req)
	}
	return req
}

func (w *nlbWorld) listenerRequest(protocol string, port int, group string) state.NLBCreateListenerRequest {
	req := state.NLBCreateListenerRequest{LoadBalancerId: w.nlb, ListenerProtocol: protocol, ListenerPort: &port}
	req.ServerGroupId = &group
	return req
}

// listener creates a running listener.
func (w *nlbWorld) listener(protocol string, port int) string {
	made := must(w.NLBCreateListener(w.listenerRequest(protocol, port, w.group)))
	w.settle()
	return made.Id
}

func (w *nlbWorld) server(i, port int) state.NLBServerRequest {
	return state.NLBServerRequest{ServerId: w.eni.NetworkInterfaceId, ServerType: "Eni", ServerIp: w.eni.PrivateIpAddresses[i].String(), Port: port}
}

func (w *nlbWorld) servers(group string) []state.NLBServer {
	return must(w.NLBListServerGroupServers(state.NLBListServerGroupServersRequest{ServerGroupId: group}))
}

// change calls an action on servers.
func (w *nlbWorld) change(f func(state.NLBServersRequest) (string, error), servers ...state.NLBServerRequest) (string, error) {
	return f(state.NLBServersRequest{ServerGroupId: w.group, Servers: servers})
}

func (w *nlbWorld) get() *state.NLBLoadBalancer {
	return must(w.NLBGetLoadBalancerAttribute(state.NLBLoadBalancerRequest{LoadBalancerId: w.nlb}))
}

func (w *nlbWorld) job(id string) string { return must(w.NLBGetJobStatus(id)).Status }

// seen is the load balancer as a data plane sees it; nil if it does not.
func (w *nlbWorld) seen() *state.Balancer {
	for _, b := range w.View().Balancers {
		if b.LoadBalancerId == w.nlb {
			return &b
		}
	}
	return nil
}

// slowJobs makes each job take a second.
func slowJobs(o *state.Options) {
	o.Timing.NLBLoadBalancer, o.Timing.NLBListener, o.Timing.NLBServerGroup = time.Second, time.Second, time.Second
}

// A Service with two ports: load balancer, groups with servers, listeners, and their deletion.
func TestNLBLife(t *testing.T) {
	w := newNLBWorld(t)
	free, freeOther := w.available(w.vsw), w.available(w.other)
	b := w.get()
	if b.LoadBalancerStatus != state.NLBActive || len(b.ZoneMappings) != 2 || b.DNSName != w.nlb+".cn-hangzhou.nlb.aliyuncs.com" {
		t.Fatalf("load balancer %+v", b)
	}
	for i, z := range b.ZoneMappings {
		cidr := []string{"192.168.2.0/24", "192.168.1.0/24"}[i]
		if !netip.MustParsePrefix(cidr).Contains(z.PrivateIPv4Address) || z.PublicIPv4Address.IsValid() || z.Pending {
			t.Errorf("zone %+v, want an address of %s", z, cidr)
		}
	}
	check(errOf(w.change(w.NLBAddServersToServerGroup, w.server(1, 8080), w.server(2, 8080))))
	w.settle()
	tcp, udp := w.listener("TCP", 80), w.listener("UDP", 80)
	if !strings.HasSuffix(tcp, "@80") || tcp == udp {
		t.Errorf("listeners %s and %s", tcp, udp)
	}
	for _, l := range must(w.NLBListListeners(state.NLBListListenersRequest{LoadBalancerIds: []string{w.nlb}})) {
		if l.ListenerStatus != state.NLBListenerRunning || l.ServerGroupId != w.group || l.IdleTimeout != map[string]int{"TCP": 900, "UDP": 90}[l.ListenerProtocol] {
			t.Errorf("listener %+v", l)
		}
	}
	g := must(w.NLBListServerGroups(state.NLBListServerGroupsRequest{ServerGroupIds: []string{w.group}}))[0]
	if !slices.Equal(g.RelatedLoadBalancerIds, []string{w.nlb}) || len(g.Servers) != 2 {
		t.Errorf("server group %+v", g)
	}
	w.refused(400, "ResourceInUse.ServerGroup", func() error {
		return errOf(w.NLBDeleteServerGroup(state.NLBDeleteServerGroupRequest{ServerGroupId: w.group}))
	})
	// The deletion takes the listeners with it, then nothing uses the group.
	must(w.NLBDeleteLoadBalancer(state.NLBLoadBalancerRequest{LoadBalancerId: w.nlb}))
	w.settle()
	w.refused(404, "ResourceNotFound.loadBalancer", func() error {
		return errOf(w.NLBDeleteLoadBalancer(state.NLBLoadBalancerRequest{LoadBalancerId: w.nlb}))
	})
	if left := must(w.NLBListListeners(state.NLBListListenersRequest{})); len(left) != 0 {
		t.Errorf("left listeners %+v", left)
	}
	must(w.NLBDeleteServerGroup(state.NLBDeleteServerGroupRequest{ServerGroupId: w.group}))
	w.settle()
	if left := must(w.NLBListServerGroups(state.NLBListServerGroupsRequest{})); len(left) != 0 {
		t.Errorf("left groups %+v", left)
	}
	if w.available(w.vsw) != free+1 || w.available(w.other) != freeOther+1 {
		t.Errorf("%d and %d addresses free, want %d and %d", w.available(w.vsw), w.available(w.other), free+1, freeOther+1)
	}
}

// Each change takes its time, during which the resource says so and refuses another change, and
// the data plane has what it had before.
func TestNLBJobs(t *testing.T) {
	w := newNLBWorld(t, slowJobs)
	tick := func() {
		w.clock.now = w.clock.now.Add(time.Second)
		w.Tick(w.clock.now)
	}
	listener := must(w.NLBCreateListener(w.listenerRequest("TCP", 80, w.group)))
	get := func() *state.NLBListener {
		return must(w.NLBGetListenerAttribute(state.NLBListenerRequest{ListenerId: listener.Id}))
	}
	if got := get().ListenerStatus; got != state.NLBListenerProvisioning || w.job(listener.JobId) != state.NLBJobProcessing || len(w.seen().Listeners) != 0 {
		t.Errorf("a new listener is %s, its job %s, the data plane has %+v", got, w.job(listener.JobId), w.seen().Listeners)
	}
	// Jobs on other resources run beside it; deleting the load balancer would be about the listener.
	w.refused(400, "Conflict.Lock", func() error {
		return errOf(w.NLBDeleteLoadBalancer(state.NLBLoadBalancerRequest{LoadBalancerId: w.nlb}))
	})
	w.refused(400, "Conflict.Lock", func() error { return errOf(w.NLBDeleteListener(state.NLBListenerRequest{ListenerId: listener.Id})) })
	added := must(w.change(w.NLBAddServersToServerGroup, w.server(1, 8080), w.server(2, 8080)))
	w.refused(400, "Conflict.Lock", func() error { return errOf(w.change(w.NLBAddServersToServerGroup, w.server(0, 8080))) })
	if got := w.servers(w.group); len(got) != 2 || got[0].Status != state.NLBServerAdding || w.job(added) != state.NLBJobProcessing {
		t.Errorf("servers that are being added: %+v, job %s", got, w.job(added))
	}
	tick()
	if got := get().ListenerStatus; got != state.NLBListenerRunning || w.job(listener.JobId) != state.NLBJobSucceeded || w.job(added) != state.NLBJobSucceeded {
		t.Errorf("a second later the listener is %s, the jobs %s and %s", got, w.job(listener.JobId), w.job(added))
	}
	backends := func() string {
		text := ""
		for _, b := range w.seen().Listeners[0].Backends {
			text += fmt.Sprint(b.Address, ":", b.Port, "=", b.Weight, " ")
		}
		return text
	}
	first, second := w.eni.PrivateIpAddresses[1], w.eni.PrivateIpAddresses[2]
	want := fmt.Sprint(first, ":8080=100 ", second, ":8080=100 ")
	if second.Less(first) {
		want = fmt.Sprint(second, ":8080=100 ", first, ":8080=100 ")
	}
	if got := backends(); got != want {
		t.Errorf("backends %s, want %s", got, want)
	}

	// A weight changes at the end.
	zero := w.server(1, 8080)
	zero.Weight = ptr(0)
	must(w.change(w.NLBUpdateServerGroupServersAttribute, zero))
	if got := backends(); got != want {
		t.Errorf("while a weight changes: backends %s, want %s", got, want)
	}
	tick()
	drained := strings.Replace(want, first.String()+":8080=100", first.String()+":8080=0", 1)
	if got := backends(); got != drained {
		t.Errorf("with a changed weight: backends %s, want %s", got, drained)
	}

	// A server that is being removed is in the list, and gets no connection.
	must(w.change(w.NLBRemoveServersFromServerGroup, zero))
	if got := w.servers(w.group); len(got) != 2 || strings.Contains(backends(), first.String()+":") {
		t.Errorf("servers %+v, backends %s", got, backends())
	}
	tick()
	if got := w.servers(w.group); len(got) != 1 || got[0].ServerIp != second {
		t.Errorf("left servers %+v", got)
	}
	w.refused(404, "ResourceNotFound.BackendServer", func() error { return errOf(w.change(w.NLBRemoveServersFromServerGroup, zero)) })

	// A listener serves until it is stopped.
	must(w.NLBStopListener(state.NLBListenerRequest{ListenerId: listener.Id}))
	if got := get().ListenerStatus; got != state.NLBListenerStopping || len(w.seen().Listeners) != 1 {
		t.Errorf("a listener that stops is %s, the data plane has %+v", got, w.seen().Listeners)
	}
	tick()
	if got := get().ListenerStatus; got != state.NLBListenerStopped || len(w.seen().Listeners) != 0 {
		t.Errorf("a stopped listener is %s, the data plane has %+v", got, w.seen().Listeners)
	}
	w.refused(400, "IncorrectStatus.listener", func() error { return errOf(w.NLBStopListener(state.NLBListenerRequest{ListenerId: listener.Id})) })

	// Jobs that have ended are forgotten after a while, and a list leaves out what is not there.
	w.clock.now = w.clock.now.Add(time.Hour)
	update := state.NLBUpdateLoadBalancerAttributeRequest{LoadBalancerId: w.nlb, LoadBalancerName: ptr("new-name")}
	last := must(w.NLBUpdateLoadBalancerAttribute(update))
	if got := w.get(); got.LoadBalancerStatus != state.NLBConfiguring || got.LoadBalancerName != "web" {
		t.Errorf("a load balancer that changes: %+v", got)
	}
	w.refused(400, "Conflict.Lock", func() error { return errOf(w.NLBUpdateLoadBalancerAttribute(update)) })
	tick()
	if got := w.get(); got.LoadBalancerStatus != state.NLBActive || got.LoadBalancerName != "new-name" {
		t.Errorf("a load balancer that has changed: %+v", got)
	}
	if jobs := must(w.NLBListAsynJobs(state.NLBJobsRequest{JobIds: []string{added, last}})); len(jobs) != 1 || jobs[0].JobId != last || jobs[0].Status != state.NLBJobSucceeded {
		t.Errorf("jobs %+v, want only %s", jobs, last)
	}
	w.refused(404, "ResourceNotFound.JobId", func() error { return errOf(w.NLBGetJobStatus(added)) })
	w.refused(400, "IllegalParam.JobIds", func() error {
		return errOf(w.NLBListAsynJobs(state.NLBJobsRequest{JobIds: make([]string, 21)}))
	})
}

// A job that fails leaves what there was, and one that is stuck ends when it may.
func TestNLBJobsThatFail(t *testing.T) {
	w := newNLBWorld(t)
	listener := w.listener("TCP", 80)
	check(errOf(w.change(w.NLBAddServersToServerGroup, w.server(1, 8080))))
	w.settle()
	look := func() string {
		return string(must(json.Marshal([]any{
			w.get(), must(w.NLBListListeners(state.NLBListListenersRequest{})), must(w.NLBListServerGroups(state.NLBListServerGroupsRequest{})),
			w.available(w.vsw), w.seen(),
		})))
	}
	before := look()
	w.SetFailingJobs(true)
	zero := w.server(1, 8080)
	zero.Weight = ptr(0)
	name := state.NLBServerGroupAttributes{ServerGroupName: ptr("other"), ConnectionDrainEnabled: ptr(true)}
	third := must(w.CreateVSwitch(state.CreateVSwitchRequest{VpcId: w.vpc, ZoneId: "cn-hangzhou-g", CidrBlock: "192.168.3.0/24"}))
	w.settle()
	for what, act := range map[string]func() (string, error){
		"add":    func() (string, error) { return w.change(w.NLBAddServersToServerGroup, w.server(2, 8080)) },
		"weight": func() (string, error) { return w.change(w.NLBUpdateServerGroupServersAttribute, zero) },
		"remove": func() (string, error) { return w.change(w.NLBRemoveServersFromServerGroup, zero) },
		"group": func() (string, error) {
			return w.NLBUpdateServerGroupAttribute(state.NLBUpdateServerGroupAttributeRequest{ServerGroupId: w.group, NLBServerGroupAttributes: name})
		},
		"create listener": func() (string, error) {
			made, err := w.NLBCreateListener(w.listenerRequest("TCP", 81, w.group))
			return made.JobId, err
		},
		"stop":            func() (string, error) { return w.NLBStopListener(state.NLBListenerRequest{ListenerId: listener}) },
		"delete listener": func() (string, error) { return w.NLBDeleteListener(state.NLBListenerRequest{ListenerId: listener}) },
		"delete": func() (string, error) {
			return w.NLBDeleteLoadBalancer(state.NLBLoadBalancerRequest{LoadBalancerId: w.nlb})
		},
		"type": func() (string, error) {
			return w.NLBUpdateLoadBalancerAddressTypeConfig(state.NLBUpdateLoadBalancerZonesRequest{LoadBalancerId: w.nlb, AddressType: state.NLBInternet})
		},
		"zones": func() (string, error) {
			return w.NLBUpdateLoadBalancerZones(state.NLBUpdateLoadBalancerZonesRequest{LoadBalancerId: w.nlb, ZoneMappings: []state.NLBZoneMappingRequest{
				{ZoneId: zone, VSwitchId: w.vsw}, {ZoneId: "cn-hangzhou-g", VSwitchId: third},
			}})
		},
		"groups": func() (string, error) {
			return w.NLBLoadBalancerJoinSecurityGroup(state.NLBSecurityGroupsRequest{LoadBalancerId: w.nlb, SecurityGroupIds: []string{w.sg}})
		},
		"create": func() (string, error) {
			id := must(w.NLBCreateLoadBalancer(w.balancer()))
			w.settle()
			if _, err := w.NLBGetLoadBalancerAttribute(state.NLBLoadBalancerRequest{LoadBalancerId: id}); err == nil {
				return "", fmt.Errorf("%s is there", id)
			}
			return must(w.NLBUpdateLoadBalancerAttribute(state.NLBUpdateLoadBalancerAttributeRequest{LoadBalancerId: w.nlb})), nil
		},
	} {
		id, err := act()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		w.settle()
		if w.job(id) != state.NLBJobFailed {
			t.Errorf("%s: the job is %s", what, w.job(id))
		}
		if after := look(); after != before {
			t.Errorf("%s: failed, and yet changed:\n%s\n%s", what, before, after)
		}
	}
	if got := w.available(third); got != 252 {
		t.Errorf("%d addresses free in the vSwitch that was not added, want 252", got)
	}
	w.SetFailingJobs(false)

	w.SetStuckJobs(true)
	id := must(w.change(w.NLBRemoveServersFromServerGroup, zero))
	w.settle()
	if w.job(id) != state.NLBJobProcessing {
		t.Errorf("a stuck job is %s", w.job(id))
	}
	w.SetStuckJobs(false)
	w.settle()
	if w.job(id) != state.NLBJobSucceeded || len(w.servers(w.group)) != 0 {
		t.Errorf("the job is %s, servers %+v", w.job(id), w.servers(w.group))
	}
}

func TestNLBAddresses(t *testing.T) {
	w := newNLBWorld(t)
	third := must(w.CreateVSwitch(state.CreateVSwitchRequest{VpcId: w.vpc, ZoneId: "cn-hangzhou-g", CidrBlock: "192.168.3.0/24"}))
	w.settle()
	old := w.get().ZoneMappings
	zones := func(z ...state.NLBZoneMappingRequest) state.NLBUpdateLoadBalancerZonesRequest {
		return state.NLBUpdateLoadBalancerZonesRequest{LoadBalancerId: w.nlb, ZoneMappings: z}
	}
	i, h := state.NLBZoneMappingRequest{ZoneId: zone, VSwitchId: w.vsw}, state.NLBZoneMappingRequest{ZoneId: "cn-hangzhou-h", VSwitchId: w.other}
	g := state.NLBZoneMappingRequest{ZoneId: "cn-hangzhou-g", VSwitchId: third, PrivateIPv4Address: "192.168.3.77"}
	moved := i
	moved.PrivateIPv4Address = "192.168.1.200"
	elsewhere := i
	elsewhere.VSwitchId = w.vSwitch("192.168.4.0/24")
	taken := g
	taken.ZoneId, taken.VSwitchId, taken.PrivateIPv4Address = zone, w.vsw, w.eni.PrimaryIpAddress.String()
	for code, req := range map[string]state.NLBUpdateLoadBalancerZonesRequest{
		"InvalidZones":                                       zones(i),
		"OperationFailed.DuplicateZones.":                    zones(i, i),
		"Mismatch.ZoneIdAndVswitchId":                        zones(i, state.NLBZoneMappingRequest{ZoneId: "cn-hangzhou-g", VSwitchId: w.other}),
		"OperationDenied.ZoneVSwitchChanged":                 zones(elsewhere, h),
		"OperationDenied.ProtectedPrivateIPv4AddressChanged": zones(moved, h),
		"IllegalParam.AllocationId":                          zones(i, state.NLBZoneMappingRequest{ZoneId: "cn-hangzhou-g", VSwitchId: third, AllocationId: "eip-1"}),
		"UnsupportedParameter":                               zones(i, state.NLBZoneMappingRequest{ZoneId: "cn-hangzhou-g", VSwitchId: third, EipType: "Anycast"}),
	} {
		w.refused(400, code, func() error { return errOf(w.NLBUpdateLoadBalancerZones(req)) })
	}
	w.refused(404, "ResourceNotFound.VSwitch", func() error {
		return errOf(w.NLBUpdateLoadBalancerZones(zones(i, state.NLBZoneMappingRequest{ZoneId: "cn-hangzhou-g", VSwitchId: "vsw-none"})))
	})
	w.refused(400, "ResourceInUse.IP", func() error {
		return errOf(w.NLBCreateLoadBalancer(w.balancer(func(r *state.NLBCreateLoadBalancerRequest) { r.ZoneMappings[0] = taken })))
	})
	w.refused(400, "IllegalParam.PrivateIPv4Address", func() error {
		return errOf(w.NLBCreateLoadBalancer(w.balancer(func(r *state.NLBCreateLoadBalancerRequest) { r.ZoneMappings[0].PrivateIPv4Address = "10.9.9.9" })))
	})

	// A zone that stays keeps its address; one that goes gives it back.
	must(w.NLBUpdateLoadBalancerZones(zones(i, g)))
	w.refused(400, "DependencyViolation", func() error { return w.DeleteVSwitch(state.DeleteVSwitchRequest{VSwitchId: third}) })
	w.settle()
	now := w.get().ZoneMappings
	if len(now) != 2 || now[0].PrivateIPv4Address.String() != "192.168.3.77" || now[1] != old[1] {
		t.Errorf("zones %+v, before %+v", now, old)
	}
	if got := w.available(w.other); got != 252 {
		t.Errorf("%d addresses free in the zone that is gone, want 252", got)
	}
	// The address is the load balancer's: no ENI gets it.
	w.refused(403, "InvalidIp.IpRepeated", func() error {
		return errOf(w.CreateNetworkInterface(state.CreateNetworkInterfaceRequest{VSwitchId: third, SecurityGroupId: w.sg, PrimaryIpAddress: "192.168.3.77"}))
	})

	// Public addresses come with the type and go with it.
	internet := state.NLBUpdateLoadBalancerZonesRequest{LoadBalancerId: w.nlb, AddressType: state.NLBInternet}
	must(w.NLBUpdateLoadBalancerAddressTypeConfig(internet))
	w.settle()
	w.refused(400, "OperationDenied.AddressTypeNotChanged", func() error { return errOf(w.NLBUpdateLoadBalancerAddressTypeConfig(internet)) })
	public := map[netip.Addr]bool{}
	for _, a := range w.seen().Addresses {
		if a.Public {
			public[a.Address] = true
		}
	}
	other := must(w.NLBCreateLoadBalancer(w.balancer(func(r *state.NLBCreateLoadBalancerRequest) { r.AddressType = state.NLBInternet })))
	w.settle()
	for _, z := range must(w.NLBGetLoadBalancerAttribute(state.NLBLoadBalancerRequest{LoadBalancerId: other})).ZoneMappings {
		if public[z.PublicIPv4Address] {
			t.Errorf("two load balancers have %s", z.PublicIPv4Address)
		}
	}
	if len(public) != 2 || len(w.seen().Addresses) != 4 {
		t.Errorf("addresses %+v, want two private and two public ones", w.seen().Addresses)
	}
	must(w.NLBUpdateLoadBalancerAddressTypeConfig(state.NLBUpdateLoadBalancerZonesRequest{LoadBalancerId: w.nlb, AddressType: state.NLBIntranet}))
	w.settle()
	if got := w.seen().Addresses; len(got) != 2 {
		t.Errorf("addresses %+v, want two private ones", got)
	}
	// A full vSwitch.
	check(w.SetVSwitchFull(w.vsw, true))
	w.refused(400, "ResourceNotEnough.VSwitchIp", func() error { return errOf(w.NLBCreateLoadBalancer(w.balancer())) })
}

func TestNLBProtectionAndGroups(t *testing.T) {
	w := newNLBWorld(t)
	id := must(w.NLBCreateLoadBalancer(w.balancer(func(r *state.NLBCreateLoadBalancerRequest) {
		r.DeletionProtectionConfig.Enabled, r.DeletionProtectionConfig.Reason = true, "in use"
		r.ModificationProtectionConfig.Status = state.NLBConsoleProtection
		r.SecurityGroupIds = []string{w.sg}
		r.Tag = []state.Tag{{"ack.aliyun.com", "c1"}}
	})))
	w.refused(400, "ResourceInCreating.loadbalancer", func() error {
		return errOf(w.NLBDeleteLoadBalancer(state.NLBLoadBalancerRequest{LoadBalancerId: id}))
	})
	w.settle()
	w.nlb = id
	if b := w.get(); !b.DeletionProtectionEnabled || b.DeletionProtectionReason != "in use" || b.ModificationProtectionStatus != state.NLBConsoleProtection {
		t.Errorf("protections of %+v", b)
	}
	w.refused(400, "OperationDenied.DeletionProtectionEnabled", func() error {
		return errOf(w.NLBDeleteLoadBalancer(state.NLBLoadBalancerRequest{LoadBalancerId: id}))
	})
	check(w.NLBUpdateLoadBalancerProtection(state.NLBUpdateLoadBalancerProtectionRequest{LoadBalancerId: id, DeletionProtectionEnabled: ptr(false), ModificationProtectionStatus: state.NLBNonProtection}))
	if b := w.get(); b.DeletionProtectionEnabled || b.DeletionProtectionReason != "" || !b.DeletionProtectionTime.IsZero() || b.ModificationProtectionStatus != state.NLBNonProtection {
		t.Errorf("protections of %+v", b)
	}
	if got := w.seen().SecurityGroupIds; !slices.Equal(got, []string{w.sg}) {
		t.Errorf("security groups %v", got)
	}
	more := func(n int) (ids []string) {
		for range n {
			ids = append(ids, must(w.CreateSecurityGroup(state.CreateSecurityGroupRequest{VpcId: w.vpc})))
		}
		return ids
	}
	join := func(ids ...string) error {
		return errOf(w.NLBLoadBalancerJoinSecurityGroup(state.NLBSecurityGroupsRequest{LoadBalancerId: id, SecurityGroupIds: ids}))
	}
	five := more(5)
	w.refused(400, "QuotaExceeded.QuotaInsufficient", func() error { return join(five[:4]...) })
	w.refused(400, "Conflict.SecurityGroup", func() error { return join(w.sg) })
	enterprise := must(w.CreateSecurityGroup(state.CreateSecurityGroupRequest{VpcId: w.vpc, SecurityGroupType: "enterprise"}))
	w.refused(400, "Conflict.SecurityGroup", func() error { return join(enterprise) })
	w.refused(404, "ResourceNotFound.SecurityGroup", func() error { return join("sg-none") })
	check(join(five[0]))
	w.refused(403, "DependencyViolation", func() error { return w.DeleteSecurityGroup(state.DeleteSecurityGroupRequest{SecurityGroupId: five[0]}) })
	w.settle()
	leave := func(ids ...string) error {
		return errOf(w.NLBLoadBalancerLeaveSecurityGroup(state.NLBSecurityGroupsRequest{LoadBalancerId: id, SecurityGroupIds: ids}))
	}
	w.refused(404, "ResourceNotFound.SecurityGroup", func() error { return leave(five[1]) })
	check(leave(w.sg, five[0]))
	w.settle()
	if got := w.get().SecurityGroupIds; len(got) != 0 {
		t.Errorf("security groups %v", got)
	}
	check(w.DeleteSecurityGroup(state.DeleteSecurityGroupRequest{SecurityGroupId: five[0]}))

	// Tags, which a running job does not undo.
	lsn := w.listener("TCP", 80)
	must(w.NLBUpdateListenerAttribute(state.NLBUpdateListenerAttributeRequest{ListenerId: lsn}))
	must(w.NLBUpdateServerGroupAttribute(state.NLBUpdateServerGroupAttributeRequest{ServerGroupId: w.group}))
	for kind, id := range map[string]string{"nlb:listener": lsn, "nlb:servergroup": w.group} {
		check(w.TagResources(state.TagResourcesRequest{ResourceType: kind, ResourceId: []string{id}, Tag: []state.Tag{{"k", "v"}}}))
	}
	w.settle()
	if found := must(w.NLBListListeners(state.NLBListListenersRequest{Tag: []state.Tag{{"k", "v"}}})); len(found) != 1 {
		t.Errorf("listeners by tag: %+v", found)
	}
	if found := must(w.NLBListServerGroups(state.NLBListServerGroupsRequest{Tag: []state.Tag{{"k", "v"}}})); len(found) != 1 {
		t.Errorf("server groups by tag: %+v", found)
	}
	must(w.NLBUpdateLoadBalancerAttribute(state.NLBUpdateLoadBalancerAttributeRequest{LoadBalancerId: id, CrossZoneEnabled: ptr(false)}))
	check(w.TagResources(state.TagResourcesRequest{ResourceType: "nlb:loadbalancer", ResourceId: []string{id}, Tag: []state.Tag{{"k", "v"}}}))
	w.settle()
	for _, filter := range []state.Tag{{"k", "v"}, {"ack.aliyun.com", ""}} {
		if found := must(w.NLBListLoadBalancers(state.NLBListLoadBalancersRequest{Tag: []state.Tag{filter}})); len(found) != 1 || found[0].LoadBalancerId != id || found[0].CrossZoneEnabled {
			t.Errorf("by tag %v: %+v", filter, found)
		}
	}
}

func TestNLBServersThatAreRefused(t *testing.T) {
	w := newNLBWorld(t)
	check(errOf(w.change(w.NLBAddServersToServerGroup, w.server(1, 8080))))
	w.settle()
	w.listener("TCP", 80)
	loose := w.eni0()
	elsewhere := must(w.CreateVpc(state.CreateVpcRequest{}))
	w.settle()
	foreign := must(w.NLBCreateServerGroup(w.serverGroup(func(r *state.NLBCreateServerGroupRequest) { r.VpcId = elsewhere.VpcId }))).Id
	byIP := must(w.NLBCreateServerGroup(w.serverGroup(func(r *state.NLBCreateServerGroupRequest) { r.ServerGroupType = "Ip" }))).Id
	w.settle()
	with := func(r state.NLBServerRequest, change func(*state.NLBServerRequest)) state.NLBServerRequest {
		change(&r)
		return r
	}
	good := w.server(2, 8080)
	for _, x := range []struct {
		status  int
		code    string
		group   string
		servers []state.NLBServerRequest
	}{
		{404, "ResourceNotFound.serverGroup", "sgp-none", []state.NLBServerRequest{good}},
		{400, "MissingParam.Servers", w.group, nil},
		{400, "IllegalParam.Servers", w.group, slices.Repeat([]state.NLBServerRequest{good}, 201)},
		{400, "DuplicatedParam.Server", w.group, []state.NLBServerRequest{good, good}},
		{400, "DuplicatedParam.Server", w.group, []state.NLBServerRequest{w.server(1, 8080)}},
		{400, "MissingParam.ServerType", w.group, []state.NLBServerRequest{with(good, func(r *state.NLBServerRequest) { r.ServerType = "" })}},
		{400, "IllegalParam.ServerType", w.group, []state.NLBServerRequest{with(good, func(r *state.NLBServerRequest) { r.ServerType = "eni" })}},
		{400, "IllegalParam.RSPortConflictWithServerGroup", w.group, []state.NLBServerRequest{with(good, func(r *state.NLBServerRequest) { r.Port = 0 })}},
		{400, "IllegalParam.Weight", w.group, []state.NLBServerRequest{with(good, func(r *state.NLBServerRequest) { r.Weight = ptr(101) })}},
		{400, "IllegalParam.description", w.group, []state.NLBServerRequest{with(good, func(r *state.NLBServerRequest) { r.Description = ptr("a b") })}},
		{400, "IllegalParam.IP", w.group, []state.NLBServerRequest{with(good, func(r *state.NLBServerRequest) { r.ServerIp = "192.168.1.250" })}},
		{400, "IllegalParam.IP", w.group, []state.NLBServerRequest{with(good, func(r *state.NLBServerRequest) { r.ServerIp = "::1" })}},
		{404, "ResourceNotFound.Eni", w.group, []state.NLBServerRequest{with(good, func(r *state.NLBServerRequest) { r.ServerId = "eni-none" })}},
		{404, "ResourceNotFound.Ecs", w.group, []state.NLBServerRequest{with(good, func(r *state.NLBServerRequest) { r.ServerId, r.ServerType = "i-none", "Ecs" })}},
		{404, "ResourceNotFound.Eci", w.group, []state.NLBServerRequest{with(good, func(r *state.NLBServerRequest) { r.ServerType = "Eci" })}},
		{400, "IncorrectStatus.Eni", w.group, []state.NLBServerRequest{{ServerId: loose, ServerType: "Eni", Port: 1}}},
		{400, "Mismatch.VpcId", foreign, []state.NLBServerRequest{good}},
		{400, "Mismatch.ServerType", byIP, []state.NLBServerRequest{good}},
		{400, "Mismatch.ServerType", w.group, []state.NLBServerRequest{{ServerId: "192.168.1.9", ServerType: "Ip", Port: 1}}},
	} {
		w.refused(x.status, x.code, func() error {
			return errOf(w.NLBAddServersToServerGroup(state.NLBServersRequest{ServerGroupId: x.group, Servers: x.servers}))
		})
	}
	must(w.NLBAddServersToServerGroup(state.NLBServersRequest{ServerGroupId: byIP, Servers: []state.NLBServerRequest{{ServerId: "192.168.1.9", ServerType: "Ip", Port: 1}}}))
	// An instance is its primary address.
	must(w.change(w.NLBAddServersToServerGroup, state.NLBServerRequest{ServerId: w.eni.InstanceId, ServerType: "Ecs", Port: 30080}))
	w.settle()
	primary := w.getInstance(w.eni.InstanceId).PrimaryIpAddress
	if all := w.servers(w.group); len(all) != 2 || all[1].ServerIp != primary || all[1].Weight != 100 || all[1].ZoneId != zone {
		t.Errorf("servers %+v", all)
	}
	w.refused(400, "DryRunOperation", func() error {
		return errOf(w.NLBAddServersToServerGroup(state.NLBServersRequest{ServerGroupId: w.group, Servers: []state.NLBServerRequest{good}, DryRun: true}))
	})
}

// eni0 creates an ENI that is on no instance.
func (w *nlbWorld) eni0() string { return w.world.eni().NetworkInterfaceId }

func TestNLBListenersThatAreRefused(t *testing.T) {
	w := newNLBWorld(t)
	w.listener("TCP", 80)
	udp := must(w.NLBCreateServerGroup(w.serverGroup(func(r *state.NLBCreateServerGroupRequest) { r.Protocol = "UDP" }))).Id
	w.refused(400, "IncorrectStatus.serverGroup", func() error { return errOf(w.NLBCreateListener(w.listenerRequest("UDP", 53, udp))) })
	tcp := must(w.NLBCreateServerGroup(w.serverGroup())).Id
	w.settle()
	elsewhere := must(w.CreateVpc(state.CreateVpcRequest{}))
	w.settle()
	foreign := must(w.NLBCreateServerGroup(w.serverGroup(func(r *state.NLBCreateServerGroupRequest) { r.VpcId = elsewhere.VpcId }))).Id
	w.settle()
	with := func(change func(*state.NLBCreateListenerRequest)) state.NLBCreateListenerRequest {
		r := w.listenerRequest("TCP", 81, w.group)
		change(&r)
		return r
	}
	for _, x := range []struct {
		status int
		code   string
		req    state.NLBCreateListenerRequest
	}{
		{404, "ResourceNotFound.loadBalancer", with(func(r *state.NLBCreateListenerRequest) { r.LoadBalancerId = "nlb-none" })},
		{404, "ResourceNotFound.serverGroup", w.listenerRequest("TCP", 81, "sgp-none")},
		{400, "Conflict.Port", w.listenerRequest("TCP", 80, w.group)},
		{400, "Mismatch.Protocol", w.listenerRequest("TCP", 81, udp)},
		{400, "Mismatch.Protocol", w.listenerRequest("UDP", 81, tcp)},
		{400, "Mismatch.VpcId", w.listenerRequest("TCP", 81, foreign)},
		{400, "UnsupportedParameter", w.listenerRequest("TCPSSL", 443, w.group)},
		{400, "UnsupportedParameter", w.listenerRequest("TCP", 0, w.group)},
		{400, "IllegalParam.ListenerProtocol", w.listenerRequest("tcp", 81, w.group)},
		{400, "IllegalParam.Port", w.listenerRequest("TCP", 65536, w.group)},
		{400, "IllegalParam.IdleTimeout", with(func(r *state.NLBCreateListenerRequest) { r.IdleTimeout = ptr(901) })},
		{400, "IllegalParam.ListenerDescription", with(func(r *state.NLBCreateListenerRequest) { r.ListenerDescription = ptr("x") })},
		{400, "UnsupportedParameter", with(func(r *state.NLBCreateListenerRequest) { r.ProxyProtocolEnabled = true })},
		{400, "UnsupportedParameter", with(func(r *state.NLBCreateListenerRequest) { r.CertificateIds = []string{"1"} })},
		{400, "MissingParam.ServerGroupId", with(func(r *state.NLBCreateListenerRequest) { r.ServerGroupId = nil })},
		{400, "MissingParam.ListenerPort", with(func(r *state.NLBCreateListenerRequest) { r.ListenerPort = nil })},
		{400, "DryRunOperation", with(func(r *state.NLBCreateListenerRequest) { r.DryRun = true })},
	} {
		w.refused(x.status, x.code, func() error { return errOf(w.NLBCreateListener(x.req)) })
	}
	young := must(w.NLBCreateLoadBalancer(w.balancer()))
	w.refused(400, "IncorrectStatus.loadbalancer", func() error {
		return errOf(w.NLBCreateListener(with(func(r *state.NLBCreateListenerRequest) { r.LoadBalancerId = young })))
	})
	for code, change := range map[string]func(*state.NLBCreateServerGroupRequest){
		"IllegalParam.ServerGroupName":        func(r *state.NLBCreateServerGroupRequest) { r.ServerGroupName = ptr("0x") },
		"MissingParam.ServerGroupName":        func(r *state.NLBCreateServerGroupRequest) { r.ServerGroupName = nil },
		"IllegalParam.Scheduler":              func(r *state.NLBCreateServerGroupRequest) { r.Scheduler = "qch" },
		"IllegalParam.ConnectionDrainTimeout": func(r *state.NLBCreateServerGroupRequest) { r.ConnectionDrainTimeout = ptr(901) },
		"IllegalParam.HealthyThreshold":       func(r *state.NLBCreateServerGroupRequest) { r.HealthCheckConfig.HealthyThreshold = ptr(1) },
		"IllegalParam.HealthCheckInterval":    func(r *state.NLBCreateServerGroupRequest) { r.HealthCheckConfig.HealthCheckInterval = ptr(51) },
		"IllegalParam.HealthCheckHttpCode": func(r *state.NLBCreateServerGroupRequest) {
			r.HealthCheckConfig.HealthCheckType, r.HealthCheckConfig.HealthCheckHttpCode = "HTTP", []string{"200"}
		},
		"IlleagalParam.healthCheckUrl": func(r *state.NLBCreateServerGroupRequest) {
			r.HealthCheckConfig.HealthCheckType, r.HealthCheckConfig.HealthCheckUrl = "HTTP", "healthz"
		},
		"UnsupportedParameter": func(r *state.NLBCreateServerGroupRequest) { r.AnyPortEnabled = true },
	} {
		w.refused(400, code, func() error { return errOf(w.NLBCreateServerGroup(w.serverGroup(change))) })
	}
}

func TestNLBQuotas(t *testing.T) {
	w := newNLBWorld(t, func(o *state.Options) {
		o.Limits.NLBs, o.Limits.NLBListeners, o.Limits.NLBServersPerGroup, o.Limits.NLBServersPerLoadBalancer, o.Limits.NLBServerGroups = 1, 2, 3, 4, 2
	})
	const full = "QuotaExceeded.QuotaInsufficient"
	w.refused(400, full, func() error { return errOf(w.NLBCreateLoadBalancer(w.balancer())) })
	other := must(w.NLBCreateServerGroup(w.serverGroup())).Id
	w.settle()
	w.refused(400, full, func() error { return errOf(w.NLBCreateServerGroup(w.serverGroup())) })
	must(w.change(w.NLBAddServersToServerGroup, w.server(0, 80), w.server(1, 80), w.server(2, 80)))
	must(w.NLBAddServersToServerGroup(state.NLBServersRequest{ServerGroupId: other, Servers: []state.NLBServerRequest{w.server(0, 81)}}))
	w.settle()
	w.refused(400, full, func() error { return errOf(w.change(w.NLBAddServersToServerGroup, w.server(0, 81))) })
	more := must(w.NLBCreateListener(w.listenerRequest("TCP", 80, w.group))).Id
	must(w.NLBCreateListener(w.listenerRequest("TCP", 81, other)))
	w.settle()
	w.refused(400, full, func() error { return errOf(w.NLBCreateListener(w.listenerRequest("TCP", 82, other))) })
	// The group has room, its load balancer has none.
	w.refused(400, full, func() error {
		return errOf(w.NLBAddServersToServerGroup(state.NLBServersRequest{ServerGroupId: other, Servers: []state.NLBServerRequest{w.server(1, 81)}}))
	})
	// What is being removed counts until it is gone.
	must(w.change(w.NLBRemoveServersFromServerGroup, w.server(0, 80)))
	w.refused(400, full, func() error {
		return errOf(w.NLBAddServersToServerGroup(state.NLBServersRequest{ServerGroupId: other, Servers: []state.NLBServerRequest{w.server(1, 81)}}))
	})
	w.settle()
	must(w.NLBAddServersToServerGroup(state.NLBServersRequest{ServerGroupId: other, Servers: []state.NLBServerRequest{w.server(1, 81)}}))
	w.settle()
	// A listener may bring too many with its group.
	must(w.NLBDeleteListener(state.NLBListenerRequest{ListenerId: more}))
	w.settle()
	must(w.change(w.NLBAddServersToServerGroup, w.server(0, 80)))
	w.settle()
	w.refused(400, full, func() error { return errOf(w.NLBCreateListener(w.listenerRequest("TCP", 80, w.group))) })
}

// A listener's health is what a data plane reports, for the servers that it has.
func TestNLBHealth(t *testing.T) {
	w := newNLBWorld(t)
	listener := w.listener("TCP", 80)
	check(errOf(w.change(w.NLBAddServersToServerGroup, w.server(1, 8080), w.server(2, 8080))))
	health := func() string {
		h := must(w.NLBGetListenerHealthStatus(state.NLBListenerRequest{ListenerId: listener}))
		var text []string
		for _, v := range h.Unhealthy {
			text = append(text, strings.TrimSpace(fmt.Sprint(slices.Index(w.eni.PrivateIpAddresses, v.ServerIp), " ", v.Health, " ", v.Reason)))
		}
		slices.Sort(text)
		return strings.Join(text, ", ")
	}
	want := func(text string) {
		t.Helper()
		if got := health(); got != text {
			t.Errorf("health %q, want %q", got, text)
		}
	}
	want("1 Initial, 2 Initial")
	w.settle()
	want("1 Initial, 2 Initial")
	report := func(i int, h state.Health, reason string) {
		key := w.eni.NetworkInterfaceId + "/" + w.eni.PrivateIpAddresses[i].String() + ":8080"
		w.ReportHealth([]state.BackendHealth{{ListenerId: listener, Key: key, BackendVerdict: state.BackendVerdict{Health: h, Reason: reason}}})
	}
	report(1, state.Healthy, "")
	report(2, state.Unhealthy, "CONNECT_TIMEOUT")
	report(0, state.Unhealthy, "CONNECT_TIMEOUT") // no server of the group
	want("2 Unhealthy CONNECT_TIMEOUT")
	for _, b := range w.seen().Listeners[0].Backends {
		if good := b.Address == w.eni.PrivateIpAddresses[1]; good != (b.Health == state.Healthy) {
			t.Errorf("the data plane sees %+v", b)
		}
	}
	w.State = must(state.Load(options(w.clock), must(w.MarshalJSON())))
	want("2 Unhealthy CONNECT_TIMEOUT")
	revision := w.Revision()
	report(1, state.Healthy, "")
	if w.Revision() != revision {
		t.Error("a report without news changed the state")
	}
	// A server that leaves and comes back is checked anew.
	must(w.change(w.NLBRemoveServersFromServerGroup, w.server(1, 8080)))
	want("2 Unhealthy CONNECT_TIMEOUT")
	w.settle()
	must(w.change(w.NLBAddServersToServerGroup, w.server(1, 8080)))
	w.settle()
	want("1 Initial, 2 Unhealthy CONNECT_TIMEOUT")
	// An update of the listener keeps the verdicts, a stop drops them.
	must(w.NLBUpdateListenerAttribute(state.NLBUpdateListenerAttributeRequest{ListenerId: listener, NLBListenerAttributes: state.NLBListenerAttributes{IdleTimeout: ptr(60)}}))
	report(2, state.Unhealthy, "CONNECT_FAILED")
	w.settle()
	want("1 Initial, 2 Unhealthy CONNECT_FAILED")
	must(w.NLBStopListener(state.NLBListenerRequest{ListenerId: listener}))
	w.settle()
	want("1 Initial, 2 Initial")
	must(w.NLBStartListener(state.NLBListenerRequest{ListenerId: listener}))
	w.settle()
	want("1 Initial, 2 Initial")
	off := state.NLBUpdateServerGroupAttributeRequest{ServerGroupId: w.group}
	off.HealthCheckConfig.HealthCheckEnabled = ptr(false)
	must(w.NLBUpdateServerGroupAttribute(off))
	w.settle()
	want("1 Unavailable, 2 Unavailable")
}

func TestNLBClientToken(t *testing.T) {
	w := newNLBWorld(t)
	req := state.NLBServersRequest{ClientToken: "tok", ServerGroupId: w.group, Servers: []state.NLBServerRequest{w.server(1, 80)}}
	first, again := must(w.NLBAddServersToServerGroup(req)), must(w.NLBAddServersToServerGroup(req))
	if first != again {
		t.Errorf("jobs %s and %s", first, again)
	}
	w.settle()
	if got := must(w.NLBAddServersToServerGroup(req)); got != first {
		t.Errorf("after it has ended: job %s, want %s", got, first)
	}
	req.Servers[0].Port = 81
	w.refused(400, "IdempotenceSignatureMismatch", func() error { return errOf(w.NLBAddServersToServerGroup(req)) })
}

// What a data plane sees of a group's settings.
func TestNLBView(t *testing.T) {
	w := newNLBWorld(t)
	update := state.NLBUpdateServerGroupAttributeRequest{ServerGroupId: w.group, NLBServerGroupAttributes: state.NLBServerGroupAttributes{
		Scheduler: "Wlc", ConnectionDrainEnabled: ptr(true), ConnectionDrainTimeout: ptr(30), PreserveClientIpEnabled: ptr(false),
		HealthCheckConfig: state.NLBHealthCheckRequest{
			HealthCheckType: "HTTP", HealthCheckConnectPort: ptr(9000), HealthyThreshold: ptr(3), UnhealthyThreshold: ptr(4), HealthCheckConnectTimeout: ptr(2),
			HealthCheckInterval: ptr(1), HealthCheckUrl: "/healthz", HttpCheckMethod: "HEAD", HealthCheckHttpCode: []string{"http_2xx", "http_3xx"},
		},
	}}
	must(w.NLBUpdateServerGroupAttribute(update))
	w.listener("TCP", 80)
	l := w.seen().Listeners[0]
	check := *l.HealthCheck
	l.HealthCheck, l.ListenerId = nil, ""
	if got, want := fmt.Sprintf("%+v", l), fmt.Sprintf("%+v", state.BalancerListener{
		Protocol: "TCP", Port: 80, Scheduler: "wlc", EstablishedTimeout: 900 * time.Second, ConnectionDrain: 30 * time.Second,
	}); got != want {
		t.Errorf("listener\n%s, want\n%s", got, want)
	}
	if got, want := fmt.Sprintf("%+v", check), fmt.Sprintf("%+v", state.BalancerHealthCheck{
		Type: "http", Port: 9000, Interval: time.Second, Timeout: 2 * time.Second, Healthy: 3, Unhealthy: 4, Method: "HEAD", URI: "/healthz", Codes: []string{"http_2xx", "http_3xx"},
	}); got != want {
		t.Errorf("health check\n%s, want\n%s", got, want)
	}
}

// A deleted ENI leaves the groups, even while a job adds it; an address that is unassigned stays.
func TestNLBServerThatIsDeleted(t *testing.T) {
	w := newNLBWorld(t, slowJobs)
	listener := w.listener("TCP", 80)
	check(errOf(w.change(w.NLBAddServersToServerGroup, w.server(1, 8080), state.NLBServerRequest{ServerId: w.eni.InstanceId, ServerType: "Ecs", Port: 8080})))
	w.settle()
	for _, b := range w.seen().Listeners[0].Backends {
		w.ReportHealth([]state.BackendHealth{{ListenerId: listener, Key: b.Key, BackendVerdict: state.BackendVerdict{Health: state.Healthy}}})
	}
	check(w.UnassignPrivateIpAddresses(state.UnassignPrivateIpAddressesRequest{NetworkInterfaceId: w.eni.NetworkInterfaceId, PrivateIpAddress: []string{w.eni.PrivateIpAddresses[1].String()}}))
	if got := w.servers(w.group); len(got) != 2 {
		t.Errorf("servers %+v", got)
	}
	job := must(w.change(w.NLBAddServersToServerGroup, w.server(2, 8080)))
	check(w.DetachNetworkInterface(state.DetachNetworkInterfaceRequest{NetworkInterfaceId: w.eni.NetworkInterfaceId, InstanceId: w.eni.InstanceId}))
	w.Tick(w.clock.now)
	check(w.DeleteNetworkInterface(state.DeleteNetworkInterfaceRequest{NetworkInterfaceId: w.eni.NetworkInterfaceId}))
	w.settle()
	if got := w.servers(w.group); len(got) != 1 || got[0].ServerType != "Ecs" || w.job(job) != state.NLBJobSucceeded {
		t.Errorf("servers %+v, job %s", got, w.job(job))
	}
	check(w.DeleteInstances(state.DeleteInstancesRequest{InstanceId: []string{w.eni.InstanceId}, Force: true}))
	w.settle()
	if got := w.servers(w.group); len(got) != 0 || len(w.seen().Listeners[0].Backends) != 0 {
		t.Errorf("servers %+v, backends %+v", got, w.seen().Listeners[0].Backends)
	}
}

// The public address of a zone may be an EIP, which is in use then.
func TestNLBWithEIPs(t *testing.T) {
	w := newNLBWorld(t)
	one, two := must(w.AllocateEipAddress(state.AllocateEipAddressRequest{})), must(w.AllocateEipAddress(state.AllocateEipAddressRequest{}))
	with := func(first, second string) state.NLBCreateLoadBalancerRequest {
		return w.balancer(func(r *state.NLBCreateLoadBalancerRequest) {
			r.AddressType = state.NLBInternet
			r.ZoneMappings[0].AllocationId, r.ZoneMappings[1].AllocationId = first, second
		})
	}
	w.refused(404, "ResourceNotFound.AllocationId", func() error { return errOf(w.NLBCreateLoadBalancer(with("eip-none", ""))) })
	w.refused(400, "DuplicatedParam.AllocationId", func() error { return errOf(w.NLBCreateLoadBalancer(with(one.AllocationId, one.AllocationId))) })
	// The other zone gets an address of its own.
	w.nlb = must(w.NLBCreateLoadBalancer(with(one.AllocationId, "")))
	w.refused(400, "ResourceAlreadyAssociated.AllocationId", func() error { return errOf(w.NLBCreateLoadBalancer(with("", one.AllocationId))) })
	w.settle()
	zones := w.get().ZoneMappings // by zone: the one with the EIP is the second
	if z := zones[1]; z.AllocationId != one.AllocationId || z.PublicIPv4Address != one.IpAddress {
		t.Errorf("zone %+v, want %+v", z, one)
	}
	if z := zones[0]; z.AllocationId != "" || !z.PublicIPv4Address.IsValid() || z.PublicIPv4Address == one.IpAddress {
		t.Errorf("zone %+v, want an address of its own", z)
	}
	w.refused(400, "IncorrectEipStatus", func() error {
		return w.ReleaseEipAddress(state.ReleaseEipAddressRequest{AllocationId: one.AllocationId})
	})
	for status, want := range map[string]*state.EIP{state.StatusInUse: one, state.StatusAvailable: two} {
		if got := must(w.DescribeEipAddresses(state.DescribeEipAddressesRequest{Status: status})); len(got) != 1 || got[0].AllocationId != want.AllocationId || (got[0].InstanceId == w.nlb) != (want == one) {
			t.Errorf("EIPs that are %s: %+v", status, got)
		}
	}
	w.refused(400, "IllegalParam.AllocationId", func() error {
		return errOf(w.NLBUpdateLoadBalancerZones(state.NLBUpdateLoadBalancerZonesRequest{LoadBalancerId: w.nlb, ZoneMappings: with(two.AllocationId, "").ZoneMappings}))
	})
	must(w.NLBUpdateLoadBalancerAddressTypeConfig(state.NLBUpdateLoadBalancerZonesRequest{LoadBalancerId: w.nlb, AddressType: state.NLBIntranet}))
	w.settle()
	check(w.ReleaseEipAddress(state.ReleaseEipAddressRequest{AllocationId: one.AllocationId}))
	must(w.NLBUpdateLoadBalancerAddressTypeConfig(state.NLBUpdateLoadBalancerZonesRequest{
		LoadBalancerId: w.nlb, AddressType: state.NLBInternet, ZoneMappings: with(two.AllocationId, "").ZoneMappings,
	}))
	w.refused(400, "IncorrectEipStatus", func() error {
		return w.ReleaseEipAddress(state.ReleaseEipAddressRequest{AllocationId: two.AllocationId})
	})
	w.settle()
	if !slices.ContainsFunc(w.seen().Addresses, func(a state.BalancerAddress) bool { return a.Public && a.Address == two.IpAddress }) {
		t.Errorf("addresses %+v, want one of %s", w.seen().Addresses, two.IpAddress)
	}
	must(w.NLBDeleteLoadBalancer(state.NLBLoadBalancerRequest{LoadBalancerId: w.nlb}))
	w.settle()
	check(w.ReleaseEipAddress(state.ReleaseEipAddressRequest{AllocationId: two.AllocationId}))
}

// A VPC stays while it has a server group, which cannot be without it.
func TestNLBServerGroupKeepsItsVPC(t *testing.T) {
	w := newNLBWorld(t)
	vpc := must(w.CreateVpc(state.CreateVpcRequest{})).VpcId
	w.settle()
	group := must(w.NLBCreateServerGroup(w.serverGroup(func(r *state.NLBCreateServerGroupRequest) { r.VpcId = vpc }))).Id
	w.settle()
	w.refused(400, "DependencyViolation", func() error { return w.DeleteVpc(state.DeleteVpcRequest{VpcId: vpc}) })
	must(w.NLBDeleteServerGroup(state.NLBDeleteServerGroupRequest{ServerGroupId: group}))
	w.settle()
	check(w.DeleteVpc(state.DeleteVpcRequest{VpcId: vpc}))
	must(state.Load(options(w.clock), must(w.MarshalJSON())))
}
