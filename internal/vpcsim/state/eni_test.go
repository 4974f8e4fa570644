package state_test

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"terway.dev/terway/internal/vpcsim/state"
)

// An ENI's whole life, with the state it has at each moment.
func TestENILife(t *testing.T) {
	w := newWorld(t, func(o *state.Options) { o.Timing = state.DefaultTiming() })
	instance := w.instance("ecs.g6.2xlarge")
	free := w.available(w.vsw)
	eni := must(w.CreateNetworkInterface(state.CreateNetworkInterfaceRequest{VSwitchId: w.vsw, SecurityGroupId: w.sg, SecondaryPrivateIpAddressCount: 2}))
	id := eni.NetworkInterfaceId
	expect := func(status state.NetworkInterfaceStatus, on string) {
		t.Helper()
		if got := w.getENI(id); got.Status != status || got.InstanceId != on {
			t.Fatalf("the ENI is %s on %q, want %s on %q", got.Status, got.InstanceId, status, on)
		}
	}
	attach := func() error {
		return w.AttachNetworkInterface(state.AttachNetworkInterfaceRequest{NetworkInterfaceId: id, InstanceId: instance})
	}
	detach := func() error {
		return w.DetachNetworkInterface(state.DetachNetworkInterfaceRequest{NetworkInterfaceId: id, InstanceId: instance})
	}
	del := func() error {
		return w.DeleteNetworkInterface(state.DeleteNetworkInterfaceRequest{NetworkInterfaceId: id})
	}
	const badState = "InvalidOperation.InvalidEniState"
	expect(state.ENICreating, "")
	w.refused(400, badState, attach)
	w.refused(400, badState, del)
	w.settle()
	expect(state.ENIAvailable, "")
	w.refused(400, badState, detach)
	check(attach())
	expect(state.ENIAttaching, instance)
	w.refused(400, badState, attach)
	w.refused(400, badState, detach)
	w.refused(400, badState, func() error {
		return errOf(w.AssignPrivateIpAddresses(state.AssignPrivateIpAddressesRequest{NetworkInterfaceId: id, SecondaryPrivateIpAddressCount: 1}))
	})
	// Not due yet: nothing happens.
	w.Tick(w.clock.now.Add(time.Second))
	expect(state.ENIAttaching, instance)
	w.settle()
	expect(state.ENIInUse, instance)
	w.refused(400, badState, del)
	check(detach())
	expect(state.ENIDetaching, instance)
	before := w.Revision()
	check(detach()) // idempotent by state
	if w.Revision() != before {
		t.Error("a repeated detach is a change")
	}
	w.settle()
	expect(state.ENIAvailable, "")
	check(del())
	expect(state.ENIDeleting, "")
	check(del())
	w.settle()
	w.refused(404, "InvalidEniId.NotFound", del)
	if got := w.available(w.vsw); got != free {
		t.Errorf("%d addresses are free after the ENI's life, %d before", got, free)
	}
}

