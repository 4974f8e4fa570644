package state

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
)

// forbiddenRanges cannot be part of a VPC.
var forbiddenRanges = []netip.Prefix{
	netip.MustParsePrefix("100.64.0.0/10"),
	netip.MustParsePrefix("224.0.0.0/4"),
	netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("169.254.0.0/16"),
}

// parseVPCRange parses an IPv4 range that a VPC may have.
func parseVPCRange(parameter, text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	switch {
	case err != nil || !p.Addr().Is4() || p != p.Masked():
		return p, badRequest("InvalidCidrBlock.Malformed", "The specified %s is not valid: %q, expected an IPv4 network such as 192.168.0.0/16.", parameter, text)
	case p.Bits() < 8 || p.Bits() > 28:
		return p, badRequest("InvalidCidrBlock", "The specified %s is not valid: the mask of %s must be from 8 to 28.", parameter, p)
	}
	for _, f := range forbiddenRanges {
		if p.Overlaps(f) {
			return p, badRequest("InvalidCidrBlock", "The specified %s is not valid: %s overlaps the reserved range %s.", parameter, p, f)
		}
	}
	return p, nil
}

// CreateVpc creates a VPC with its VRouter and system route table.
func (s *State) CreateVpc(req CreateVpcRequest) (*CreateVpcResult, error) {
	return once(s, "Vpc:CreateVpc", req.ClientToken, req, func() (*CreateVpcResult, error) {
		if req.CidrBlock == "" {
			req.CidrBlock = "172.16.0.0/12"
		}
		cidr, err := parseVPCRange("CidrBlock", req.CidrBlock)
		if err != nil {
			return nil, err
		}
		var userCidrs []netip.Prefix
		for _, text := range list(req.UserCidr) {
			p, err := netip.ParsePrefix(text)
			if err != nil || !p.Addr().Is4() {
				return nil, badRequest("InvalidUserCidr.Malformed", "The specified UserCidr is not valid: %q, expected an IPv4 network.", text)
			}
			userCidrs = append(userCidrs, p.Masked())
		}
		if len(userCidrs) > 3 {
			return nil, badRequest("QuotaExceeded.UserCidr", "At most 3 user CIDR blocks may be given, not %d.", len(userCidrs))
		}
		if len(s.data.VPCs) >= s.options.Limits.VPCs {
			return nil, badRequest("QuotaExceeded.Vpc", "The maximum number of VPCs (%d) is reached.", s.options.Limits.VPCs)
		}
		if err := s.checkTags(nil, req.Tag); err != nil {
			return nil, err
		}
		var cidr6 netip.Prefix
		if req.EnableIpv6 || req.Ipv6CidrBlock != "" {
			if cidr6, err = s.ipv6Range(req.Ipv6CidrBlock); err != nil {
				return nil, err
			}
		}
		if req.DryRun {
			return nil, dryRun()
		}
		now := s.now()
		vpc := &VPC{
			VpcId: s.newID(idVPC), VpcName: req.VpcName, Description: req.Description,
			RegionId: s.options.RegionId, Status: StatusPending, CidrBlock: cidr, UserCidrs: userCidrs,
			Ipv6CidrBlock: cidr6, VRouterId: s.newID(idVRouter), ResourceGroupId: req.ResourceGroupId,
			CreationTime: now, Tags: slices.Clone(req.Tag),
		}
		table := &RouteTable{
			RouteTableId: s.newID(idRouteTable), RouteTableType: RouteTableSystem, VpcId: vpc.VpcId,
			VRouterId: vpc.VRouterId, Status: StatusAvailable, CreationTime: now,
		}
		s.data.VPCs[vpc.VpcId] = vpc
		s.data.RouteTables[table.RouteTableId] = table
		s.addSystemRoute(table, serviceRange, NextHopService)
		s.startIn(vpc.VpcId, opVPC, vpc.VpcId, now, s.options.Timing.VPC)
		s.changed()
		return &CreateVpcResult{
			VpcId: vpc.VpcId, VRouterId: vpc.VRouterId,
			RouteTableId: table.RouteTableId, ResourceGroupId: vpc.ResourceGroupId,
		}, nil
	})
}

