package state

import (
	"net/netip"
	"slices"
)

func (s *State) vSwitch(id string) (*VSwitch, error) {
	if id == "" {
		return nil, missing("VSwitchId")
	}
	v, ok := s.data.VSwitches[id]
	if !ok {
		return nil, notFound("InvalidVSwitchId.NotFound", "The specified VSwitch %q does not exist.", id)
	}
	return v, nil
}

// vSwitchesOf returns a VPC's vSwitches, by id.
func (s *State) vSwitchesOf(vpcID string) []*VSwitch {
	var all []*VSwitch
	for _, id := range sortedKeys(s.data.VSwitches) {
		if v := s.data.VSwitches[id]; v.VpcId == vpcID {
			all = append(all, v)
		}
	}
	return all
}

// CreateVSwitch creates a vSwitch; it uses the VPC's system route table.
func (s *State) CreateVSwitch(req CreateVSwitchRequest) (vSwitchId string, err error) {
	return once(s, "Vpc:CreateVSwitch", req.ClientToken, req, func() (string, error) {
		vpc, err := s.vpc(req.VpcId)
		if err != nil {
			return "", err
		}
		if req.ZoneId == "" {
			return "", missing("ZoneId")
		}
		if !slices.Contains(s.options.Zones, req.ZoneId) {
			return "", notFound("InvalidZoneId.NotFound", "The specified zone %q does not exist; the zones are %v.", req.ZoneId, s.options.Zones)
		}
		cidr, err := s.vSwitchRange(vpc, req.CidrBlock)
		if err != nil {
			return "", err
		}
		var cidr6 netip.Prefix
		if req.Ipv6CidrBlock != nil {
			if cidr6, err = s.vSwitchRange6(vpc, *req.Ipv6CidrBlock); err != nil {
				return "", err
			}
		}
		if n := len(s.vSwitchesOf(vpc.VpcId)); n >= s.options.Limits.VSwitchesPerVPC {
			return "", badRequest("QuotaExceeded.VSwitch", "VPC %s has %d vSwitches, the most it may have.", vpc.VpcId, n)
		}
		if err := s.checkTags(nil, req.Tag); err != nil {
			return "", err
		}
		if busy := s.vpcBusy(vpc.VpcId); busy != nil {
			return "", busy
		}
		now := s.now()
		system := s.systemTable(vpc.VpcId)
		v := &VSwitch{
			VSwitchId: s.newID(idVSwitch), VSwitchName: req.VSwitchName, Description: req.Description,
			VpcId: vpc.VpcId, ZoneId: req.ZoneId, Status: StatusPending, CidrBlock: cidr, Ipv6CidrBlock: cidr6,
			RouteTableId: system.RouteTableId, CreationTime: now, Tags: slices.Clone(req.Tag),
		}
		s.data.VSwitches[v.VSwitchId] = v
		s.index.pools[v.VSwitchId] = newPool()
		for _, table := range s.tablesOf(vpc.VpcId) {
			s.addSystemRoute(table, cidr, NextHopLocal)
		}
		s.startIn(vpc.VpcId, opVSwitchCreate, v.VSwitchId, now, s.options.Timing.VSwitch)
		s.changed()
		return v.VSwitchId, nil
	})
}

// vSwitchRange validates the range of a new vSwitch.
func (s *State) vSwitchRange(vpc *VPC, text string) (netip.Prefix, error) {
	if text == "" {
		return netip.Prefix{}, missing("CidrBlock")
	}
	cidr, err := netip.ParsePrefix(text)
	switch {
	case err != nil || !cidr.Addr().Is4() || cidr != cidr.Masked():
		return cidr, badRequest("InvalidCidrBlock.Malformed", "The specified CidrBlock is not valid: %q, expected an IPv4 network such as 192.168.0.0/24.", text)
	case cidr.Bits() < 16 || cidr.Bits() > 29:
		return cidr, badRequest("InvalidCidrBlock", "The specified CidrBlock is not valid: the mask of %s must be from 16 to 29.", cidr)
	case !slices.ContainsFunc(vpc.CIDRs(), func(p netip.Prefix) bool { return contains(p, cidr) }):
		return cidr, badRequest("InvalidCidrBlock", "The specified CidrBlock %s is not inside a CIDR block of VPC %s: %v.", cidr, vpc.VpcId, vpc.CIDRs())
	}
	for _, other := range s.vSwitchesOf(vpc.VpcId) {
		if other.CidrBlock.Overlaps(cidr) {
			return cidr, badRequest("InvalidCidrBlock.Overlapped", "The specified CidrBlock %s overlaps %s of vSwitch %s.", cidr, other.CidrBlock, other.VSwitchId)
		}
	}
	for _, table := range s.tablesOf(vpc.VpcId) {
		for _, e := range table.RouteEntries {
			if e.Type == RouteEntryCustom && contains(cidr, e.DestinationCidrBlock) {
				return cidr, badRequest("InvalidCidrBlock.Overlapped", "The specified CidrBlock %s equals or contains the destination %s of route entry %s.", cidr, e.DestinationCidrBlock, e.RouteEntryId)
			}
		}
	}
	return cidr, nil
}