func TestCreateNetworkInterfaceRules(t *testing.T) {
	w := newWorld(t)
	other := must(w.CreateVpc(state.CreateVpcRequest{}))
	w.settle()
	foreign := must(w.CreateSecurityGroup(state.CreateSecurityGroupRequest{VpcId: other.VpcId}))
	enterprise := must(w.CreateSecurityGroup(state.CreateSecurityGroupRequest{VpcId: w.vpc, SecurityGroupType: "enterprise"}))
	taken := w.eni().PrimaryIpAddress.String()
	for _, tt := range []struct {
		name   string
		change func(*state.CreateNetworkInterfaceRequest)
		status int
		code   string
	}{
		{"no vSwitch", func(r *state.CreateNetworkInterfaceRequest) { r.VSwitchId = "" }, 400, "MissingParameter"},
		{"unknown vSwitch", func(r *state.CreateNetworkInterfaceRequest) { r.VSwitchId = "vsw-x" }, 404, "InvalidVSwitchId.NotFound"},
		{"no group", func(r *state.CreateNetworkInterfaceRequest) { r.SecurityGroupId = "" }, 400, "MissingParameter"},
		{"unknown group", func(r *state.CreateNetworkInterfaceRequest) { r.SecurityGroupId = "sg-x" }, 404, "InvalidSecurityGroupId.NotFound"},
		{"group of another VPC", func(r *state.CreateNetworkInterfaceRequest) { r.SecurityGroupId = foreign }, 403, "InvalidOperation.VpcMismatch"},
		{"both ways of groups", func(r *state.CreateNetworkInterfaceRequest) { r.SecurityGroupIds = []string{w.sg} }, 400, "InvalidParameter"},
		{"groups of two kinds", func(r *state.CreateNetworkInterfaceRequest) {
			r.SecurityGroupId, r.SecurityGroupIds = "", []string{w.sg, enterprise}
		}, 400, "InvalidParameter"},
		{"address in use", func(r *state.CreateNetworkInterfaceRequest) { r.PrimaryIpAddress = taken }, 403, "InvalidIp.IpAssigned"},
		{"not an address", func(r *state.CreateNetworkInterfaceRequest) { r.PrimaryIpAddress = "1.2.3" }, 400, "InvalidIp.Address"},
		{"too many", func(r *state.CreateNetworkInterfaceRequest) { r.SecondaryPrivateIpAddressCount = 50 }, 400, "InvalidParameter"},
		{"address twice", func(r *state.CreateNetworkInterfaceRequest) {
			r.PrimaryIpAddress, r.PrivateIpAddress = "192.168.1.77", []string{"192.168.1.77"}
		}, 400, "InvalidPrivateIpAddress.Duplicated"},
		{"in a prefix too", func(r *state.CreateNetworkInterfaceRequest) {
			r.PrimaryIpAddress, r.Ipv4Prefix = "192.168.1.77", []string{"192.168.1.64/28"}
		}, 403, "InvalidIp.IpAssigned"},
		{"prefix at the edge", func(r *state.CreateNetworkInterfaceRequest) { r.Ipv4Prefix = []string{"192.168.1.240/28"} }, 403, "InvalidVSwitchId.IpInvalid"},
		{"prefix of wrong size", func(r *state.CreateNetworkInterfaceRequest) { r.Ipv4Prefix = []string{"192.168.1.64/27"} }, 400, "InvalidParameter"},
		{"trunk", func(r *state.CreateNetworkInterfaceRequest) { r.InstanceType = "Trunk" }, 400, "UnsupportedOperation"},
		{"tag twice", func(r *state.CreateNetworkInterfaceRequest) { r.Tag = []state.Tag{{"a", "1"}, {"a", "2"}} }, 400, "Duplicate.TagKey"},
		{"too many IPv6", func(r *state.CreateNetworkInterfaceRequest) { r.Ipv6AddressCount = 11 }, 400, "InvalidParameter"},
		{"token too long", func(r *state.CreateNetworkInterfaceRequest) { r.ClientToken = string(make([]byte, 65)) }, 400, "InvalidParameter.ClientToken"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w.t = t
			w.refused(tt.status, tt.code, func() error {
				req := state.CreateNetworkInterfaceRequest{VSwitchId: w.vsw, SecurityGroupId: w.sg}
				tt.change(&req)
				return errOf(w.CreateNetworkInterface(req))
			})
		})
	}
}

func TestNamedAddresses(t *testing.T) {
	w := newWorld(t)
	eni := w.eni(func(r *state.CreateNetworkInterfaceRequest) {
		r.PrimaryIpAddress, r.PrivateIpAddress = "192.168.1.9", []string{"192.168.1.30", "192.168.1.20"}
	})
	if want := addrs("192.168.1.9", "192.168.1.30", "192.168.1.20"); !slices.Equal(eni.PrivateIpAddresses, want) {
		t.Errorf("addresses %v, want %v", eni.PrivateIpAddresses, want)
	}
	eni = w.eni(func(r *state.CreateNetworkInterfaceRequest) {
		r.PrimaryIpAddress, r.SecondaryPrivateIpAddressCount = "192.168.1.10", 3
	})
	if eni.PrimaryIpAddress.String() != "192.168.1.10" || eni.PrivateIpAddresses[0] != eni.PrimaryIpAddress || len(eni.PrivateIpAddresses) != 4 {
		t.Errorf("primary %s of %v", eni.PrimaryIpAddress, eni.PrivateIpAddresses)
	}
	eni = w.eni(func(r *state.CreateNetworkInterfaceRequest) { r.PrivateIpAddress = []string{"192.168.1.11"} })
	if eni.PrimaryIpAddress.String() == "192.168.1.11" || eni.PrivateIpAddresses[0] != eni.PrimaryIpAddress || eni.PrivateIpAddresses[1].String() != "192.168.1.11" {
		t.Errorf("primary %s of %v", eni.PrimaryIpAddress, eni.PrivateIpAddresses)
	}
}

