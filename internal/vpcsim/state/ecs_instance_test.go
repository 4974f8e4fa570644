package state_test

import (
	"slices"
	"testing"

	"terway.dev/terway/internal/vpcsim/state"
)

func TestInstanceLife(t *testing.T) {
	w := newWorld(t, func(o *state.Options) { o.Timing = state.DefaultTiming() })
	free := w.available(w.vsw)
	id := must(w.CreateInstance(state.CreateInstanceRequest{InstanceType: "ecs.g6.2xlarge", VSwitchId: w.vsw, SecurityGroupId: w.sg, HostName: "node-1"}))
	expect := func(status state.InstanceStatus) {
		t.Helper()
		if got := w.getInstance(id).Status; got != status {
			t.Fatalf("the instance is %s, want %s", got, status)
		}
	}
	start := func() error { return w.StartInstance(state.StartInstanceRequest{InstanceId: id}) }
	stop := func() error { return w.StopInstance(state.StopInstanceRequest{InstanceId: id}) }
	expect(state.InstancePending)
	w.refused(403, "IncorrectInstanceStatus", start)
	w.refused(403, "IncorrectInstanceStatus.Initializing", func() error {
		return w.DeleteInstance(state.DeleteInstanceRequest{InstanceId: id, Force: true})
	})
	w.settle()
	expect(state.InstanceStopped)
	w.refused(403, "IncorrectInstanceStatus", stop)
	check(start())
	expect(state.InstanceStarting)
	w.settle()
	expect(state.InstanceRunning)
	check(w.RebootInstance(state.RebootInstanceRequest{InstanceId: id}))
	expect(state.InstanceStopping)
	due, _ := w.NextDue()
	w.clock.now = due
	w.Tick(due)
	expect(state.InstanceStarting)
	w.settle()
	expect(state.InstanceRunning)
	w.refused(403, "IncorrectInstanceStatus", func() error { return w.DeleteInstance(state.DeleteInstanceRequest{InstanceId: id}) })
	check(stop())
	w.settle()
	expect(state.InstanceStopped)
	w.refused(400, "DryRunOperation", func() error {
		return w.DeleteInstance(state.DeleteInstanceRequest{InstanceId: id, DryRun: true})
	})
	check(w.DeleteInstance(state.DeleteInstanceRequest{InstanceId: id}))
	w.settle()
	w.refused(404, "InvalidInstanceId.NotFound", start)
	if got := w.available(w.vsw); got != free {
		t.Errorf("%d addresses free after the instance's life, %d before", got, free)
	}
}

func TestRunInstances(t *testing.T) {
	w := newWorld(t)
	ids := must(w.RunInstances(state.RunInstancesRequest{
		InstanceType: "ecs.g7.xlarge", VSwitchId: w.vsw, SecurityGroupIds: []string{w.sg}, Amount: ptr(3),
		InstanceName: "node", HostName: "node", UniqueSuffix: true, Ipv6AddressCount: 1,
		NetworkOptions: state.RunInstancesNetworkOptions{EnableJumboFrame: ptr(true)},
		NetworkInterface: []state.RunInstancesNetworkInterface{
			{InstanceType: "Secondary", DeleteOnRelease: ptr(false)},
		},
		Tag: []state.Tag{{"role", "node"}},
	}))
	w.settle()
	all := must(w.DescribeInstances(state.DescribeInstancesRequest{Status: "Running", Tag: []state.Tag{{"role", "node"}}}))
	if len(all) != 3 || len(ids) != 3 {
		t.Fatalf("made %v, running %d", ids, len(all))
	}
	var names []string
	for _, i := range all {
		names = append(names, i.HostName)
		if len(i.NetworkInterfaces) != 2 || i.NetworkInterfaces[0].Type != state.ENIPrimary || i.NetworkInterfaces[1].Slot != 1 {
			t.Errorf("ENIs of %s: %+v", i.InstanceId, i.NetworkInterfaces)
		}
		if i.PrimaryIpAddress != i.NetworkInterfaces[0].PrimaryIpAddress || len(i.NetworkInterfaces[0].Ipv6Addresses) != 1 || !i.EnableJumboFrame {
			t.Errorf("%+v", i)
		}
	}
	slices.Sort(names)
	if !slices.Equal(names, []string{"node001", "node002", "node003"}) {
		t.Errorf("names %v", names)
	}
	// ENIs stay when DeleteOnRelease is false.
	check(w.DeleteInstances(state.DeleteInstancesRequest{InstanceId: ids, Force: true}))
	w.settle()
	left := must(w.DescribeNetworkInterfaces(state.DescribeNetworkInterfacesRequest{}))
	if len(left) != 3 || slices.ContainsFunc(left, func(e state.NetworkInterface) bool { return e.Status != state.ENIAvailable || e.InstanceId != "" }) {
		t.Errorf("ENIs left: %+v", left)
	}
}

