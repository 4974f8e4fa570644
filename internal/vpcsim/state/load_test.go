package state_test

import (
	"strings"
	"testing"
	"time"

	"terway.dev/terway/internal/vpcsim/state"
)

// A state that was saved before trunks and EIPs existed, with operations in the order in which
// they were started, is loaded and continues.
func TestLoadOfAnOlderProgram(t *testing.T) {
	w := newWorld(t, func(o *state.Options) { o.Timing = state.Timing{AttachENI: time.Hour} })
	instance, late, eni := w.instance("ecs.g6.2xlarge"), w.eni().NetworkInterfaceId, w.eni().NetworkInterfaceId
	check(w.AttachNetworkInterface(state.AttachNetworkInterfaceRequest{NetworkInterfaceId: late, InstanceId: instance}))
	check(w.DeleteNetworkInterface(state.DeleteNetworkInterfaceRequest{NetworkInterfaceId: eni}))
	saved := w.saved()
	const field = `"Operations":`
	from := strings.Index(saved, field) + len(field)
	to := from + strings.Index(saved[from:], "]") + 1
	first, second, ok := strings.Cut(strings.Trim(saved[from:to], "[]"), "},")
	if !ok {
		t.Fatalf("operations %s", saved[from:to])
	}
	old := saved[:from] + "[" + second + "," + first + "}]" + saved[to:]
	if strings.Contains(old, "EIPs") || strings.Contains(old, "StrictDetach") || strings.Contains(old, "TypeBandwidth") {
		t.Errorf("unused fields are saved: %s", old)
	}
	w.State = must(state.Load(options(w.clock), []byte(old)))
	w.Tick(w.clock.now)
	if _, err := w.DescribeNetworkInterfaceAttribute(eni); state.CodeOf(err) != "InvalidEniId.NotFound" {
		t.Errorf("what is due first is not done: %v", err)
	}
	must(w.AllocateEipAddress(state.AllocateEipAddressRequest{}))
	w.settle()
	if got := w.getENI(late).Status; got != state.ENIInUse {
		t.Errorf("the ENI is %s", got)
	}
}

func TestLoadRefusesWhatDoesNotFit(t *testing.T) {
	w := newWorld(t)
	eni := w.attached(w.instance("ecs.g6.2xlarge"))
	check(w.StopInstance(state.StopInstanceRequest{InstanceId: eni.InstanceId}))
	saved := w.saved()
	for name, replace := range map[string][2]string{
		"vSwitch":  {`"VSwitchId":"` + w.vsw + `","ZoneId"`, `"VSwitchId":"vsw-x","ZoneId"`},
		"instance": {`"InstanceId":"` + eni.InstanceId + `","Slot":1`, `"InstanceId":"i-x","Slot":1`},
		"primary":  {`"Type":"Primary"`, `"Type":"Secondary"`},
		"table":    {`"RouteTableType":"System"`, `"RouteTableType":"Custom"`},
		"id":       {`"VSwitchId":"` + w.vsw + `","VSwitchName"`, `"VSwitchId":"vsw-x","VSwitchName"`},
		"kind":     {`"Kind":"instance-stop"`, `"Kind":"instance-dream"`},
		"resource": {`"Kind":"instance-stop"`, `"Kind":"vpc"`},
	} {
		broken := strings.Replace(saved, replace[0], replace[1], 1)
		if broken == saved {
			t.Fatalf("%s: nothing to break", name)
		}
		if _, err := state.Load(options(w.clock), []byte(broken)); err == nil || !strings.Contains(err.Error(), "start with an empty state directory") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A saved state is accepted or refused; an accepted one can be read and continues.
func FuzzLoad(f *testing.F) {
	c := &clock{time.Unix(0, 0).UTC()}
	s := must(state.New(options(c)))
	vpc := must(s.CreateVpc(state.CreateVpcRequest{}))
	s.Tick(c.now)
	vsw := must(s.CreateVSwitch(state.CreateVSwitchRequest{VpcId: vpc.VpcId, ZoneId: zone, CidrBlock: "172.16.0.0/28"}))
	f.Add(must(s.MarshalJSON()))
	s.Tick(c.now)
	sg := must(s.CreateSecurityGroup(state.CreateSecurityGroupRequest{VpcId: vpc.VpcId}))
	eni := must(s.CreateNetworkInterface(state.CreateNetworkInterfaceRequest{VSwitchId: vsw, SecurityGroupId: sg})).NetworkInterfaceId
	lb := must(s.CreateLoadBalancer(state.CreateLoadBalancerRequest{AddressType: state.AddressIntranet, VSwitchId: vsw})).LoadBalancerId
	group := must(s.CreateVServerGroup(state.CreateVServerGroupRequest{
		LoadBalancerId: lb, VServerGroupName: "g", BackendServers: []state.BackendServerItem{{ServerId: eni, Type: state.ServerENI, Port: 80}},
	})).VServerGroupId
	acl := must(s.CreateAccessControlList(state.CreateAccessControlListRequest{AclName: "a"}))
	check(s.CreateLoadBalancerTCPListener(state.ListenerSettingsRequest{
		LoadBalancerId: lb, ListenerPort: 80, VServerGroupId: &group, AclStatus: ptr("on"), AclType: ptr("white"), AclId: &acl,
	}))
	check(s.StartLoadBalancerListener(state.ListenerRequest{LoadBalancerId: lb, ListenerPort: 80}))
	f.Add(must(s.MarshalJSON()))
	f.Add([]byte(`{"Format":1,"Data":{"NetworkInterfaces":{"eni-1":{"NetworkInterfaceId":"eni-1"}}}}`))
	f.Fuzz(func(t *testing.T, saved []byte) {
		s, err := state.Load(options(c), saved)
		if err != nil {
			return
		}
		s.View()
		must(s.DescribeNetworkInterfaces(state.DescribeNetworkInterfacesRequest{}))
		must(s.DescribeSecurityGroups(state.DescribeSecurityGroupsRequest{}))
		for _, l := range must(s.DescribeLoadBalancers(state.DescribeLoadBalancersRequest{})) {
			must(s.DescribeVServerGroups(state.DescribeVServerGroupsRequest{LoadBalancerId: l.LoadBalancerId}))
			must(s.DescribeHealthStatus(state.DescribeHealthStatusRequest{LoadBalancerId: l.LoadBalancerId}))
		}
		s.Tick(c.now.Add(100 * time.Hour))
		s.View()
		must(s.MarshalJSON())
	})
}