func TestAttachRules(t *testing.T) {
	w := newWorld(t)
	instance := w.instance("ecs.t6-c1m4.large") // 2 ENIs, 2 addresses
	eni := w.eni().NetworkInterfaceId
	attach := func(eni, instance string) func() error {
		return func() error {
			return w.AttachNetworkInterface(state.AttachNetworkInterfaceRequest{NetworkInterfaceId: eni, InstanceId: instance})
		}
	}
	w.refused(404, "InvalidEniId.NotFound", attach("eni-x", instance))
	w.refused(404, "InvalidEcsId.NotFound", attach(eni, "i-x"))
	primary := w.getInstance(instance).NetworkInterfaces[0].NetworkInterfaceId
	w.refused(403, "InvalidOperation.InvalidEniType", attach(primary, instance))
	w.refused(400, "InvalidOperation.DetachPrimaryEniNotAllowed", func() error {
		return w.DetachNetworkInterface(state.DetachNetworkInterfaceRequest{NetworkInterfaceId: primary, InstanceId: instance})
	})
	elsewhere := must(w.CreateVSwitch(state.CreateVSwitchRequest{VpcId: w.vpc, ZoneId: "cn-hangzhou-g", CidrBlock: "192.168.9.0/24"}))
	w.settle()
	far := w.eni(func(r *state.CreateNetworkInterfaceRequest) { r.VSwitchId = elsewhere }).NetworkInterfaceId
	w.refused(403, "InvalidOperation.AvailabilityZoneMismatch", attach(far, instance))
	fat := w.eni(func(r *state.CreateNetworkInterfaceRequest) { r.SecondaryPrivateIpAddressCount = 2 }).NetworkInterfaceId
	w.refused(403, "InvalidOperation.Ipv4CountExceeded", attach(fat, instance))
	check(w.StopInstance(state.StopInstanceRequest{InstanceId: instance}))
	w.refused(400, "InvalidOperation.InvalidEcsState", attach(eni, instance))
	w.settle()
	check(attach(eni, instance)()) // Stopped is good enough
	w.refused(403, "EniPerInstanceLimitExceeded", attach(w.eni().NetworkInterfaceId, instance))
}

func TestSlotsAreReused(t *testing.T) {
	w := newWorld(t)
	instance := w.instance("ecs.g6.2xlarge") // 4 ENIs
	a, b := w.attached(instance), w.attached(instance)
	if a.Slot != 1 || b.Slot != 2 {
		t.Fatalf("slots %d and %d, want 1 and 2", a.Slot, b.Slot)
	}
	check(w.DetachNetworkInterface(state.DetachNetworkInterfaceRequest{NetworkInterfaceId: a.NetworkInterfaceId, InstanceId: instance}))
	// A slot is taken until its ENI is detached.
	if c := w.eni(); true {
		check(w.AttachNetworkInterface(state.AttachNetworkInterfaceRequest{NetworkInterfaceId: c.NetworkInterfaceId, InstanceId: instance}))
		w.settle()
	}
	if d := w.attached(instance); d.Slot != 1 && d.Slot != 3 {
		t.Errorf("slot %d", d.Slot)
	}
	var slots []int
	for _, e := range w.getInstance(instance).NetworkInterfaces {
		slots = append(slots, e.Slot)
	}
	if !slices.Equal(slots, []int{0, 1, 2, 3}) {
		t.Errorf("slots %v", slots)
	}
}

