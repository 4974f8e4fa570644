package state_test

import (
	"testing"

	"terway.dev/terway/internal/vpcsim/state"
)

func trunk(r *state.CreateNetworkInterfaceRequest) { r.InstanceType = "Trunk" }

// A trunk, its members, and the order in which they are removed.
func TestTrunkLife(t *testing.T) {
	w := newWorld(t)
	instance := w.instance("ecs.g7.xlarge") // 4 ENIs, 20 with members
	on := w.attached(instance, trunk)
	if on.Type != state.ENITrunk || on.Status != state.ENIInUse || on.Slot != 1 {
		t.Fatalf("trunk %+v", on)
	}
	other := w.vSwitch("192.168.7.0/24")
	member := w.eni(func(r *state.CreateNetworkInterfaceRequest) { r.VSwitchId = other }).NetworkInterfaceId
	join := func(eni, to string) error {
		return w.AttachNetworkInterface(state.AttachNetworkInterfaceRequest{NetworkInterfaceId: eni, InstanceId: instance, TrunkNetworkInstanceId: to})
	}
	leave := func(eni, from string) error {
		return w.DetachNetworkInterface(state.DetachNetworkInterfaceRequest{NetworkInterfaceId: eni, InstanceId: instance, TrunkNetworkInstanceId: from})
	}
	check(join(member, on.NetworkInterfaceId))
	if e := w.getENI(member); e.Status != state.ENIAttaching || e.InstanceId != instance {
		t.Errorf("the member is %s on %q", e.Status, e.InstanceId)
	}
	w.settle()
	second := w.eni().NetworkInterfaceId
	check(join(second, on.NetworkInterfaceId))
	w.settle()
	for id, vlan := range map[string]int{member: 1, second: 2} {
		if e := w.getENI(id); e.Type != state.ENIMember || e.Status != state.ENIInUse || e.VlanId != vlan || e.TrunkNetworkInterfaceId != on.NetworkInterfaceId {
			t.Errorf("member %+v, want VLAN %d", e, vlan)
		}
	}
	if got := w.getENI(on.NetworkInterfaceId).MemberNetworkInterfaceIds; len(got) != 2 {
		t.Errorf("the trunk's members are %v", got)
	}
	// Members use no slot, and a data plane does not see them.
	if got := len(w.getInstance(instance).NetworkInterfaces); got != 2 {
		t.Errorf("the instance lists %d ENIs, want the primary and the trunk", got)
	}
	for _, i := range w.View().Instances {
		for _, e := range i.NetworkInterfaces {
			if e.Type == state.ENIMember {
				t.Errorf("the data plane sees member %s", e.NetworkInterfaceId)
			}
		}
	}
	if got := must(w.DescribeNetworkInterfaces(state.DescribeNetworkInterfacesRequest{InstanceId: instance, Type: "Member"})); len(got) != 2 {
		t.Errorf("%d members listed by instance", len(got))
	}
	// They survive a restart.
	w.State = must(state.Load(options(w.clock), must(w.MarshalJSON())))

	w.refused(403, "InvalidOperation.EniLinked", func() error { return leave(on.NetworkInterfaceId, "") })
	w.refused(400, "InvalidOperation.InvalidEniState", func() error {
		return w.DeleteNetworkInterface(state.DeleteNetworkInterfaceRequest{NetworkInterfaceId: member})
	})
	w.refused(400, "InvalidParameter", func() error { return leave(member, second) })
	check(leave(member, on.NetworkInterfaceId))
	w.settle()
	if e := w.getENI(member); e.Type != state.ENISecondary || e.Status != state.ENIAvailable || e.VlanId != 0 || e.InstanceId != "" {
		t.Errorf("detached, the member is %+v", e)
	}
	// Its VLAN is free for the next.
	third := w.eni().NetworkInterfaceId
	check(join(third, on.NetworkInterfaceId))
	w.settle()
	if got := w.getENI(third).VlanId; got != 1 {
		t.Errorf("VLAN %d, want the free one, 1", got)
	}
	// They are deleted with their instance.
	free := w.available(w.vsw)
	check(w.DeleteInstance(state.DeleteInstanceRequest{InstanceId: instance, Force: true}))
	w.settle()
	if got := w.available(w.vsw); got != free+4 {
		t.Errorf("%d addresses free, want 4 more than %d", got, free)
	}
}