// vSwitchRange6 returns the n-th /64 of the VPC's /56.
func (s *State) vSwitchRange6(vpc *VPC, n int) (netip.Prefix, error) {
	if !vpc.Ipv6CidrBlock.IsValid() {
		return netip.Prefix{}, badRequest("OperationDenied.Ipv6NotTurnOn", "VPC %s has no IPv6 range.", vpc.VpcId)
	}
	if n < 0 || n > 255 {
		return netip.Prefix{}, badRequest("InvalidIpv6CidrBlock.Malformed", "The specified Ipv6CidrBlock is not valid: %d, expected a number from 0 to 255.", n)
	}
	b := vpc.Ipv6CidrBlock.Addr().As16()
	b[7] = byte(n)
	cidr6 := netip.PrefixFrom(netip.AddrFrom16(b), 64)
	for _, other := range s.vSwitchesOf(vpc.VpcId) {
		if other.Ipv6CidrBlock == cidr6 {
			return cidr6, badRequest("InvalidIpv6CidrBlock.Overlapped", "The IPv6 range %s belongs to vSwitch %s.", cidr6, other.VSwitchId)
		}
	}
	return cidr6, nil
}

// DeleteVSwitch deletes a vSwitch of which no resource has an address.
func (s *State) DeleteVSwitch(req DeleteVSwitchRequest) error {
	v, err := s.vSwitch(req.VSwitchId)
	if err != nil {
		return err
	}
	if all := s.holders(v.VSwitchId); len(all) > 0 {
		return badRequest("DependencyViolation", "VSwitch %s has dependent resources: %s has an address of it.", v.VSwitchId, all[0])
	}
	if system := s.systemTable(v.VpcId); v.RouteTableId != system.RouteTableId {
		return badRequest("DependencyViolation", "VSwitch %s has dependent resources: route table %s is associated with it.", v.VSwitchId, v.RouteTableId)
	}
	if busy := s.vpcBusy(v.VpcId); busy != nil {
		return busy
	}
	v.Status = StatusDeleting
	s.startIn(v.VpcId, opVSwitchDelete, v.VSwitchId, s.now(), s.options.Timing.VSwitch)
	s.changed()
	return nil
}

// removeVSwitch completes DeleteVSwitch.
func (s *State) removeVSwitch(id string) {
	v := s.data.VSwitches[id]
	for _, table := range s.tablesOf(v.VpcId) {
		table.RouteEntries = slices.DeleteFunc(table.RouteEntries, func(e RouteEntry) bool {
			return e.Type == RouteEntrySystem && e.DestinationCidrBlock == v.CidrBlock
		})
	}
	delete(s.data.VSwitches, id)
	delete(s.data.Freed, id)
	delete(s.index.pools, id)
}

// ModifyVSwitchAttribute changes names, or adds an IPv6 range to the vSwitch.
func (s *State) ModifyVSwitchAttribute(req ModifyVSwitchAttributeRequest) error {
	v, err := s.vSwitch(req.VSwitchId)
	if err != nil {
		return err
	}
	cidr6 := v.Ipv6CidrBlock
	if req.EnableIPv6 && !cidr6.IsValid() {
		if req.Ipv6CidrBlock == nil {
			return missing("Ipv6CidrBlock")
		}
		if cidr6, err = s.vSwitchRange6(s.data.VPCs[v.VpcId], *req.Ipv6CidrBlock); err != nil {
			return err
		}
	}
	set(&v.VSwitchName, req.VSwitchName)
	set(&v.Description, req.Description)
	v.Ipv6CidrBlock = cidr6
	s.changed()
	return nil
}

// SetVSwitchFull makes a vSwitch refuse every new address.
func (s *State) SetVSwitchFull(vSwitchId string, full bool) error {
	v, err := s.vSwitch(vSwitchId)
	if err != nil {
		return err
	}
	v.Full = full
	s.changed()
	return nil
}

func (s *State) describeVSwitch(v *VSwitch) VSwitch {
	c := v.clone()
	c.AvailableIpAddressCount = s.available(v)
	return c
}

// DescribeVSwitches lists vSwitches, by id.
func (s *State) DescribeVSwitches(req DescribeVSwitchesRequest) ([]VSwitch, error) {
	ids := list(req.VSwitchId)
	found := []VSwitch{}
	for _, id := range sortedKeys(s.data.VSwitches) {
		v := s.data.VSwitches[id]
		if isOneOf(ids, id) && isNot(req.IsDefault) && isBool(req.EnableIpv6, v.Ipv6CidrBlock.IsValid()) && is(req.VSwitchName, v.VSwitchName) && is(req.VpcId, v.VpcId) && is(req.ZoneId, v.ZoneId) &&
			is(req.RouteTableId, v.RouteTableId) && is(req.ResourceGroupId, v.ResourceGroupId) && hasTags(req.Tag, v.Tags) {
			found = append(found, s.describeVSwitch(v))
		}
	}
	return found, nil
}

// DescribeVSwitchAttributes returns one vSwitch.
func (s *State) DescribeVSwitchAttributes(vSwitchId string) (*VSwitch, error) {
	v, err := s.vSwitch(vSwitchId)
	if err != nil {
		return nil, err
	}
	c := s.describeVSwitch(v)
	return &c, nil
}

// CheckCanAllocateVpcPrivateIpAddress reports whether an address of a vSwitch is free.
func (s *State) CheckCanAllocateVpcPrivateIpAddress(req CheckCanAllocateVpcPrivateIpAddressRequest) (bool, error) {
	v, err := s.vSwitch(req.VSwitchId)
	if err != nil {
		return false, err
	}
	if req.PrivateIpAddress == "" {
		return false, missing("PrivateIpAddress")
	}
	a, err := netip.ParseAddr(req.PrivateIpAddress)
	if err != nil {
		return false, badRequest("InvalidPrivateIpAddress.Malformed", "The specified PrivateIpAddress is not valid: %q.", req.PrivateIpAddress)
	}
	if v.Full || s.pool(v.VSwitchId).holder[a] != "" {
		return false, nil
	}
	return usable(v.CidrBlock, a) || usable6(v.Ipv6CidrBlock, a), nil
}