// ipv6Range returns a VPC's /56: the given one, or the first unused one.
func (s *State) ipv6Range(text string) (netip.Prefix, error) {
	if text != "" {
		p, err := netip.ParsePrefix(text)
		if err != nil || !p.Addr().Is6() || p.Bits() != 56 || p != p.Masked() {
			return p, badRequest("InvalidIpv6CidrBlock.Malformed", "The specified Ipv6CidrBlock is not valid: %q, expected a /56.", text)
		}
		for _, id := range sortedKeys(s.data.VPCs) {
			if other := s.data.VPCs[id]; other.Ipv6CidrBlock.IsValid() && other.Ipv6CidrBlock.Overlaps(p) {
				return p, badRequest("InvalidIpv6CidrBlock", "The specified Ipv6CidrBlock %s is in use by VPC %s.", p, id)
			}
		}
		return p, nil
	}
	for i := range uint64(1 << 16) {
		var b [16]byte
		// 2408:4005:300::/40 is one of the service's ranges.
		binary.BigEndian.PutUint64(b[:], 0x2408400503000000|i<<8)
		p := netip.PrefixFrom(netip.AddrFrom16(b), 56)
		taken := false
		for _, vpc := range s.data.VPCs {
			taken = taken || vpc.Ipv6CidrBlock.IsValid() && vpc.Ipv6CidrBlock.Overlaps(p)
		}
		if !taken {
			return p, nil
		}
	}
	return netip.Prefix{}, badRequest("QuotaExceeded.Ipv6CidrBlock", "The region has no IPv6 range left.")
}

func (s *State) vpc(id string) (*VPC, error) {
	if id == "" {
		return nil, missing("VpcId")
	}
	vpc, ok := s.data.VPCs[id]
	if !ok {
		return nil, notFound("InvalidVpcId.NotFound", "The specified VPC %q does not exist.", id)
	}
	return vpc, nil
}

// DeleteVpc deletes an empty VPC.
func (s *State) DeleteVpc(req DeleteVpcRequest) error {
	vpc, err := s.vpc(req.VpcId)
	if err != nil {
		return err
	}
	for _, id := range sortedKeys(s.data.VSwitches) {
		if s.data.VSwitches[id].VpcId == vpc.VpcId {
			return badRequest("DependencyViolation.VSwitch", "VPC %s has dependent resources: vSwitch %s.", vpc.VpcId, id)
		}
	}
	for _, id := range sortedKeys(s.data.SecurityGroups) {
		if s.data.SecurityGroups[id].VpcId == vpc.VpcId {
			return badRequest("DependencyViolation.SecurityGroup", "VPC %s has dependent resources: security group %s.", vpc.VpcId, id)
		}
	}
	for _, table := range s.tablesOf(vpc.VpcId) {
		if table.RouteTableType == RouteTableCustom {
			return badRequest("DependencyViolation", "VPC %s has dependent resources: route table %s.", vpc.VpcId, table.RouteTableId)
		}
	}
	if id := s.user(vpc.VpcId); id != "" {
		return badRequest("DependencyViolation", "VPC %s has dependent resources: %s.", vpc.VpcId, id)
	}
	if busy := s.vpcBusy(vpc.VpcId); busy != nil {
		return busy
	}
	if req.DryRun {
		return dryRun()
	}
	for _, table := range s.tablesOf(vpc.VpcId) {
		delete(s.data.RouteTables, table.RouteTableId)
	}
	delete(s.data.VPCs, vpc.VpcId)
	s.changed()
	return nil
}

// ModifyVpcAttribute changes names, or adds an IPv6 range to the VPC.
func (s *State) ModifyVpcAttribute(req ModifyVpcAttributeRequest) error {
	vpc, err := s.vpc(req.VpcId)
	if err != nil {
		return err
	}
	cidr6 := vpc.Ipv6CidrBlock
	if (req.EnableIPv6 || req.Ipv6CidrBlock != "") && !cidr6.IsValid() {
		if cidr6, err = s.ipv6Range(req.Ipv6CidrBlock); err != nil {
			return err
		}
	}
	set(&vpc.VpcName, req.VpcName)
	set(&vpc.Description, req.Description)
	vpc.Ipv6CidrBlock = cidr6
	s.changed()
	return nil
}

// set changes an attribute if value is given.
func set[T any](field *T, value *T) {
	if value != nil {
		*field = *value
	}
}