func TestRunInstancesIsAllOrNothing(t *testing.T) {
	w := newWorld(t)
	small := w.vSwitch("192.168.2.0/29") // 4 addresses
	run := func(change func(*state.RunInstancesRequest)) func() error {
		return func() error {
			req := state.RunInstancesRequest{InstanceType: "ecs.g6.2xlarge", VSwitchId: small, SecurityGroupId: w.sg}
			change(&req)
			return errOf(w.RunInstances(req))
		}
	}
	w.refused(403, "InvalidVSwitchId.IpNotEnough", run(func(r *state.RunInstancesRequest) { r.Amount = ptr(5) }))
	w.refused(400, "DryRunOperation", run(func(r *state.RunInstancesRequest) { r.Amount, r.DryRun = ptr(2), true }))
	w.refused(400, "InvalidInstanceType.ValueNotSupported", run(func(r *state.RunInstancesRequest) { r.InstanceType = "ecs.none" }))
	w.refused(400, "InvalidInstanceType.ValueNotSupported", run(func(r *state.RunInstancesRequest) { r.InstanceType = "ecs.g6r.large" }))
	w.refused(400, "MissingParameter", run(func(r *state.RunInstancesRequest) { r.InstanceType = "" }))
	w.refused(400, "InvalidParameter.Amount", run(func(r *state.RunInstancesRequest) { r.Amount = ptr(101) }))
	w.refused(400, "InvalidParameter", run(func(r *state.RunInstancesRequest) {
		r.NetworkOptions.EnableJumboFrame = ptr(true)
	}))
	w.refused(400, "InvalidParameter.Mismatch", run(func(r *state.RunInstancesRequest) { r.ZoneId = "cn-hangzhou-g" }))
	w.refused(403, "EniPerInstanceLimitExceeded", run(func(r *state.RunInstancesRequest) {
		r.VSwitchId = w.vsw
		r.NetworkInterface = make([]state.RunInstancesNetworkInterface, 4)
	}))
	w.refused(403, "InvalidOperation.Ipv6CountExceeded", run(func(r *state.RunInstancesRequest) { r.Ipv6AddressCount = 2 }))
	check(run(func(r *state.RunInstancesRequest) { r.Amount = ptr(4) })())
}

func TestDeletionRules(t *testing.T) {
	w := newWorld(t)
	a, b := w.instance("ecs.g6.2xlarge"), w.instance("ecs.g6.2xlarge")
	check(w.ModifyInstanceAttribute(state.ModifyInstanceAttributeRequest{InstanceId: b, DeletionProtection: ptr(true)}))
	both := func() error {
		return w.DeleteInstances(state.DeleteInstancesRequest{InstanceId: []string{a, b}, Force: true})
	}
	w.refused(403, "InvalidOperation.DeletionProtection", both)
	check(w.ModifyInstanceAttribute(state.ModifyInstanceAttributeRequest{InstanceId: b, DeletionProtection: ptr(false)}))
	route := must(w.CreateRouteEntry(state.CreateRouteEntryRequest{RouteTableId: w.table, DestinationCidrBlock: "172.20.0.0/24", NextHopId: a}))
	w.settle()
	w.refused(403, "DependencyViolation.RouteEntry", both)
	check(w.DeleteRouteEntry(state.DeleteRouteEntryRequest{RouteEntryId: route}))
	w.settle()

	// An ENI is being attached or detached when its instance is deleted.
	w.SetStuckAttaching(true)
	stuck := w.attached(a)
	kept := w.eni(func(r *state.CreateNetworkInterfaceRequest) { r.DeleteOnRelease = ptr(false) })
	check(w.AttachNetworkInterface(state.AttachNetworkInterfaceRequest{NetworkInterfaceId: kept.NetworkInterfaceId, InstanceId: a}))
	late := w.eni()
	check(both())
	w.refused(404, "InvalidEcsId.NotFound", func() error {
		return w.AttachNetworkInterface(state.AttachNetworkInterfaceRequest{NetworkInterfaceId: late.NetworkInterfaceId, InstanceId: a})
	})
	w.settle()
	w.SetStuckAttaching(false)
	w.settle()
	w.refused(404, "InvalidEniId.NotFound", func() error {
		return errOf(w.DescribeNetworkInterfaceAttribute(stuck.NetworkInterfaceId))
	})
	if got := w.getENI(kept.NetworkInterfaceId); got.Status != state.ENIAvailable || got.InstanceId != "" {
		t.Errorf("the kept ENI is %s on %q", got.Status, got.InstanceId)
	}
}

