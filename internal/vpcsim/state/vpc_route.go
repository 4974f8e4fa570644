package state

import (
	"cmp"
	"net/netip"
	"slices"
)

// serviceRange is the range of the cloud's own services; every table has a system route for it.
var serviceRange = netip.MustParsePrefix("100.64.0.0/10")

// tablesOf returns a VPC's route tables, the system table first, then by id.
func (s *State) tablesOf(vpcID string) []*RouteTable {
	var all []*RouteTable
	for _, id := range sortedKeys(s.data.RouteTables) {
		if t := s.data.RouteTables[id]; t.VpcId == vpcID {
			all = append(all, t)
		}
	}
	slices.SortStableFunc(all, func(a, b *RouteTable) int { return -cmp.Compare(a.RouteTableType, b.RouteTableType) })
	return all
}

// systemTable returns a VPC's system table, which always exists.
func (s *State) systemTable(vpcID string) *RouteTable { return s.tablesOf(vpcID)[0] }

func (s *State) table(id string) (*RouteTable, error) {
	if id == "" {
		return nil, missing("RouteTableId")
	}
	t, ok := s.data.RouteTables[id]
	if !ok {
		return nil, notFound("InvalidRouteTableId.NotFound", "The specified route table %q does not exist.", id)
	}
	return t, nil
}

// addSystemRoute adds an entry that belongs to the service.
func (s *State) addSystemRoute(t *RouteTable, dst netip.Prefix, nextHopType string) {
	t.RouteEntries = append(t.RouteEntries, RouteEntry{
		RouteEntryId: s.newID(idRouteEntry), RouteTableId: t.RouteTableId, DestinationCidrBlock: dst,
		Type: RouteEntrySystem, Status: StatusAvailable, NextHopType: nextHopType, CreationTime: s.now(),
	})
}

// findRouteEntry finds an entry by its id; the table is nil if it does not exist.
func (s *State) findRouteEntry(id string) (*RouteTable, int) {
	for _, t := range s.data.RouteTables {
		for i, e := range t.RouteEntries {
			if e.RouteEntryId == id {
				return t, i
			}
		}
	}
	return nil, -1
}

// CreateRouteTable creates a custom route table.
func (s *State) CreateRouteTable(req CreateRouteTableRequest) (routeTableId string, err error) {
	return once(s, "Vpc:CreateRouteTable", req.ClientToken, req, func() (string, error) {
		vpc, err := s.vpc(req.VpcId)
		if err != nil {
			return "", err
		}
		if req.AssociateType != "" && req.AssociateType != "VSwitch" {
			return "", badRequest("UnsupportedOperation", "Route tables of AssociateType %q are not supported, only VSwitch.", req.AssociateType)
		}
		if n := len(s.tablesOf(vpc.VpcId)); n >= s.options.Limits.RouteTablesPerVPC {
			return "", badRequest("QuotaExceeded.RouteTable", "VPC %s has %d route tables, the most it may have.", vpc.VpcId, n)
		}
		if err := s.checkTags(nil, req.Tag); err != nil {
			return "", err
		}
		if busy := s.vpcBusy(vpc.VpcId); busy != nil {
			return "", busy
		}
		now := s.now()
		t := &RouteTable{
			RouteTableId: s.newID(idRouteTable), RouteTableName: req.RouteTableName, Description: req.Description,
			RouteTableType: RouteTableCustom, VpcId: vpc.VpcId, VRouterId: vpc.VRouterId, Status: StatusPending,
			CreationTime: now, Tags: slices.Clone(req.Tag),
		}
		s.data.RouteTables[t.RouteTableId] = t
		s.addSystemRoute(t, serviceRange, NextHopService)
		for _, v := range s.vSwitchesOf(vpc.VpcId) {
			s.addSystemRoute(t, v.CidrBlock, NextHopLocal)
		}
		s.startIn(vpc.VpcId, opRouteTable, t.RouteTableId, now, s.options.Timing.RouteTable)
		s.changed()
		return t.RouteTableId, nil
	})
}