func TestAssignAndUnassign(t *testing.T) {
	w := newWorld(t)
	instance := w.instance("ecs.g6.2xlarge") // 10 addresses per ENI
	eni := w.attached(instance)
	id := eni.NetworkInterfaceId
	assign := func(req state.AssignPrivateIpAddressesRequest) (*state.AssignPrivateIpAddressesResult, error) {
		req.NetworkInterfaceId = id
		return w.AssignPrivateIpAddresses(req)
	}
	unassign := func(req state.UnassignPrivateIpAddressesRequest) error {
		req.NetworkInterfaceId = id
		return w.UnassignPrivateIpAddresses(req)
	}
	w.refused(403, "MissingParameter", func() error { return errOf(assign(state.AssignPrivateIpAddressesRequest{})) })
	w.refused(400, "UnsupportedParameter", func() error {
		return errOf(assign(state.AssignPrivateIpAddressesRequest{SecondaryPrivateIpAddressCount: 1, Ipv4PrefixCount: 1}))
	})
	w.refused(403, "InvalidOperation.Ipv4CountExceeded", func() error {
		return errOf(assign(state.AssignPrivateIpAddressesRequest{SecondaryPrivateIpAddressCount: 10}))
	})
	free := w.available(w.vsw)
	eight := must(assign(state.AssignPrivateIpAddressesRequest{SecondaryPrivateIpAddressCount: 8})).PrivateIpAddress
	prefix := must(assign(state.AssignPrivateIpAddressesRequest{Ipv4PrefixCount: 1})).Ipv4Prefix
	if len(eight) != 8 || len(prefix) != 1 || prefix[0].Bits() != 28 {
		t.Fatalf("assigned %v and %v", eight, prefix)
	}
	if got := w.available(w.vsw); got != free-8-16 {
		t.Errorf("%d addresses left of %d after 8 and a prefix", got, free)
	}
	// 1 primary + 8 + a prefix are all ten places.
	w.refused(403, "InvalidOperation.Ipv4CountExceeded", func() error {
		return errOf(assign(state.AssignPrivateIpAddressesRequest{Ipv4PrefixCount: 1}))
	})
	w.refused(403, "InvalidIp.IpUnassigned", func() error {
		return unassign(state.UnassignPrivateIpAddressesRequest{PrivateIpAddress: []string{eight[0].String(), eni.PrimaryIpAddress.String()}})
	})
	w.refused(403, "InvalidIp.IpUnassigned", func() error {
		return unassign(state.UnassignPrivateIpAddressesRequest{PrivateIpAddress: []string{"192.168.1.200"}})
	})
	w.refused(403, "MissingParameter", func() error { return unassign(state.UnassignPrivateIpAddressesRequest{}) })
	check(unassign(state.UnassignPrivateIpAddressesRequest{PrivateIpAddress: []string{eight[0].String()}, Ipv4Prefix: []string{prefix[0].String()}}))
	if got := w.available(w.vsw); got != free-7 {
		t.Errorf("%d addresses left of %d, want all but 7", got, free)
	}
	other := w.eni()
	w.refused(403, "InvalidIp.IpAssigned", func() error {
		return errOf(w.AssignPrivateIpAddresses(state.AssignPrivateIpAddressesRequest{NetworkInterfaceId: other.NetworkInterfaceId, PrivateIpAddress: []string{eight[1].String()}}))
	})
}

