package state_test

import (
	"net/netip"
	"slices"
	"testing"

	"terway.dev/terway/internal/vpcsim/state"
)

func TestCreateVSwitchRules(t *testing.T) {
	w := newWorld(t)
	for _, tt := range []struct {
		name, cidr, zone string
		status           int
		code             string
	}{
		{"too big", "192.168.0.0/15", zone, 400, "InvalidCidrBlock"},
		{"too small", "192.168.2.0/30", zone, 400, "InvalidCidrBlock"},
		{"host bits", "192.168.2.1/24", zone, 400, "InvalidCidrBlock.Malformed"},
		{"outside", "10.0.0.0/24", zone, 400, "InvalidCidrBlock"},
		{"overlap", "192.168.1.128/25", zone, 400, "InvalidCidrBlock.Overlapped"},
		{"no zone", "192.168.2.0/24", "", 400, "MissingParameter"},
		{"other zone", "192.168.2.0/24", "cn-hangzhou-z", 404, "InvalidZoneId.NotFound"},
		{"no range", "", zone, 400, "MissingParameter"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w.t = t
			w.refused(tt.status, tt.code, func() error {
				return errOf(w.CreateVSwitch(state.CreateVSwitchRequest{VpcId: w.vpc, ZoneId: tt.zone, CidrBlock: tt.cidr}))
			})
		})
	}
}

// The service reserves the first address and the last three.
func TestVSwitchGivesAllButReservedAddresses(t *testing.T) {
	for cidr, size := range map[string]int{"192.168.2.0/29": 8, "192.168.2.0/28": 16, "192.168.2.0/26": 64, "192.168.2.0/24": 256} {
		t.Run(cidr, func(t *testing.T) {
			w := newWorld(t)
			vsw := w.vSwitch(cidr)
			if got := w.available(vsw); got != size-4 {
				t.Fatalf("a fresh vSwitch has %d addresses, want %d", got, size-4)
			}
			var got []netip.Addr
			for w.available(vsw) > 0 {
				before := w.available(vsw)
				eni := w.eni(func(r *state.CreateNetworkInterfaceRequest) {
					r.VSwitchId = vsw
					r.SecondaryPrivateIpAddressCount = min(before, 49) - 1
				})
				got = append(got, eni.PrivateIpAddresses...)
				if left := w.available(vsw); left != before-len(eni.PrivateIpAddresses) {
					t.Fatalf("%d addresses left after %d of %d were given", left, len(eni.PrivateIpAddresses), before)
				}
			}
			if slices.IsSorted(func() []int {
				var last []int
				for _, a := range got[:3] {
					last = append(last, int(a.As4()[3]))
				}
				return last
			}()) {
				t.Errorf("the first addresses are in order (%v): clients would rely on it", got[:3])
			}
			slices.SortFunc(got, netip.Addr.Compare)
			want := netip.MustParsePrefix(cidr).Addr()
			for _, a := range got {
				if want = want.Next(); a != want {
					t.Fatalf("address %s was given, next should be %s", a, want)
				}
			}
			w.refused(403, "InvalidVSwitchId.IpNotEnough", func() error {
				return errOf(w.CreateNetworkInterface(state.CreateNetworkInterfaceRequest{VSwitchId: vsw, SecurityGroupId: w.sg}))
			})
		})
	}
}

func TestGatewayIsThirdFromTheEnd(t *testing.T) {
	w := newWorld(t)
	v := must(w.DescribeVSwitchAttributes(w.vsw))
	if got := v.Gateway().String(); got != "192.168.1.253" {
		t.Errorf("gateway is %s", got)
	}
	if !v.Ipv6CidrBlock.Contains(v.Ipv6Gateway()) {
		t.Errorf("IPv6 gateway %s is not in %s", v.Ipv6Gateway(), v.Ipv6CidrBlock)
	}
	for _, reserved := range []string{"192.168.1.0", "192.168.1.253", "192.168.1.254", "192.168.1.255", "192.168.2.1"} {
		w.refused(403, "InvalidVSwitchId.IpInvalid", func() error {
			return errOf(w.CreateNetworkInterface(state.CreateNetworkInterfaceRequest{VSwitchId: w.vsw, SecurityGroupId: w.sg, PrimaryIpAddress: reserved}))
		})
		if must(w.CheckCanAllocateVpcPrivateIpAddress(state.CheckCanAllocateVpcPrivateIpAddressRequest{VSwitchId: w.vsw, PrivateIpAddress: reserved})) {
			t.Errorf("%s can be allocated", reserved)
		}
	}
}

