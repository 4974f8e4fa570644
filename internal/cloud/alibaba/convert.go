package alibaba

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/aliyun/alibaba-cloud-sdk-go/services/ecs"
	"github.com/aliyun/alibaba-cloud-sdk-go/services/vpc"

	"terway.dev/terway/internal/cloud"
)

// Answers are validated here, so that the rest of the product never sees an invalid address.
// Errors name the resource, the field and its value.

func convertENI(n ecs.NetworkInterfaceSet) (cloud.ENI, error) {
	wrong := func(field string, err error) (cloud.ENI, error) {
		return cloud.ENI{}, fmt.Errorf("ENI %q: %s: %w", n.NetworkInterfaceId, field, err)
	}
	e := cloud.ENI{
		ID:             n.NetworkInterfaceId,
		MAC:            n.MacAddress,
		Status:         cloud.ENIStatus(n.Status),
		Type:           n.Type,
		InstanceID:     orDefault(n.InstanceId, n.Attachment.InstanceId),
		VPCID:          n.VpcId,
		VSwitchID:      n.VSwitchId,
		Zone:           n.ZoneId,
		SecurityGroups: n.SecurityGroupIds.SecurityGroupId,
		Tags:           map[string]string{},
	}
	if e.ID == "" {
		return wrong("NetworkInterfaceId", fmt.Errorf("is empty"))
	}
	// An ENI that is being created or deleted may lack fields.
	usable := e.Status == cloud.ENIAvailable || e.Status == cloud.ENIAttaching || e.Status == cloud.ENIInUse || e.Status == cloud.ENIDetaching
	if usable || e.MAC != "" {
		mac, err := net.ParseMAC(e.MAC)
		if err != nil || len(mac) != 6 {
			return wrong("MacAddress", fmt.Errorf("%q is not a MAC address", e.MAC))
		}
		e.MAC = mac.String()
	}
	var err error
	if usable || n.PrivateIpAddress != "" {
		if e.Primary, err = parseIPv4(n.PrivateIpAddress); err != nil {
			return wrong("PrivateIpAddress", err)
		}
		e.Addresses = []netip.Addr{e.Primary}
	}
	for _, p := range n.PrivateIpSets.PrivateIpSet {
		a, err := parseIPv4(p.PrivateIpAddress)
		if err != nil {
			return wrong("PrivateIpSets", err)
		}
		if p.Primary && a != e.Primary {
			return wrong("PrivateIpSets", fmt.Errorf("the primary address is %s here and %q in PrivateIpAddress", a, n.PrivateIpAddress))
		}
		if !slices.Contains(e.Addresses, a) {
			e.Addresses = append(e.Addresses, a)
		}
	}
	for _, t := range n.Tags.Tag {
		e.Tags[orDefault(t.Key, t.TagKey)] = orDefault(t.Value, t.TagValue)
	}
	return e, nil
}

// createdENI converts the answer of CreateNetworkInterface to that of a description.
func createdENI(r *ecs.CreateNetworkInterfaceResponse) ecs.NetworkInterfaceSet {
	return ecs.NetworkInterfaceSet{
		NetworkInterfaceId: r.NetworkInterfaceId,
		MacAddress:         r.MacAddress,
		Status:             orDefault(r.Status, string(cloud.ENICreating)),
		Type:               orDefault(r.Type, "Secondary"),
		VpcId:              r.VpcId,
		VSwitchId:          r.VSwitchId,
		ZoneId:             r.ZoneId,
		PrivateIpAddress:   r.PrivateIpAddress,
		PrivateIpSets:      ecs.PrivateIpSetsInDescribeNetworkInterfaces(r.PrivateIpSets),
		Ipv6Sets:           ecs.Ipv6SetsInDescribeNetworkInterfaces(r.Ipv6Sets),
		Ipv4PrefixSets:     ecs.Ipv4PrefixSetsInDescribeNetworkInterfaces(r.Ipv4PrefixSets),
		Ipv6PrefixSets:     ecs.Ipv6PrefixSetsInDescribeNetworkInterfaces(r.Ipv6PrefixSets),
		SecurityGroupIds:   ecs.SecurityGroupIdsInDescribeNetworkInterfaces(r.SecurityGroupIds),
		Tags:               ecs.TagsInDescribeNetworkInterfaces(r.Tags),
	}
}

func convertVSwitch(v vpc.VSwitch) (cloud.VSwitch, error) {
	s := cloud.VSwitch{ID: v.VSwitchId, Name: v.VSwitchName, Status: v.Status, VPCID: v.VpcId, Zone: v.ZoneId,
		Available: int(v.AvailableIpAddressCount), Tags: convertTags(v.Tags.Tag)}
	if s.ID == "" {
		return s, fmt.Errorf("vSwitch: VSwitchId: is empty")
	}
	var err error
	if s.CIDR, err = parsePrefix(v.CidrBlock); err != nil || !s.CIDR.Addr().Is4() {
		return s, fmt.Errorf("vSwitch %q: CidrBlock: %q is not an IPv4 range", s.ID, v.CidrBlock)
	}
	if v.Ipv6CidrBlock != "" {
		if s.IPv6CIDR, err = parsePrefix(v.Ipv6CidrBlock); err != nil || !s.IPv6CIDR.Addr().Is6() {
			return s, fmt.Errorf("vSwitch %q: Ipv6CidrBlock: %q is not an IPv6 range", s.ID, v.Ipv6CidrBlock)
		}
	}
	if v.AvailableIpAddressCount < 0 {
		return s, fmt.Errorf("vSwitch %q: AvailableIpAddressCount: %d is negative", s.ID, v.AvailableIpAddressCount)
	}
	return s, nil
}

