package state

import (
	"cmp"
	"slices"
	"strconv"
)

// groupList merges the two ways to pass security groups.
func groupList(one string, many []string) ([]string, error) {
	if one != "" && len(many) > 0 {
		return nil, badRequest("InvalidParameter.Conflict", "SecurityGroupId and SecurityGroupIds.N cannot both be given.")
	}
	if one != "" {
		return []string{one}, nil
	}
	return slices.Clone(many), nil
}

func (s *State) eni(id string) (*NetworkInterface, error) {
	if id == "" {
		return nil, missing("NetworkInterfaceId")
	}
	eni, ok := s.data.NetworkInterfaces[id]
	if !ok {
		return nil, notFound("InvalidEniId.NotFound", "The specified NetworkInterfaceId %q does not exist.", id)
	}
	return eni, nil
}

// free reports whether an ENI is on no instance and not being attached or detached. Controllers
// for the real service attach, assign to and delete an ENI right after they created it, so
// Creating counts as free.
func (e *NetworkInterface) free() bool { return e.Status == ENICreating || e.Status == ENIAvailable }

func invalidState(eni *NetworkInterface) *Error {
	on := ""
	if eni.InstanceId != "" {
		on = " on instance " + eni.InstanceId
	}
	return badRequest("InvalidOperation.InvalidEniState", "The current state of network interface %q does not support this operation: %s%s.", eni.NetworkInterfaceId, eni.Status, on)
}

func noIpv6Prefixes() *Error {
	return badRequest("UnsupportedParameter", "IPv6 prefixes are not supported by the simulator.")
}

// plainCard refuses what no instance type here has: ENIs with RDMA, and more than one network
// card. DescribeInstanceTypes agrees.
func plainCard(trafficMode string, card *int) error {
	switch trafficMode {
	case "", "Standard":
	case "HighPerformance":
		return badRequest("UnsupportedParameter", "NetworkInterfaceTrafficMode HighPerformance is not supported: no instance type here has ENIs with RDMA.")
	default:
		return invalid("NetworkInterfaceTrafficMode", trafficMode, "Standard or HighPerformance")
	}
	switch {
	case card == nil || *card == 0:
	case *card < 0:
		return invalid("NetworkCardIndex", strconv.Itoa(*card), "a number from 0")
	default:
		return badRequest("UnsupportedParameter", "NetworkCardIndex %d is not supported: instance types here have one network card, 0.", *card)
	}
	return nil
}

// enisOf returns the ENIs of an instance from Attaching to Detaching, by slot, without the
// members of its trunks, which use no slot.
func (s *State) enisOf(instanceID string) []*NetworkInterface {
	var all []*NetworkInterface
	for _, eni := range s.index.byInstance[instanceID] {
		if eni.Type != ENIMember {
			all = append(all, eni)
		}
	}
	slices.SortFunc(all, func(a, b *NetworkInterface) int { return cmp.Compare(a.Slot, b.Slot) })
	return all
}

// CreateNetworkInterface creates a secondary ENI or a trunk.
func (s *State) CreateNetworkInterface(req CreateNetworkInterfaceRequest) (*NetworkInterface, error) {
	return once(s, "Ecs:CreateNetworkInterface", req.ClientToken, req, func() (*NetworkInterface, error) {
		switch {
		case req.InstanceType != "" && req.InstanceType != ENISecondary && req.InstanceType != ENITrunk:
			return nil, invalid("InstanceType", req.InstanceType, "Secondary or Trunk")
		case len(req.Ipv6Prefix) > 0 || req.Ipv6PrefixCount > 0:
			return nil, noIpv6Prefixes()
		case len(req.PrivateIpAddress) > 10:
			return nil, badRequest("InvalidParameter", "At most 10 PrivateIpAddress.N may be given, not %d.", len(req.PrivateIpAddress))
		}
		if err := plainCard(req.NetworkInterfaceTrafficMode, nil); err != nil {
			return nil, err
		}
		v, err := s.vSwitch(req.VSwitchId)
		if err != nil {
			return nil, err
		}
		groups, err := groupList(req.SecurityGroupId, req.SecurityGroupIds)
		if err != nil {
			return nil, err
		}
		if err := s.checkGroups(v.VpcId, groups); err != nil {
			return nil, err
		}
		w, err := parseWish(createCodes, req.PrivateIpAddress, req.SecondaryPrivateIpAddressCount, req.Ipv4Prefix, req.Ipv4PrefixCount, req.Ipv6Address, req.Ipv6AddressCount)
		if err != nil {
			return nil, err
		}
		if w, err = w.withPrimary(req.PrimaryIpAddress); err != nil {
			return nil, err
		}
		if len(req.Tag) > min(maxTagsPerCall, s.options.Limits.TagsPerResource) {
			return nil, forbidden("QuotaExceed.Tags", "%d tags were given; a network interface may have %d.", len(req.Tag), min(maxTagsPerCall, s.options.Limits.TagsPerResource))
		}
		if err := s.checkTags(nil, req.Tag); err != nil {
			return nil, err
		}
		eni, err := s.makeENI(v, groups, w)
		if err != nil {
			return nil, err
		}
		eni.Type, eni.Status = cmp.Or(req.InstanceType, ENISecondary), ENICreating
		eni.NetworkInterfaceName, eni.Description = req.NetworkInterfaceName, req.Description
		eni.QueueNumber = req.QueueNumber
		eni.DeleteOnRelease = true
		set(&eni.DeleteOnRelease, req.DeleteOnRelease)
		set(&eni.SourceDestCheck, req.SourceDestCheck)
		eni.ResourceGroupId = req.ResourceGroupId
		s.alter(eni, func() { eni.Tags = slices.Clone(req.Tag) })
		s.start(opENICreate, eni.NetworkInterfaceId, eni.CreationTime, s.options.Timing.CreateENI)
		s.changed()
		c := eni.clone()
		return &c, nil
	})
}

