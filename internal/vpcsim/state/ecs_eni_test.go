package state_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"terway.dev/terway/internal/vpcsim/state"
)

// An ENI's life, with its state at each step.
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
	w.settle()
	expect(state.ENIAvailable, "")
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
	check(detach()) // idempotent
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
		{"both ways of groups", func(r *state.CreateNetworkInterfaceRequest) { r.SecurityGroupIds = []string{w.sg} }, 400, "InvalidParameter.Conflict"},
		{"groups of two kinds", func(r *state.CreateNetworkInterfaceRequest) {
			r.SecurityGroupId, r.SecurityGroupIds = "", []string{w.sg, enterprise}
		}, 400, "InvalidParameter"},
		{"address in use", func(r *state.CreateNetworkInterfaceRequest) { r.PrimaryIpAddress = taken }, 403, "InvalidIp.IpRepeated"},
		{"not an address", func(r *state.CreateNetworkInterfaceRequest) { r.PrimaryIpAddress = "1.2.3" }, 403, "InvalidIp.Address"},
		{"too many", func(r *state.CreateNetworkInterfaceRequest) { r.SecondaryPrivateIpAddressCount = 50 }, 400, "InvalidParameter"},
		{"address twice", func(r *state.CreateNetworkInterfaceRequest) {
			r.PrimaryIpAddress, r.PrivateIpAddress = "192.168.1.77", []string{"192.168.1.77"}
		}, 400, "InvalidPrivateIpAddress.Duplicated"},
		{"in a prefix too", func(r *state.CreateNetworkInterfaceRequest) {
			r.PrimaryIpAddress, r.Ipv4Prefix = "192.168.1.77", []string{"192.168.1.64/28"}
		}, 403, "InvalidIp.IpRepeated"},
		{"prefix at the edge", func(r *state.CreateNetworkInterfaceRequest) { r.Ipv4Prefix = []string{"192.168.1.240/28"} }, 403, "InvalidVSwitchId.IpInvalid"},
		{"prefix of wrong size", func(r *state.CreateNetworkInterfaceRequest) { r.Ipv4Prefix = []string{"192.168.1.64/27"} }, 400, "InvalidParameter"},
		{"another type", func(r *state.CreateNetworkInterfaceRequest) { r.InstanceType = "Member" }, 400, "InvalidParameter"},
		{"RDMA", func(r *state.CreateNetworkInterfaceRequest) { r.NetworkInterfaceTrafficMode = "HighPerformance" }, 400, "UnsupportedParameter"},
		{"another traffic mode", func(r *state.CreateNetworkInterfaceRequest) { r.NetworkInterfaceTrafficMode = "Fast" }, 400, "InvalidParameter"},
		{"IPv6 prefixes", func(r *state.CreateNetworkInterfaceRequest) { r.Ipv6PrefixCount = 1 }, 400, "UnsupportedParameter"},
		{"too many tags", func(r *state.CreateNetworkInterfaceRequest) {
			for i := range 21 {
				r.Tag = append(r.Tag, state.Tag{Key: fmt.Sprint(i)})
			}
		}, 403, "QuotaExceed.Tags"},
		{"token not of ASCII", func(r *state.CreateNetworkInterfaceRequest) { r.ClientToken = "é" }, 400, "InvalidParameter.ClientToken"},
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

// Programs for the real service do not wait between the two calls.
func TestENIIsUsedWhileItIsBeingMade(t *testing.T) {
	w := newWorld(t, func(o *state.Options) { o.Timing = state.DefaultTiming() })
	instance := w.instance("ecs.g6.2xlarge")
	create := func() string {
		return must(w.CreateNetworkInterface(state.CreateNetworkInterfaceRequest{VSwitchId: w.vsw, SecurityGroupId: w.sg})).NetworkInterfaceId
	}
	started, timing := w.clock.now, state.DefaultTiming()
	attached, deleted, idle := create(), create(), create()
	check(errOf(w.AssignPrivateIpAddresses(state.AssignPrivateIpAddressesRequest{NetworkInterfaceId: attached, SecondaryPrivateIpAddressCount: 2})))
	check(errOf(w.AssignIpv6Addresses(state.AssignIpv6AddressesRequest{NetworkInterfaceId: attached, Ipv6AddressCount: 1})))
	check(w.AttachNetworkInterface(state.AttachNetworkInterfaceRequest{NetworkInterfaceId: attached, InstanceId: instance}))
	check(w.DeleteNetworkInterface(state.DeleteNetworkInterfaceRequest{NetworkInterfaceId: deleted}))
	check(w.DetachNetworkInterface(state.DetachNetworkInterfaceRequest{NetworkInterfaceId: idle, InstanceId: instance}))
	second := must(w.RunInstances(state.RunInstancesRequest{
		InstanceType: "ecs.g6.2xlarge", VSwitchId: w.vsw, SecurityGroupId: w.sg,
		NetworkInterface: []state.RunInstancesNetworkInterface{{NetworkInterfaceId: idle}},
	}))[0]
	w.settle()
	if e := w.getENI(attached); e.Status != state.ENIInUse || len(e.PrivateIpAddresses) != 3 || len(e.Ipv6Addresses) != 1 ||
		!e.AttachedTime.Equal(started.Add(timing.CreateENI+timing.AttachENI)) {
		t.Errorf("attached at once, the ENI is %s since %s with %v", e.Status, e.AttachedTime, e.PrivateIpAddresses)
	}
	if e := w.getENI(idle); e.Status != state.ENIInUse || e.InstanceId != second {
		t.Errorf("plugged in at once, the ENI is %s on %q", e.Status, e.InstanceId)
	}
	if _, err := w.DescribeNetworkInterfaceAttribute(deleted); state.CodeOf(err) != "InvalidEniId.NotFound" {
		t.Errorf("deleted at once, the ENI is there: %v", err)
	}
}