func TestFreedAddressesComeLast(t *testing.T) {
	w := newWorld(t)
	vsw := w.vSwitch("192.168.2.0/28") // 12 addresses
	eni := w.eni(func(r *state.CreateNetworkInterfaceRequest) { r.VSwitchId = vsw; r.SecondaryPrivateIpAddressCount = 5 })
	freed := []netip.Addr{eni.PrivateIpAddresses[2], eni.PrivateIpAddresses[1]}
	for _, a := range freed {
		check(w.UnassignPrivateIpAddresses(state.UnassignPrivateIpAddressesRequest{NetworkInterfaceId: eni.NetworkInterfaceId, PrivateIpAddress: []string{a.String()}}))
	}
	got := must(w.AssignPrivateIpAddresses(state.AssignPrivateIpAddressesRequest{NetworkInterfaceId: eni.NetworkInterfaceId, SecondaryPrivateIpAddressCount: 8}))
	if !slices.Equal(got.PrivateIpAddress[6:], freed) {
		t.Errorf("the last two of %v should be %v, the longest free first", got.PrivateIpAddress, freed)
	}
}

func TestFullVSwitchFault(t *testing.T) {
	w := newWorld(t)
	eni := w.eni()
	check(w.SetVSwitchFull(w.vsw, true))
	if got := w.available(w.vsw); got != 0 {
		t.Errorf("a full vSwitch has %d addresses", got)
	}
	assign := func() error {
		return errOf(w.AssignPrivateIpAddresses(state.AssignPrivateIpAddressesRequest{NetworkInterfaceId: eni.NetworkInterfaceId, SecondaryPrivateIpAddressCount: 1}))
	}
	w.refused(403, "InvalidVSwitchId.IpNotEnough", assign)
	check(w.SetVSwitchFull(w.vsw, false))
	if err := assign(); err != nil {
		t.Errorf("after the fault: %v", err)
	}
	w.refused(404, "InvalidVSwitchId.NotFound", func() error { return w.SetVSwitchFull("vsw-none", true) })
}

func TestDeleteVSwitchAndVpcNeedNothingLeft(t *testing.T) {
	w := newWorld(t)
	eni := w.eni()
	del := func() error { return w.DeleteVSwitch(state.DeleteVSwitchRequest{VSwitchId: w.vsw}) }
	w.refused(400, "DependencyViolation", del)
	check(w.DeleteNetworkInterface(state.DeleteNetworkInterfaceRequest{NetworkInterfaceId: eni.NetworkInterfaceId}))
	w.refused(400, "DependencyViolation", del) // the ENI is Deleting, but still exists
	w.settle()
	delVPC := func() error { return w.DeleteVpc(state.DeleteVpcRequest{VpcId: w.vpc}) }
	w.refused(400, "DependencyViolation.VSwitch", delVPC)
	check(del())
	w.settle()
	w.refused(400, "DependencyViolation.SecurityGroup", delVPC)
	check(w.DeleteSecurityGroup(state.DeleteSecurityGroupRequest{SecurityGroupId: w.sg}))
	check(delVPC())
	if left := must(w.DescribeRouteTables(state.DescribeRouteTablesRequest{})); len(left) != 0 {
		t.Errorf("route tables left: %+v", left)
	}
}

func TestSecondaryRangesAndPendingStates(t *testing.T) {
	w := newWorld(t)
	add := func(cidr string) error {
		return w.AssociateVpcCidrBlock(state.AssociateVpcCidrBlockRequest{VpcId: w.vpc, SecondaryCidrBlock: cidr})
	}
	w.refused(400, "InvalidCidrBlock.Overlapped", func() error { return add("192.168.128.0/17") })
	w.refused(400, "InvalidCidrBlock", func() error { return add("100.64.0.0/16") })
	for _, cidr := range []string{"10.0.0.0/16", "10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16", "10.4.0.0/16"} {
		check(add(cidr))
	}
	w.refused(400, "QuotaExceeded.SecondaryCidrBlock", func() error { return add("10.5.0.0/16") })
	id := must(w.CreateVSwitch(state.CreateVSwitchRequest{VpcId: w.vpc, ZoneId: zone, CidrBlock: "10.4.0.0/24"}))
	if v := must(w.DescribeVSwitchAttributes(id)); v.Status != state.StatusPending {
		t.Errorf("a new vSwitch is %s before the next Tick", v.Status)
	}
	w.refused(400, "IncorrectVSwitchStatus", func() error {
		return errOf(w.CreateVSwitch(state.CreateVSwitchRequest{VpcId: w.vpc, ZoneId: zone, CidrBlock: "10.4.1.0/24"}))
	})
	w.refused(400, "IncorrectVSwitchStatus", func() error {
		return errOf(w.CreateNetworkInterface(state.CreateNetworkInterfaceRequest{VSwitchId: id, SecurityGroupId: w.sg}))
	})
	w.settle()
	w.refused(400, "DependencyViolation", func() error {
		return w.UnassociateVpcCidrBlock(state.UnassociateVpcCidrBlockRequest{VpcId: w.vpc, SecondaryCidrBlock: "10.4.0.0/16"})
	})
	check(w.UnassociateVpcCidrBlock(state.UnassociateVpcCidrBlockRequest{VpcId: w.vpc, SecondaryCidrBlock: "10.3.0.0/16"}))
}