// DeleteRouteTable deletes a custom route table that no vSwitch uses.
func (s *State) DeleteRouteTable(req DeleteRouteTableRequest) error {
	t, err := s.table(req.RouteTableId)
	if err != nil {
		return err
	}
	if t.RouteTableType == RouteTableSystem {
		return badRequest("OperationDenied", "Route table %s is the system route table of VPC %s.", t.RouteTableId, t.VpcId)
	}
	for _, v := range s.vSwitchesOf(t.VpcId) {
		if v.RouteTableId == t.RouteTableId {
			return badRequest("DependencyViolation", "Route table %s has dependent resources: vSwitch %s.", t.RouteTableId, v.VSwitchId)
		}
	}
	if busy := s.vpcBusy(t.VpcId); busy != nil {
		return busy
	}
	delete(s.data.RouteTables, t.RouteTableId)
	s.changed()
	return nil
}

// AssociateRouteTable makes a vSwitch use a custom route table.
func (s *State) AssociateRouteTable(req AssociateRouteTableRequest) error {
	_, err := once(s, "Vpc:AssociateRouteTable", req.ClientToken, req, func() (bool, error) {
		t, v, err := s.association(req)
		if err != nil {
			return false, err
		}
		if t.VpcId != v.VpcId || t.RouteTableType != RouteTableCustom {
			return false, badRequest("OperationDenied", "Route table %s is not a custom route table of VPC %s, which vSwitch %s is in.", t.RouteTableId, v.VpcId, v.VSwitchId)
		}
		return true, s.associate(v, t)
	})
	return err
}

// UnassociateRouteTable makes a vSwitch use the system route table again.
func (s *State) UnassociateRouteTable(req AssociateRouteTableRequest) error {
	_, err := once(s, "Vpc:UnassociateRouteTable", req.ClientToken, req, func() (bool, error) {
		t, v, err := s.association(req)
		if err != nil {
			return false, err
		}
		if v.RouteTableId != t.RouteTableId || t.RouteTableType != RouteTableCustom {
			return false, badRequest("OperationDenied", "VSwitch %s is not associated with the custom route table %s.", v.VSwitchId, t.RouteTableId)
		}
		return true, s.associate(v, s.systemTable(v.VpcId))
	})
	return err
}

// association returns the table and vSwitch of a request to associate or unassociate.
func (s *State) association(req AssociateRouteTableRequest) (*RouteTable, *VSwitch, error) {
	t, err := s.table(req.RouteTableId)
	if err != nil {
		return nil, nil, err
	}
	v, err := s.vSwitch(req.VSwitchId)
	return t, v, err
}

func (s *State) associate(v *VSwitch, t *RouteTable) error {
	if busy := s.vpcBusy(v.VpcId); busy != nil {
		return busy
	}
	v.RouteTableId, t.Status = t.RouteTableId, StatusPending
	s.startIn(v.VpcId, opRouteTable, t.RouteTableId, s.now(), s.options.Timing.RouteTable)
	s.changed()
	return nil
}