func TestDescribeInstancesFilters(t *testing.T) {
	w := newWorld(t)
	a, b := w.instance("ecs.g6.2xlarge"), w.instance("ecs.g7.xlarge")
	pod := w.attached(a).PrimaryIpAddress.String()
	for name, tt := range map[string]struct {
		filter state.DescribeInstancesRequest
		want   []string
	}{
		"ids":               {state.DescribeInstancesRequest{InstanceIds: []string{b}}, []string{b}},
		"type":              {state.DescribeInstancesRequest{InstanceType: "ecs.g6.2xlarge"}, []string{a}},
		"family":            {state.DescribeInstancesRequest{InstanceTypeFamily: "ecs.g7"}, []string{b}},
		"secondary address": {state.DescribeInstancesRequest{PrivateIpAddresses: []string{pod}}, []string{a}},
		"group":             {state.DescribeInstancesRequest{SecurityGroupId: "sg-x"}, nil},
		"zone":              {state.DescribeInstancesRequest{ZoneId: zone, VpcId: w.vpc}, []string{a, b}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, i := range must(w.DescribeInstances(tt.filter)) {
				got = append(got, i.InstanceId)
			}
			slices.Sort(tt.want)
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
	types := must(w.DescribeInstanceTypes(state.DescribeInstanceTypesRequest{InstanceTypeFamily: "ecs.g6", MinimumCpuCoreCount: 8, MaximumCpuCoreCount: 8}))
	if len(types) != 1 || types[0].Name != "ecs.g6.2xlarge" {
		t.Errorf("types %+v", types)
	}
}

func TestViewShowsWhatIsPluggedIn(t *testing.T) {
	w := newWorld(t, func(o *state.Options) { o.Timing = state.DefaultTiming() })
	id := w.instance("ecs.g6.2xlarge")
	eni := w.eni()
	check(w.AttachNetworkInterface(state.AttachNetworkInterfaceRequest{NetworkInterfaceId: eni.NetworkInterfaceId, InstanceId: id}))
	view := w.View()
	if n := len(view.Instances[0].NetworkInterfaces); n != 1 {
		t.Errorf("%d ENIs while the second is Attaching", n)
	}
	w.settle()
	if again := w.View(); len(again.Instances[0].NetworkInterfaces) != 2 || again.Revision <= view.Revision {
		t.Errorf("%d ENIs at revision %d, before that %d", len(again.Instances[0].NetworkInterfaces), again.Revision, view.Revision)
	}
	i := w.View().Instances[0]
	if i.Type.Name != "ecs.g6.2xlarge" || i.Type.BandwidthBase != 2.5 || !i.Powered() {
		t.Errorf("%+v", i.Type)
	}
	check(w.DetachNetworkInterface(state.DetachNetworkInterfaceRequest{NetworkInterfaceId: eni.NetworkInterfaceId, InstanceId: id}))
	if n := len(w.View().Instances[0].NetworkInterfaces); n != 1 {
		t.Errorf("%d ENIs while the second is Detaching", n)
	}
}

// An instance that is deleted by force never starts again.
func TestForcedDeletionWhileStarting(t *testing.T) {
	w := newWorld(t, func(o *state.Options) { o.Timing = state.DefaultTiming() })
	id := w.instance("ecs.g6.2xlarge")
	check(w.RebootInstance(state.RebootInstanceRequest{InstanceId: id}))
	check(w.DeleteInstance(state.DeleteInstanceRequest{InstanceId: id, Force: true}))
	for {
		due, ok := w.NextDue()
		if !ok {
			break
		}
		w.clock.now = due
		w.Tick(due)
		for _, i := range must(w.DescribeInstances(state.DescribeInstancesRequest{})) {
			if i.Status != state.InstanceStopping {
				t.Errorf("the instance is %s while it is being deleted", i.Status)
			}
		}
	}
	if left := must(w.DescribeInstances(state.DescribeInstancesRequest{})); len(left) != 0 {
		t.Errorf("instances left: %+v", left)
	}
}

func TestModifyInstance(t *testing.T) {
	w := newWorld(t)
	group := must(w.CreateSecurityGroup(state.CreateSecurityGroupRequest{VpcId: w.vpc}))
	a, b := w.instance("ecs.g7.xlarge"), w.instance("ecs.g6.2xlarge")
	w.refused(400, "InvalidParameter", func() error {
		return w.ModifyInstanceAttribute(state.ModifyInstanceAttributeRequest{InstanceId: b, EnableJumboFrame: ptr(true)})
	})
	w.refused(404, "InvalidSecurityGroupId.NotFound", func() error {
		return w.ModifyInstanceAttribute(state.ModifyInstanceAttributeRequest{InstanceId: a, InstanceName: ptr("x"), SecurityGroupIds: []string{"sg-x"}})
	})
	check(w.ModifyInstanceAttribute(state.ModifyInstanceAttributeRequest{
		InstanceId: a, InstanceName: ptr("new"), EnableJumboFrame: ptr(true), SecurityGroupIds: []string{group},
	}))
	if i := w.getInstance(a); i.InstanceName != "new" || !i.EnableJumboFrame || !slices.Equal(i.SecurityGroupIds, []string{group}) {
		t.Errorf("%+v", i)
	}
	role := func(name string, ids ...string) error {
		return w.AttachInstanceRamRole(state.AttachInstanceRamRoleRequest{RamRoleName: name, InstanceIds: ids})
	}
	check(role("nodes", a))
	w.refused(403, "InvalidInstance.RamRole", func() error { return role("others", b, a) })
	w.refused(404, "InvalidInstanceId.NotFound", func() error { return role("nodes", b, "i-x") })
	check(role("nodes", a, b))
	if i := w.getInstance(b); i.RamRoleName != "nodes" {
		t.Errorf("role %q", i.RamRoleName)
	}
}