func TestTrunkRules(t *testing.T) {
	w := newWorld(t)
	instance := w.instance("ecs.u1-c1m4.xlarge") // 3 ENIs, 6 with members
	on := w.attached(instance, trunk).NetworkInterfaceId
	plain := w.attached(instance).NetworkInterfaceId
	join := func(eni, to string) func() error {
		return func() error {
			return w.AttachNetworkInterface(state.AttachNetworkInterfaceRequest{NetworkInterfaceId: eni, InstanceId: instance, TrunkNetworkInstanceId: to})
		}
	}
	member := w.eni().NetworkInterfaceId
	w.refused(404, "InvalidEniId.NotFound", join(member, "eni-x"))
	w.refused(403, "InvalidOperation.InvalidEniType", join(member, plain))
	w.refused(403, "InvalidOperation.InvalidEniType", join(w.eni(trunk).NetworkInterfaceId, on))
	w.refused(400, "InvalidOperation.InvalidEniState", join(member, w.eni(trunk).NetworkInterfaceId))
	fat := w.eni(func(r *state.CreateNetworkInterfaceRequest) { r.SecondaryPrivateIpAddressCount = 10 }).NetworkInterfaceId
	w.refused(403, "InvalidOperation.Ipv4CountExceeded", join(fat, on))
	for range 3 {
		check(join(w.eni().NetworkInterfaceId, on)())
	}
	w.refused(403, "EniPerInstanceLimitExceeded", join(member, on))

	// By DescribeInstanceTypes the type has no trunk, or an unknown number of members, which
	// counts as none.
	old := w.instance("ecs.g6.large")
	w.refused(403, "InvalidOperation.InvalidEniType", func() error {
		return w.AttachNetworkInterface(state.AttachNetworkInterfaceRequest{NetworkInterfaceId: w.firstTrunk(), InstanceId: old})
	})
	w.refused(403, "InvalidOperation.InvalidEniType", func() error {
		return errOf(w.RunInstances(state.RunInstancesRequest{
			InstanceType: "ecs.u1-c1m4.xlarge", VSwitchId: w.vsw, SecurityGroupId: w.sg,
			NetworkInterface: []state.RunInstancesNetworkInterface{{NetworkInterfaceId: w.firstTrunk()}},
		}))
	})
}

// firstTrunk is a trunk that is not attached.
func (w *world) firstTrunk() string {
	return must(w.SelectNetworkInterfaces(state.DescribeNetworkInterfacesRequest{Type: "Trunk", Status: "Available"}))[0]
}

// If the attachment of a trunk fails, the ENI is as it was before.
func TestMemberWhoseAttachFails(t *testing.T) {
	w := newWorld(t)
	instance := w.instance("ecs.g7.xlarge")
	on := w.attached(instance, trunk).NetworkInterfaceId
	w.SetFailingAttach(true)
	member := w.eni().NetworkInterfaceId
	check(w.AttachNetworkInterface(state.AttachNetworkInterfaceRequest{NetworkInterfaceId: member, InstanceId: instance, TrunkNetworkInstanceId: on}))
	w.settle()
	if e := w.getENI(member); e.Type != state.ENISecondary || e.Status != state.ENIAvailable || e.TrunkNetworkInterfaceId != "" {
		t.Errorf("after a failed attach %+v", e)
	}
	check(w.DetachNetworkInterface(state.DetachNetworkInterfaceRequest{NetworkInterfaceId: on, InstanceId: instance}))
}