// newEntry validates a new route entry. It does not check the VPC's lock.
func (s *State) newEntry(t *RouteTable, destination string, hops []NextHop, name, description string) (*RouteEntry, error) {
	if destination == "" {
		return nil, missing("DestinationCidrBlock")
	}
	dst, err := netip.ParsePrefix(destination)
	if a, addrErr := netip.ParseAddr(destination); addrErr == nil {
		dst, err = netip.PrefixFrom(a, a.BitLen()), nil // a bare address is a network of one
	}
	if err != nil || dst != dst.Masked() {
		return nil, badRequest("InvalidCidrBlock.Malformed", "The specified DestinationCidrBlock is not valid: %q, expected a network such as 10.0.0.0/24.", destination)
	}
	if dst.Addr().Is6() {
		return nil, badRequest("UnsupportedOperation", "IPv6 route entries (%s) are not supported.", dst)
	}
	for _, f := range forbiddenRanges {
		if contains(f, dst) {
			return nil, badRequest("InvalidCidrBlock", "The specified DestinationCidrBlock is not valid: %s lies in the reserved range %s.", dst, f)
		}
	}
	for _, v := range s.vSwitchesOf(t.VpcId) {
		if contains(v.CidrBlock, dst) {
			return nil, badRequest("InvalidCidrBlock", "The specified DestinationCidrBlock is not valid: %s equals or lies in %s of vSwitch %s.", dst, v.CidrBlock, v.VSwitchId)
		}
	}
	custom := 0
	for _, e := range t.RouteEntries {
		if e.DestinationCidrBlock == dst {
			if busy := s.vpcBusy(t.VpcId); e.Status == StatusDeleting && busy != nil {
				return nil, busy // the old entry is being deleted
			}
			return nil, badRequest("InvalidCIDRBlock.Duplicate", "Specified CIDR block is already exists: %s in route table %s.", dst, t.RouteTableId)
		}
		if e.Type == RouteEntryCustom {
			custom++
		}
	}
	if len(hops) == 0 {
		return nil, badRequest("InvalidNexthopTypeAndList.BothNull", "Either NextHopType and NextHopId or NextHopList must be given.")
	}
	if len(hops) > 16 {
		return nil, badRequest("QuotaExceeded.NextHop", "At most 16 next hops may be given, not %d.", len(hops))
	}
	for _, hop := range hops {
		if err := s.checkHop(t, hop); err != nil {
			return nil, err
		}
	}
	if custom >= s.options.Limits.RouteEntriesPerTable {
		return nil, badRequest("QuotaExceeded", "Route table %s has %d custom entries, the most it may have.", t.RouteTableId, custom)
	}
	return &RouteEntry{
		RouteEntryName: name, Description: description, RouteTableId: t.RouteTableId, DestinationCidrBlock: dst,
		Type: RouteEntryCustom, Status: StatusPending, NextHopType: hops[0].NextHopType, NextHopId: hops[0].NextHopId,
		NextHops: slices.Clone(hops),
	}, nil
}

func (s *State) checkHop(t *RouteTable, hop NextHop) error {
	var vpcID string
	switch hop.NextHopType {
	case NextHopInstance:
		if i, ok := s.data.Instances[hop.NextHopId]; ok && !i.Releasing {
			vpcID = i.VpcId
		}
	case NextHopNetworkInterface:
		if e, ok := s.data.NetworkInterfaces[hop.NextHopId]; ok && e.Status != ENIDeleting && !s.goesWithInstance(e) {
			vpcID = e.VpcId
		}
	// The simulator has none of these, so no such id exists.
	case "HaVip", "RouterInterface", "VpnGateway", "IPv6Gateway", "NatGateway", "Attachment", "VpcPeer", "Ipv4Gateway", "GatewayEndpoint", "Ecr":
	default:
		return badRequest("InvalidNextHopType", "The specified NextHopType is not valid: %q.", hop.NextHopType)
	}
	if vpcID != t.VpcId {
		return notFound("InvalidNextHopId.NotFound", "The specified next hop %s %q does not exist in VPC %s.", hop.NextHopType, hop.NextHopId, t.VpcId)
	}
	return nil
}

// goesWithInstance reports whether an ENI is deleted because its instance is being deleted.
func (s *State) goesWithInstance(e *NetworkInterface) bool {
	i, ok := s.data.Instances[e.InstanceId]
	return ok && i.Releasing
}

// insert adds a validated entry and starts its operation.
func (s *State) insert(t *RouteTable, e *RouteEntry) string {
	now := s.now()
	e.RouteEntryId, e.CreationTime = s.newID(idRouteEntry), now
	t.RouteEntries = append(t.RouteEntries, *e)
	s.startIn(t.VpcId, opRouteEntryCreate, e.RouteEntryId, now, s.options.Timing.RouteEntry)
	s.changed()
	return e.RouteEntryId
}

// CreateRouteEntry adds an entry to a table.
func (s *State) CreateRouteEntry(req CreateRouteEntryRequest) (routeEntryId string, err error) {
	return once(s, "Vpc:CreateRouteEntry", req.ClientToken, req, func() (string, error) {
		t, err := s.table(req.RouteTableId)
		if err != nil {
			return "", err
		}
		var hops []NextHop
		for _, h := range req.NextHopList {
			hop := NextHop{NextHopType: h.NextHopType, NextHopId: h.NextHopId, Weight: 100}
			set(&hop.Weight, h.Weight)
			hops = append(hops, hop)
		}
		if len(hops) == 0 && req.NextHopId != "" {
			hops = []NextHop{{NextHopType: cmp.Or(req.NextHopType, NextHopInstance), NextHopId: req.NextHopId, Weight: 100}}
		}
		e, err := s.newEntry(t, req.DestinationCidrBlock, hops, req.RouteEntryName, req.Description)
		if err != nil {
			return "", err
		}
		if busy := s.vpcBusy(t.VpcId); busy != nil {
			return "", busy
		}
		return s.insert(t, e), nil
	})
}