func convertVPC(r *vpc.DescribeVpcAttributeResponse) (*cloud.VPC, error) {
	v := &cloud.VPC{ID: r.VpcId, Name: r.VpcName, Status: r.Status, Tags: convertTags(r.Tags.Tag)}
	return v, setRanges(v, r.CidrBlock, r.SecondaryCidrBlocks.SecondaryCidrBlock)
}

// listedVPC converts an item of a list with convertVPC.
func listedVPC(r vpc.Vpc) (*cloud.VPC, error) {
	v := &cloud.VPC{ID: r.VpcId, Name: r.VpcName, Status: r.Status, Tags: convertTags(r.Tags.Tag)}
	return v, setRanges(v, r.CidrBlock, r.SecondaryCidrBlocks.SecondaryCidrBlock)
}

func setRanges(v *cloud.VPC, primary string, secondary []string) error {
	if v.ID == "" {
		return fmt.Errorf("VPC: VpcId: is empty")
	}
	for _, s := range append([]string{primary}, secondary...) {
		p, err := parsePrefix(s)
		if err != nil {
			return fmt.Errorf("VPC %q: CidrBlock: %w", v.ID, err)
		}
		v.CIDRs = append(v.CIDRs, p)
	}
	return nil
}

func convertTags(tags []vpc.Tag) map[string]string {
	m := map[string]string{}
	for _, t := range tags {
		m[orDefault(t.Key, t.TagKey)] = orDefault(t.Value, t.TagValue)
	}
	return m
}

func convertSecurityGroup(g ecs.SecurityGroup) (cloud.SecurityGroup, error) {
	s := cloud.SecurityGroup{ID: g.SecurityGroupId, Name: g.SecurityGroupName, VPCID: g.VpcId, Type: g.SecurityGroupType,
		Free: g.AvailableInstanceAmount, Tags: map[string]string{}}
	if s.ID == "" {
		return s, fmt.Errorf("security group: SecurityGroupId: is empty")
	}
	for _, t := range g.Tags.Tag {
		s.Tags[orDefault(t.Key, t.TagKey)] = orDefault(t.Value, t.TagValue)
	}
	return s, nil
}

func convertInstanceType(t ecs.InstanceType) (*cloud.InstanceType, error) {
	r := &cloud.InstanceType{Name: t.InstanceTypeId, ENIs: t.EniQuantity, IPv4PerENI: t.EniPrivateIpAddressQuantity, IPv6PerENI: t.EniIpv6AddressQuantity}
	for _, n := range []struct {
		field string
		value int
		least int
	}{{"EniQuantity", r.ENIs, 1}, {"EniPrivateIpAddressQuantity", r.IPv4PerENI, 1}, {"EniIpv6AddressQuantity", r.IPv6PerENI, 0}} {
		if n.value < n.least {
			return nil, fmt.Errorf("instance type %q: %s: %d is less than %d", r.Name, n.field, n.value, n.least)
		}
	}
	return r, nil
}

// describeType converts a description of an instance type. Unlike a node's limits, numbers may
// be missing; they are 0 then.
func describeType(t ecs.InstanceType) (cloud.TypeDescription, error) {
	d := cloud.TypeDescription{
		InstanceType: cloud.InstanceType{Name: t.InstanceTypeId, ENIs: t.EniQuantity, IPv4PerENI: t.EniPrivateIpAddressQuantity, IPv6PerENI: t.EniIpv6AddressQuantity},
		Family:       t.InstanceTypeFamily, VCPU: t.CpuCoreCount, MemoryGiB: t.MemorySize, ENITotal: t.EniTotalQuantity, Trunk: t.EniTrunkSupported,
		BandwidthKbit: min(t.InstanceBandwidthRx, t.InstanceBandwidthTx), Queues: t.SecondaryEniQueueNumber,
	}
	if d.Name == "" {
		return d, fmt.Errorf("instance type: InstanceTypeId: is empty")
	}
	for _, f := range []struct {
		field string
		value float64
	}{
		{"EniQuantity", float64(d.ENIs)}, {"EniPrivateIpAddressQuantity", float64(d.IPv4PerENI)}, {"EniIpv6AddressQuantity", float64(d.IPv6PerENI)},
		{"CpuCoreCount", float64(d.VCPU)}, {"MemorySize", d.MemoryGiB}, {"EniTotalQuantity", float64(d.ENITotal)},
		{"InstanceBandwidthRx or InstanceBandwidthTx", float64(d.BandwidthKbit)}, {"SecondaryEniQueueNumber", float64(d.Queues)},
	} {
		if f.value < 0 {
			return d, fmt.Errorf("instance type %q: %s: %g is negative", d.Name, f.field, f.value)
		}
	}
	return d, nil
}

func parseIPv4(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is4() {
		return netip.Addr{}, fmt.Errorf("%q is not an IPv4 address", s)
	}
	return a, nil
}

func parsePrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is not a CIDR block", s)
	}
	return p.Masked(), nil
}