func TestIpv6(t *testing.T) {
	w := newWorld(t)
	id := w.attached(w.instance("ecs.g7.xlarge")).NetworkInterfaceId // 15 IPv6 addresses
	assign := func(req state.AssignIpv6AddressesRequest) (*state.AssignIpv6AddressesResult, error) {
		req.NetworkInterfaceId = id
		return w.AssignIpv6Addresses(req)
	}
	ten := must(assign(state.AssignIpv6AddressesRequest{Ipv6AddressCount: 10})).Ipv6Address
	v := must(w.DescribeVSwitchAttributes(w.vsw))
	for _, a := range ten {
		if !v.Ipv6CidrBlock.Contains(a) {
			t.Errorf("%s is not in %s", a, v.Ipv6CidrBlock)
		}
	}
	w.refused(403, "InvalidOperation.Ipv6CountExceeded", func() error { return errOf(assign(state.AssignIpv6AddressesRequest{Ipv6AddressCount: 6})) })
	w.refused(403, "InvalidIp.IpAssigned", func() error {
		return errOf(assign(state.AssignIpv6AddressesRequest{Ipv6Address: []string{ten[3].String()}}))
	})
	w.refused(403, "InvalidVSwitchId.IpInvalid", func() error {
		return errOf(assign(state.AssignIpv6AddressesRequest{Ipv6Address: []string{"2001:db8::1"}}))
	})
	check(w.UnassignIpv6Addresses(state.UnassignIpv6AddressesRequest{NetworkInterfaceId: id, Ipv6Address: []string{ten[3].String()}}))
	w.refused(403, "InvalidIp.IpUnassigned", func() error {
		return w.UnassignIpv6Addresses(state.UnassignIpv6AddressesRequest{NetworkInterfaceId: id, Ipv6Address: []string{ten[3].String()}})
	})
	plain := must(w.CreateVSwitch(state.CreateVSwitchRequest{VpcId: w.vpc, ZoneId: zone, CidrBlock: "192.168.5.0/24"}))
	w.settle()
	eni := w.eni(func(r *state.CreateNetworkInterfaceRequest) { r.VSwitchId = plain })
	w.refused(403, "InvalidVSwitch.Ipv6NotTurnOn", func() error {
		return errOf(w.AssignIpv6Addresses(state.AssignIpv6AddressesRequest{NetworkInterfaceId: eni.NetworkInterfaceId, Ipv6AddressCount: 1}))
	})
}

func TestAttachFaults(t *testing.T) {
	w := newWorld(t)
	instance := w.instance("ecs.g6.2xlarge")
	w.SetStuckAttaching(true)
	eni := w.attached(instance)
	w.clock.now = w.clock.now.Add(time.Hour)
	w.Tick(w.clock.now)
	if got := w.getENI(eni.NetworkInterfaceId).Status; got != state.ENIAttaching {
		t.Fatalf("a stuck ENI is %s", got)
	}
	w.SetStuckAttaching(false)
	w.settle()
	if got := w.getENI(eni.NetworkInterfaceId).Status; got != state.ENIInUse {
		t.Errorf("freed, it is %s", got)
	}
	w.SetFailingAttach(true)
	if got := w.attached(instance); got.Status != state.ENIAvailable || got.InstanceId != "" {
		t.Errorf("after a failed attach the ENI is %s on %q", got.Status, got.InstanceId)
	}
}

func TestQuotas(t *testing.T) {
	w := newWorld(t, func(o *state.Options) {
		o.Limits = state.Limits{ENIs: 3, PrivateIPsPerVPC: 20, PrivateIPsPerNormal: 10}
	})
	create := func(secondary int) func() error {
		return func() error {
			return errOf(w.CreateNetworkInterface(state.CreateNetworkInterfaceRequest{VSwitchId: w.vsw, SecurityGroupId: w.sg, SecondaryPrivateIpAddressCount: secondary}))
		}
	}
	w.refused(403, "SecurityGroupInstanceLimitExceed", create(10))
	check(create(4)())
	w.settle()
	w.refused(403, "SecurityGroupInstanceLimitExceed", create(5))
	eni := must(w.DescribeNetworkInterfaces(state.DescribeNetworkInterfacesRequest{}))[0].NetworkInterfaceId
	// A prefix takes one place in the group, but sixteen addresses of the VPC.
	w.refused(400, "QuotaExceeded.PrivateIpAddress", func() error {
		return errOf(w.AssignPrivateIpAddresses(state.AssignPrivateIpAddressesRequest{NetworkInterfaceId: eni, Ipv4PrefixCount: 1}))
	})
	check(create(0)())
	check(create(0)())
	w.refused(403, "MaxEniCountExceeded", create(0))
}