// oldEntry returns a custom entry to delete. It does not check the VPC's lock.
func (s *State) oldEntry(routeEntryID, routeTableID, destination string, hops []string) (*RouteTable, int, error) {
	var t *RouteTable
	i := -1
	if routeEntryID != "" {
		if t, i = s.findRouteEntry(routeEntryID); t == nil {
			return nil, 0, notFound("InvalidRouteEntryId.NotFound", "The specified route entry %q does not exist.", routeEntryID)
		}
	} else {
		var err error
		if t, err = s.table(routeTableID); err != nil {
			return nil, 0, err
		}
		if destination == "" {
			return nil, 0, missing("DestinationCidrBlock")
		}
		dst, err := netip.ParsePrefix(destination)
		if a, addrErr := netip.ParseAddr(destination); addrErr == nil {
			dst, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if err != nil {
			return nil, 0, badRequest("InvalidCidrBlock.Malformed", "The specified DestinationCidrBlock is not valid: %q.", destination)
		}
		i = slices.IndexFunc(t.RouteEntries, func(e RouteEntry) bool {
			leadsTo := func(id string) bool {
				return slices.ContainsFunc(e.NextHops, func(h NextHop) bool { return h.NextHopId == id })
			}
			return e.DestinationCidrBlock == dst && !slices.ContainsFunc(hops, func(id string) bool { return !leadsTo(id) })
		})
		if i < 0 {
			return nil, 0, badRequest("InvalidRouteEntry.NotFound", "Route table %s has no entry for %s by way of %v.", t.RouteTableId, dst, hops)
		}
	}
	e := &t.RouteEntries[i]
	if e.Type == RouteEntrySystem {
		return nil, 0, badRequest("OperationDenied", "Route entry %s (%s) is a system entry.", e.RouteEntryId, e.DestinationCidrBlock)
	}
	if e.Status != StatusAvailable {
		// The service misspells this code.
		return nil, 0, badRequest("IncorrcetRouteEntryStatus", "The status of route entry %s does not support this operation: %s.", e.RouteEntryId, e.Status)
	}
	return t, i, nil
}

// erase starts to delete an entry.
func (s *State) erase(t *RouteTable, i int) {
	t.RouteEntries[i].Status = StatusDeleting
	s.startIn(t.VpcId, opRouteEntryDelete, t.RouteEntries[i].RouteEntryId, s.now(), s.options.Timing.RouteEntry)
	s.changed()
}

// DeleteRouteEntry deletes a custom entry.
func (s *State) DeleteRouteEntry(req DeleteRouteEntryRequest) error {
	var hops []string
	if req.NextHopId != "" {
		hops = append(hops, req.NextHopId)
	}
	for _, h := range req.NextHopList {
		hops = append(hops, h.NextHopId)
	}
	t, i, err := s.oldEntry(req.RouteEntryId, req.RouteTableId, req.DestinationCidrBlock, hops)
	if err != nil {
		return err
	}
	if busy := s.vpcBusy(t.VpcId); busy != nil {
		return busy
	}
	s.erase(t, i)
	return nil
}

// ModifyRouteEntry changes a custom entry's name, description or next hop.
func (s *State) ModifyRouteEntry(req ModifyRouteEntryRequest) error {
	t, i, err := s.oldEntry(req.RouteEntryId, req.RouteTableId, req.DestinationCidrBlock, nil)
	if err != nil {
		return err
	}
	hop := NextHop{NextHopType: cmp.Or(req.NewNextHopType, NextHopInstance), NextHopId: req.NewNextHopId, Weight: 100}
	moved := req.NewNextHopId != ""
	if moved {
		if err := s.checkHop(t, hop); err != nil {
			return err
		}
		if busy := s.vpcBusy(t.VpcId); busy != nil {
			return busy
		}
	}
	e := &t.RouteEntries[i]
	set(&e.RouteEntryName, req.RouteEntryName)
	set(&e.Description, req.Description)
	if moved {
		e.NextHopType, e.NextHopId, e.NextHops = hop.NextHopType, hop.NextHopId, []NextHop{hop}
		e.Status = StatusPending
		s.startIn(t.VpcId, opRouteEntryCreate, e.RouteEntryId, s.now(), s.options.Timing.RouteEntry)
	}
	s.changed()
	return nil
}

// maxRouteBatch is the maximum number of entries in a batch call.
const maxRouteBatch = 50

func checkBatch(n int) error {
	switch {
	case n == 0:
		return missing("RouteEntries")
	case n > maxRouteBatch:
		return badRequest("InvalidParameter.RouteEntries", "At most %d route entries may be given, not %d.", maxRouteBatch, n)
	}
	return nil
}

// failed records why one entry of a batch failed.
func (r *RouteEntriesResult) failed(f FailedRouteEntry, err error) {
	f.FailedMessage = err.Error()
	if e, ok := err.(*Error); ok {
		f.FailedCode, f.FailedMessage = e.Code, e.Message
	}
	r.FailedCount++
	r.FailedRouteEntries = append(r.FailedRouteEntries, f)
}

// CreateRouteEntries adds up to 50 entries as one operation of their VPC: each entry succeeds
// or fails on its own.
func (s *State) CreateRouteEntries(req CreateRouteEntriesRequest) (*RouteEntriesResult, error) {
	if err := checkBatch(len(req.RouteEntries)); err != nil {
		return nil, err
	}
	// The lock is checked once: entries of the same batch do not block each other.
	busy := map[string]*Error{}
	for _, item := range req.RouteEntries {
		if t, ok := s.data.RouteTables[item.RouteTableId]; ok {
			busy[t.VpcId] = s.vpcBusy(t.VpcId)
		}
	}
	result := &RouteEntriesResult{}
	for _, item := range req.RouteEntries {
		id, err := func() (string, error) {
			t, err := s.table(item.RouteTableId)
			if err != nil {
				return "", err
			}
			var hops []NextHop
			if item.NextHop != "" {
				hops = []NextHop{{NextHopType: cmp.Or(item.NextHopType, NextHopInstance), NextHopId: item.NextHop, Weight: 100}}
			}
			e, err := s.newEntry(t, item.DstCidrBlock, hops, item.Name, cmp.Or(item.Description, item.Describption))
			if err != nil {
				return "", err
			}
			if b := busy[t.VpcId]; b != nil {
				return "", b
			}
			return s.insert(t, e), nil
		}()
		if err != nil {
			result.failed(FailedRouteEntry{DstCidrBlock: item.DstCidrBlock, NextHop: item.NextHop}, err)
			continue
		}
		result.SuccessCount++
		result.RouteEntryIds = append(result.RouteEntryIds, id)
	}
	return result, nil
}

// DeleteRouteEntries deletes up to 50 entries as one operation of their VPC.
func (s *State) DeleteRouteEntries(req DeleteRouteEntriesRequest) (*RouteEntriesResult, error) {
	if err := checkBatch(len(req.RouteEntries)); err != nil {
		return nil, err
	}
	busy := map[string]*Error{}
	for _, id := range sortedKeys(s.data.VPCs) {
		busy[id] = s.vpcBusy(id)
	}
	result := &RouteEntriesResult{}
	for _, item := range req.RouteEntries {
		var hops []string
		if item.NextHop != "" {
			hops = []string{item.NextHop}
		}
		t, i, err := s.oldEntry(item.RouteEntryId, item.RouteTableId, item.DstCidrBlock, hops)
		if err == nil && busy[t.VpcId] != nil {
			err = busy[t.VpcId]
		}
		if err != nil {
			result.failed(FailedRouteEntry{RouteEntryId: item.RouteEntryId, DstCidrBlock: item.DstCidrBlock, NextHop: item.NextHop}, err)
			continue
		}
		s.erase(t, i)
		result.SuccessCount++
	}
	return result, nil
}