// AssociateVpcCidrBlock adds a secondary range, or an IPv6 range.
func (s *State) AssociateVpcCidrBlock(req AssociateVpcCidrBlockRequest) error {
	vpc, err := s.vpc(req.VpcId)
	if err != nil {
		return err
	}
	if strings.EqualFold(req.IpVersion, "IPV6") {
		if vpc.Ipv6CidrBlock.IsValid() {
			return badRequest("QuotaExceeded.Ipv6CidrBlock", "VPC %s has the IPv6 range %s already.", vpc.VpcId, vpc.Ipv6CidrBlock)
		}
		cidr6, err := s.ipv6Range(req.IPv6CidrBlock)
		if err != nil {
			return err
		}
		if busy := s.vpcBusy(vpc.VpcId); busy != nil {
			return busy
		}
		vpc.Ipv6CidrBlock = cidr6
		s.changed()
		return nil
	}
	if req.SecondaryCidrBlock == "" {
		return missing("SecondaryCidrBlock")
	}
	cidr, err := parseVPCRange("SecondaryCidrBlock", req.SecondaryCidrBlock)
	if err != nil {
		return err
	}
	for _, old := range vpc.CIDRs() {
		if old.Overlaps(cidr) {
			return badRequest("InvalidCidrBlock.Overlapped", "The specified CIDR block %s overlaps %s of VPC %s.", cidr, old, vpc.VpcId)
		}
	}
	if len(vpc.SecondaryCidrBlocks) >= s.options.Limits.SecondaryCIDRs {
		return badRequest("QuotaExceeded.SecondaryCidrBlock", "VPC %s has %d secondary CIDR blocks, the most it may have.", vpc.VpcId, len(vpc.SecondaryCidrBlocks))
	}
	if busy := s.vpcBusy(vpc.VpcId); busy != nil {
		return busy
	}
	vpc.SecondaryCidrBlocks = append(vpc.SecondaryCidrBlocks, cidr)
	s.changed()
	return nil
}

// UnassociateVpcCidrBlock removes a secondary range that no vSwitch uses.
func (s *State) UnassociateVpcCidrBlock(req UnassociateVpcCidrBlockRequest) error {
	vpc, err := s.vpc(req.VpcId)
	if err != nil {
		return err
	}
	cidr, err := netip.ParsePrefix(req.SecondaryCidrBlock)
	i := slices.Index(vpc.SecondaryCidrBlocks, cidr)
	if err != nil || i < 0 {
		return badRequest("InvalidCidrBlock.NotFound", "VPC %s has no secondary CIDR block %q.", vpc.VpcId, req.SecondaryCidrBlock)
	}
	for _, v := range s.vSwitchesOf(vpc.VpcId) {
		if contains(cidr, v.CidrBlock) {
			return badRequest("DependencyViolation", "CIDR block %s has dependent resources: vSwitch %s.", cidr, v.VSwitchId)
		}
	}
	if busy := s.vpcBusy(vpc.VpcId); busy != nil {
		return busy
	}
	vpc.SecondaryCidrBlocks = slices.Delete(vpc.SecondaryCidrBlocks, i, i+1)
	s.changed()
	return nil
}

// describeVPC fills in fields that depend on other resources.
func (s *State) describeVPC(vpc *VPC) VPC {
	c := vpc.clone()
	c.RouteTableIds, c.VSwitchIds = nil, nil
	for _, t := range s.tablesOf(vpc.VpcId) {
		c.RouteTableIds = append(c.RouteTableIds, t.RouteTableId)
	}
	for _, v := range s.vSwitchesOf(vpc.VpcId) {
		c.VSwitchIds = append(c.VSwitchIds, v.VSwitchId)
	}
	return c
}

// DescribeVpcs lists VPCs, by id.
func (s *State) DescribeVpcs(req DescribeVpcsRequest) ([]VPC, error) {
	ids := list(req.VpcId)
	found := []VPC{}
	for _, id := range sortedKeys(s.data.VPCs) {
		v := s.data.VPCs[id]
		if isOneOf(ids, id) && is(req.VpcName, v.VpcName) && isNot(req.IsDefault) &&
			isBool(req.EnableIpv6, v.Ipv6CidrBlock.IsValid()) && is(req.ResourceGroupId, v.ResourceGroupId) && hasTags(req.Tag, v.Tags) {
			found = append(found, s.describeVPC(v))
		}
	}
	return found, nil
}

// DescribeVpcAttribute returns one VPC.
func (s *State) DescribeVpcAttribute(vpcId string) (*VPC, error) {
	vpc, err := s.vpc(vpcId)
	if err != nil {
		return nil, err
	}
	c := s.describeVPC(vpc)
	return &c, nil
}