func TestVpcRules(t *testing.T) {
	w := newWorld(t, func(o *state.Options) { o.Limits.VPCs = 2 })
	for cidr, code := range map[string]string{
		"169.254.0.0/16": "InvalidCidrBlock", "10.0.0.0/29": "InvalidCidrBlock", "10.0.0.1/16": "InvalidCidrBlock.Malformed", "x": "InvalidCidrBlock.Malformed",
	} {
		w.refused(400, code, func() error { return errOf(w.CreateVpc(state.CreateVpcRequest{CidrBlock: cidr})) })
	}
	w.refused(400, "DryRunOperation", func() error { return errOf(w.CreateVpc(state.CreateVpcRequest{DryRun: true})) })
	second := must(w.CreateVpc(state.CreateVpcRequest{CidrBlock: "10.0.0.0/8", EnableIpv6: true}))
	w.refused(400, "QuotaExceeded.Vpc", func() error { return errOf(w.CreateVpc(state.CreateVpcRequest{})) })
	w.refused(400, "IncorrectVpcStatus", func() error {
		return errOf(w.CreateSecurityGroup(state.CreateSecurityGroupRequest{VpcId: second.VpcId}))
	})
	a, b := must(w.DescribeVpcAttribute(w.vpc)), must(w.DescribeVpcAttribute(second.VpcId))
	if a.Ipv6CidrBlock.Overlaps(b.Ipv6CidrBlock) || a.Ipv6CidrBlock.Bits() != 56 {
		t.Errorf("IPv6 ranges %s and %s", a.Ipv6CidrBlock, b.Ipv6CidrBlock)
	}
}

func TestIpv6IsTurnedOnLater(t *testing.T) {
	w := newWorld(t)
	id := must(w.CreateVpc(state.CreateVpcRequest{CidrBlock: "10.0.0.0/8", VpcName: "second"})).VpcId
	w.settle()
	vsw := must(w.CreateVSwitch(state.CreateVSwitchRequest{VpcId: id, ZoneId: zone, CidrBlock: "10.0.0.0/24"}))
	w.settle()
	turnOn := func(n *int) error {
		return w.ModifyVSwitchAttribute(state.ModifyVSwitchAttributeRequest{VSwitchId: vsw, VSwitchName: ptr("pods"), EnableIPv6: true, Ipv6CidrBlock: n})
	}
	w.refused(400, "OperationDenied.Ipv6NotTurnOn", func() error { return turnOn(ptr(1)) })
	check(w.ModifyVpcAttribute(state.ModifyVpcAttributeRequest{VpcId: id, VpcName: ptr("dual"), EnableIPv6: true}))
	w.refused(400, "MissingParameter", func() error { return turnOn(nil) })
	w.refused(400, "InvalidIpv6CidrBlock.Malformed", func() error { return turnOn(ptr(256)) })
	check(turnOn(ptr(255)))
	v := must(w.DescribeVSwitches(state.DescribeVSwitchesRequest{VSwitchName: "pods"}))[0]
	vpc := must(w.DescribeVpcs(state.DescribeVpcsRequest{VpcName: "dual"}))[0]
	if v.Ipv6CidrBlock.Bits() != 64 || !vpc.Ipv6CidrBlock.Contains(v.Ipv6CidrBlock.Addr()) || v.Ipv6CidrBlock.Addr().As16()[7] != 255 {
		t.Errorf("vSwitch %s in VPC %s", v.Ipv6CidrBlock, vpc.Ipv6CidrBlock)
	}
	if all := must(w.DescribeVpcs(state.DescribeVpcsRequest{VpcId: w.vpc + "," + id})); len(all) != 2 || !slices.Equal(all[0].CIDRs(), []netip.Prefix{all[0].CidrBlock}) {
		t.Errorf("%+v", all)
	}
}