// withPrimary adds the primary address to a wish: the requested one, or one that the service
// chooses.
func (w wish) withPrimary(text string) (wish, error) {
	if text == "" {
		w.More4++
		return w, nil
	}
	primary, err := parseAddrs("PrimaryIpAddress", w.Codes, 4, []string{text})
	if err != nil {
		return w, err
	}
	if slices.Contains(w.Named4, primary[0]) {
		return w, w.Codes.Repeated.because("Specified private IP address is duplicated: %s.", primary[0])
	}
	w.Named4, w.PrimaryNamed = slices.Concat(primary, w.Named4), true
	return w, nil
}

// makeENI adds an ENI with the addresses of a wish, including the primary one; the caller sets
// the rest.
func (s *State) makeENI(v *VSwitch, groups []string, w wish) (*NetworkInterface, error) {
	if n := len(s.data.NetworkInterfaces); n >= s.options.Limits.ENIs {
		return nil, forbidden("MaxEniCountExceeded", "The maximum number of network interfaces (%d) in the region is reached.", s.options.Limits.ENIs)
	}
	if err := s.checkENIQuota(&NetworkInterface{NetworkInterfaceId: "(new)"}, w.slots4(), w.slots6()); err != nil {
		return nil, err
	}
	if err := s.checkGroupRoom(groups, w.slots4()); err != nil {
		return nil, err
	}
	c, err := s.choose(v, w)
	if err != nil {
		return nil, err
	}
	if i := len(w.Named4); !w.PrimaryNamed {
		c.Addrs = slices.Concat(c.Addrs[i:i+1], c.Addrs[:i], c.Addrs[i+1:])
	}
	eni := &NetworkInterface{
		NetworkInterfaceId: s.newID(idENI), MacAddress: s.newMAC(),
		VpcId: v.VpcId, VSwitchId: v.VSwitchId, ZoneId: v.ZoneId,
		PrimaryIpAddress: c.Addrs[0], SecurityGroupIds: slices.Clone(groups),
		NetworkInterfaceTrafficMode: "Standard", CreationTime: s.now(),
	}
	s.data.NetworkInterfaces[eni.NetworkInterfaceId] = eni
	s.index.add(eni)
	s.touch(eni.NetworkInterfaceId)
	if s.attempt != nil {
		s.attempt.enis = append(s.attempt.enis, eni)
	}
	s.give(eni, c)
	return eni, nil
}

// routeTo returns the id of a route entry to an instance or ENI, or "".
func (s *State) routeTo(id string) string {
	for _, tableID := range sortedKeys(s.data.RouteTables) {
		for _, e := range s.data.RouteTables[tableID].RouteEntries {
			if slices.ContainsFunc(e.NextHops, func(h NextHop) bool { return h.NextHopId == id }) {
				return e.RouteEntryId
			}
		}
	}
	return ""
}

// removeENI removes an ENI: its addresses and its MAC are free again.
func (s *State) removeENI(eni *NetworkInterface) {
	s.cancel(eni.NetworkInterfaceId)
	s.giveBack(eni.VSwitchId, addressesOf(eni))
	s.index.remove(eni)
	s.serverGone(eni.NetworkInterfaceId)
	s.touch(eni.NetworkInterfaceId)
	delete(s.data.NetworkInterfaces, eni.NetworkInterfaceId)
}

// ModifyNetworkInterfaceAttribute changes the given attributes.
func (s *State) ModifyNetworkInterfaceAttribute(req ModifyNetworkInterfaceAttributeRequest) error {
	eni, err := s.eni(req.NetworkInterfaceId)
	if err != nil {
		return err
	}
	if eni.Status == ENIDeleting {
		return invalidState(eni)
	}
	if len(req.SecurityGroupId) > 0 {
		if err := s.checkGroups(eni.VpcId, req.SecurityGroupId); err != nil {
			return err
		}
		var joined []string
		for _, id := range req.SecurityGroupId {
			if !slices.Contains(eni.SecurityGroupIds, id) {
				joined = append(joined, id)
			}
		}
		if err := s.checkGroupRoom(joined, eni.slots4()); err != nil {
			return err
		}
		s.alter(eni, func() { eni.SecurityGroupIds = slices.Clone(req.SecurityGroupId) })
	}
	set(&eni.NetworkInterfaceName, req.NetworkInterfaceName)
	set(&eni.Description, req.Description)
	set(&eni.SourceDestCheck, req.SourceDestCheck)
	set(&eni.DeleteOnRelease, req.DeleteOnRelease)
	set(&eni.QueueNumber, req.QueueNumber)
	s.changed(eni.NetworkInterfaceId)
	return nil
}