// Clean-up code detaches an ENI in any state, then deletes it.
func TestDetachOfWhatIsNotAttached(t *testing.T) {
	w := newWorld(t)
	instance, other := w.instance("ecs.g6.2xlarge"), w.instance("ecs.g6.2xlarge")
	eni := w.eni().NetworkInterfaceId
	detach := func() error {
		return w.DetachNetworkInterface(state.DetachNetworkInterfaceRequest{NetworkInterfaceId: eni, InstanceId: instance})
	}
	before := w.saved()
	check(detach())
	if w.saved() != before {
		t.Error("detaching what is not attached changed the state")
	}
	w.SetStrictDetach(true)
	w.refused(400, "InvalidOperation.InvalidEniState", detach)
	w.SetStrictDetach(false)
	check(w.AttachNetworkInterface(state.AttachNetworkInterfaceRequest{NetworkInterfaceId: eni, InstanceId: other}))
	w.settle()
	w.refused(400, "InvalidOperation.InvalidEniState", detach) // on another instance
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
	card := func(n int) func() error {
		return func() error {
			return w.AttachNetworkInterface(state.AttachNetworkInterfaceRequest{NetworkInterfaceId: eni, InstanceId: instance, NetworkCardIndex: &n})
		}
	}
	w.refused(400, "UnsupportedParameter", card(1))
	w.refused(400, "InvalidParameter", card(-1))
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
	check(attach(eni, instance)()) // Stopped is enough
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
	// A slot is in use until its ENI is detached.
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
	for _, named := range [][]string{{"x"}, {"2001:db8::1"}, {"192.168.1.40", "192.168.1.40"}} {
		w.refused(400, "InvalidParameter", func() error {
			return errOf(assign(state.AssignPrivateIpAddressesRequest{PrivateIpAddress: named}))
		})
		w.refused(400, "InvalidParameter", func() error {
			return unassign(state.UnassignPrivateIpAddressesRequest{PrivateIpAddress: named})
		})
	}
	free := w.available(w.vsw)
	eight := must(assign(state.AssignPrivateIpAddressesRequest{SecondaryPrivateIpAddressCount: 8})).PrivateIpAddress
	prefix := must(assign(state.AssignPrivateIpAddressesRequest{Ipv4PrefixCount: 1})).Ipv4Prefix
	if len(eight) != 8 || len(prefix) != 1 || prefix[0].Bits() != 28 {
		t.Fatalf("assigned %v and %v", eight, prefix)
	}
	if got := w.available(w.vsw); got != free-8-16 {
		t.Errorf("%d addresses left of %d after 8 and a prefix", got, free)
	}
	// 1 primary + 8 + a prefix use all ten slots.
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
	w.refused(403, "InvalidIp.Address", func() error {
		return errOf(assign(state.AssignIpv6AddressesRequest{Ipv6Address: []string{"x"}}))
	})
	w.refused(400, "InvalidPrivateIpAddress.Duplicated", func() error {
		return errOf(assign(state.AssignIpv6AddressesRequest{Ipv6Address: []string{ten[3].String(), ten[3].String()}}))
	})
	w.refused(400, "UnsupportedParameter", func() error { return errOf(assign(state.AssignIpv6AddressesRequest{Ipv6PrefixCount: 1})) })
	w.refused(403, "InvalidIp.Address", func() error {
		return w.UnassignIpv6Addresses(state.UnassignIpv6AddressesRequest{NetworkInterfaceId: id, Ipv6Address: []string{"x"}})
	})
	w.refused(403, "InvalidIp.IpRepeated", func() error {
		return w.UnassignIpv6Addresses(state.UnassignIpv6AddressesRequest{NetworkInterfaceId: id, Ipv6Address: []string{ten[3].String(), ten[3].String()}})
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
	// A prefix counts as one in the group, but as sixteen addresses of the VPC.
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
		{"a service's", state.DescribeNetworkInterfacesRequest{ServiceManaged: true}, nil},
		{"instance and address", state.DescribeNetworkInterfacesRequest{InstanceId: instance, PrivateIpAddress: []string{idle.PrimaryIpAddress.String()}}, nil},
		{"an address twice", state.DescribeNetworkInterfacesRequest{PrivateIpAddress: []string{idle.PrimaryIpAddress.String(), idle.PrimaryIpAddress.String()}}, []string{idle.NetworkInterfaceId}},
		{"an id twice", state.DescribeNetworkInterfacesRequest{NetworkInterfaceId: []string{idle.NetworkInterfaceId, idle.NetworkInterfaceId}}, []string{idle.NetworkInterfaceId}},
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

func TestUnknownFiltersAreRefused(t *testing.T) {
	w := newWorld(t)
	for _, filter := range []state.DescribeNetworkInterfacesRequest{
		{Type: "Foo"}, {Status: "inuse"}, {PrivateIpAddress: []string{"x"}}, {NetworkInterfaceId: make([]string, 101)},
	} {
		w.refused(400, "InvalidParameter", func() error { return errOf(w.DescribeNetworkInterfaces(filter)) })
	}
	w.refused(404, "InvalidStatus.NotFound", func() error { return errOf(w.DescribeInstances(state.DescribeInstancesRequest{Status: "running"})) })
	w.refused(404, "InvalidNetworkType.NotFound", func() error {
		return errOf(w.DescribeInstances(state.DescribeInstancesRequest{InstanceNetworkType: "x"}))
	})
	w.refused(400, "InvalidParameter", func() error {
		return errOf(w.DescribeInstances(state.DescribeInstancesRequest{InstanceIds: make([]string, 101)}))
	})
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
