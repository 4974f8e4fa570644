package state

import (
	"net/netip"
	"slices"
)

// DescribeVRouters lists the routers of the VPCs, by the VPC's id.
func (s *State) DescribeVRouters(req DescribeVRoutersRequest) ([]VRouter, error) {
	found := []VRouter{}
	for _, id := range sortedKeys(s.data.VPCs) {
		vpc := s.describeVPC(s.data.VPCs[id])
		if is(req.VRouterId, vpc.VRouterId) {
			found = append(found, VRouter{
				VRouterId: vpc.VRouterId, VpcId: id, RegionId: vpc.RegionId,
				RouteTableIds: vpc.RouteTableIds, CreationTime: vpc.CreationTime,
			})
		}
	}
	return found, nil
}

func (s *State) describeTable(t *RouteTable) RouteTable {
	c := t.clone()
	c.VSwitchIds = nil
	for _, v := range s.vSwitchesOf(t.VpcId) {
		if v.RouteTableId == t.RouteTableId {
			c.VSwitchIds = append(c.VSwitchIds, v.VSwitchId)
		}
	}
	return c
}

// DescribeRouteTables lists route tables: VPC by VPC, the system table first.
func (s *State) DescribeRouteTables(req DescribeRouteTablesRequest) ([]RouteTable, error) {
	found := []RouteTable{}
	for _, vpcID := range sortedKeys(s.data.VPCs) {
		for _, t := range s.tablesOf(vpcID) {
			if is(req.RouteTableId, t.RouteTableId) && is(req.RouteTableName, t.RouteTableName) && is(req.RouteTableType, t.RouteTableType) &&
				is(req.RouterId, t.VRouterId) && is(req.VRouterId, t.VRouterId) && is(req.VpcId, t.VpcId) &&
				is(req.ResourceGroupId, t.ResourceGroupId) && hasTags(req.Tag, t.Tags) {
				found = append(found, s.describeTable(t))
			}
		}
	}
	return found, nil
}

// DescribeRouteEntryList lists the entries of one table, in the order of their creation.
func (s *State) DescribeRouteEntryList(req DescribeRouteEntryListRequest) ([]RouteEntry, error) {
	t, err := s.table(req.RouteTableId)
	if err != nil {
		return nil, err
	}
	wanted := slices.Clone(req.DestCidrBlockList)
	if req.DestinationCidrBlock != "" {
		wanted = append(wanted, req.DestinationCidrBlock)
	}
	destinations := make([]netip.Prefix, 0, len(wanted))
	for _, text := range wanted {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, badRequest("InvalidCidrBlock.Malformed", "The specified DestinationCidrBlock is not valid: %q.", text)
		}
		destinations = append(destinations, p)
	}
	found := []RouteEntry{}
	for _, e := range t.clone().RouteEntries {
		version := "ipv4"
		if e.DestinationCidrBlock.Addr().Is6() {
			version = "ipv6"
		}
		leadsTo := req.NextHopId == "" || slices.ContainsFunc(e.NextHops, func(h NextHop) bool { return h.NextHopId == req.NextHopId })
		if leadsTo && is(req.RouteEntryId, e.RouteEntryId) && is(req.RouteEntryName, e.RouteEntryName) && is(req.RouteEntryType, e.Type) &&
			is(req.NextHopType, e.NextHopType) && is(req.IpVersion, version) &&
			(len(destinations) == 0 || slices.Contains(destinations, e.DestinationCidrBlock)) {
			found = append(found, e)
		}
	}
	return found, nil
}