func TestDescribeNetworkInterfacesFilters(t *testing.T) {
	w := newWorld(t)
	instance := w.instance("ecs.g6.2xlarge")
	used := w.attached(instance, func(r *state.CreateNetworkInterfaceRequest) {
		r.Tag = []state.Tag{{"creator", "terway"}, {"node", "a"}}
		r.NetworkInterfaceName, r.Ipv4PrefixCount, r.Ipv6AddressCount = "node-a-1", 1, 1
	})
	other := w.vSwitch("192.168.2.0/24")
	group := must(w.CreateSecurityGroup(state.CreateSecurityGroupRequest{VpcId: w.vpc}))
	idle := w.eni(func(r *state.CreateNetworkInterfaceRequest) {
		r.VSwitchId, r.SecurityGroupId, r.Tag = other, group, []state.Tag{{"creator", "terway"}}
	})
	primary := w.getInstance(instance).NetworkInterfaces[0]
	for _, tt := range []struct {
		name   string
		filter state.DescribeNetworkInterfacesRequest
		want   []string
	}{
		{"none", state.DescribeNetworkInterfacesRequest{}, []string{primary.NetworkInterfaceId, used.NetworkInterfaceId, idle.NetworkInterfaceId}},
		{"ids", state.DescribeNetworkInterfacesRequest{NetworkInterfaceId: []string{idle.NetworkInterfaceId, "eni-x"}}, []string{idle.NetworkInterfaceId}},
		{"instance", state.DescribeNetworkInterfacesRequest{InstanceId: instance}, []string{primary.NetworkInterfaceId, used.NetworkInterfaceId}},
		{"type", state.DescribeNetworkInterfacesRequest{Type: "Primary"}, []string{primary.NetworkInterfaceId}},
		{"status", state.DescribeNetworkInterfacesRequest{Status: "Available"}, []string{idle.NetworkInterfaceId}},
		{"vSwitch", state.DescribeNetworkInterfacesRequest{VSwitchId: other}, []string{idle.NetworkInterfaceId}},
		{"VPC", state.DescribeNetworkInterfacesRequest{VpcId: "vpc-x"}, nil},
		{"group", state.DescribeNetworkInterfacesRequest{SecurityGroupId: group}, []string{idle.NetworkInterfaceId}},
		{"tag", state.DescribeNetworkInterfacesRequest{Tag: []state.Tag{{"creator", "terway"}}}, []string{used.NetworkInterfaceId, idle.NetworkInterfaceId}},
		{"tags", state.DescribeNetworkInterfacesRequest{Tag: []state.Tag{{"creator", "terway"}, {"node", ""}}}, []string{used.NetworkInterfaceId}},
		{"name", state.DescribeNetworkInterfacesRequest{NetworkInterfaceName: "node-*"}, []string{used.NetworkInterfaceId}},
		{"address", state.DescribeNetworkInterfacesRequest{PrivateIpAddress: []string{idle.PrimaryIpAddress.String(), "192.168.7.7"}}, []string{idle.NetworkInterfaceId}},
		{"address in a prefix", state.DescribeNetworkInterfacesRequest{PrivateIpAddress: []string{used.Ipv4Prefixes[0].Addr().Next().String()}}, []string{used.NetworkInterfaceId}},
		{"IPv6", state.DescribeNetworkInterfacesRequest{Ipv6Address: []string{used.Ipv6Addresses[0].String()}}, []string{used.NetworkInterfaceId}},
		{"primary address", state.DescribeNetworkInterfacesRequest{PrimaryIpAddress: idle.PrimaryIpAddress.String()}, []string{idle.NetworkInterfaceId}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, e := range must(w.DescribeNetworkInterfaces(tt.filter)) {
				got = append(got, e.NetworkInterfaceId)
			}
			if !slices.IsSorted(got) {
				t.Errorf("not in order: %v", got)
			}
			slices.Sort(tt.want)
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestResultsAreCopies(t *testing.T) {
	w := newWorld(t)
	eni := w.eni(func(r *state.CreateNetworkInterfaceRequest) { r.Tag = []state.Tag{{"a", "b"}} })
	before := w.saved()
	eni.PrivateIpAddresses[0] = netip.MustParseAddr("1.1.1.1")
	eni.SecurityGroupIds[0], eni.Tags[0].Value, eni.Status = "x", "x", "x"
	for _, table := range w.View().RouteTables {
		table.RouteEntries[0].Status = "x"
	}
	if w.saved() != before {
		t.Error("changing a result changed the state")
	}
}
