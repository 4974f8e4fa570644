package state

import (
	"cmp"
	"slices"
	"time"
)

// groupList joins the two ways of naming security groups.
func groupList(one string, many []string) ([]string, error) {
	if one != "" && len(many) > 0 {
		return nil, badRequest("InvalidParameter", "SecurityGroupId and SecurityGroupIds.N cannot both be given.")
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

// enisOf returns the ENIs of an instance from Attaching to Detaching, by slot.
func (s *State) enisOf(instanceID string) []*NetworkInterface {
	var all []*NetworkInterface
	for _, eni := range s.data.NetworkInterfaces {
		if eni.InstanceId == instanceID {
			all = append(all, eni)
		}
	}
	slices.SortFunc(all, func(a, b *NetworkInterface) int { return cmp.Compare(a.Slot, b.Slot) })
	return all
}

// CreateNetworkInterface makes a secondary ENI.
func (s *State) CreateNetworkInterface(req CreateNetworkInterfaceRequest) (*NetworkInterface, error) {
	return once(s, "CreateNetworkInterface", req.ClientToken, req, func() (*NetworkInterface, error) {
		switch {
		case req.InstanceType == ENITrunk:
			return nil, badRequest("UnsupportedOperation", "Network interfaces of type Trunk are not supported.")
		case req.InstanceType != "" && req.InstanceType != ENISecondary:
			return nil, invalid("InstanceType", req.InstanceType, "Secondary")
		case len(req.Ipv6Prefix) > 0 || req.Ipv6PrefixCount > 0:
			return nil, badRequest("UnsupportedOperation", "IPv6 prefixes are not supported.")
		case len(req.PrivateIpAddress) > 10:
			return nil, badRequest("InvalidParameter", "At most 10 PrivateIpAddress.N may be given, not %d.", len(req.PrivateIpAddress))
		}
		mode := cmp.Or(req.NetworkInterfaceTrafficMode, "Standard")
		if mode != "Standard" {
			return nil, badRequest("UnsupportedOperation", "NetworkInterfaceTrafficMode %q is not supported, only Standard.", mode)
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
		w, err := parseWish(req.PrivateIpAddress, req.SecondaryPrivateIpAddressCount, req.Ipv4Prefix, req.Ipv4PrefixCount, req.Ipv6Address, req.Ipv6AddressCount)
		if err != nil {
			return nil, err
		}
		if w, err = w.withPrimary(req.PrimaryIpAddress); err != nil {
			return nil, err
		}
		if err := s.checkTags(nil, req.Tag); err != nil {
			return nil, err
		}
		eni, err := s.makeENI(v, groups, w)
		if err != nil {
			return nil, err
		}
		eni.Type, eni.Status = ENISecondary, ENICreating
		eni.NetworkInterfaceName, eni.Description = req.NetworkInterfaceName, req.Description
		eni.NetworkInterfaceTrafficMode, eni.QueueNumber = mode, req.QueueNumber
		eni.DeleteOnRelease = true
		set(&eni.DeleteOnRelease, req.DeleteOnRelease)
		set(&eni.SourceDestCheck, req.SourceDestCheck)
		eni.ResourceGroupId, eni.Tags = req.ResourceGroupId, slices.Clone(req.Tag)
		s.start(opENICreate, eni.NetworkInterfaceId, eni.CreationTime, s.options.Timing.CreateENI)
		s.changed()
		c := eni.clone()
		return &c, nil
	})
}

// withPrimary adds the primary address to a wish: the named one, or one more of
// the service's choice.
func (w wish) withPrimary(text string) (wish, error) {
	if text == "" {
		w.More4++
		return w, nil
	}
	primary, err := parseAddrs("PrimaryIpAddress", "InvalidIp.Address", 4, []string{text})
	if err != nil {
		return w, err
	}
	if slices.Contains(w.Named4, primary[0]) {
		return w, badRequest("InvalidPrivateIpAddress.Duplicated", "Specified private IP address is duplicated: %s.", primary[0])
	}
	w.Named4, w.PrimaryNamed = slices.Concat(primary, w.Named4), true
	return w, nil
}

// makeENI adds an ENI with the addresses of a wish, the primary one among them;
// the caller sets what else it has.
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
	s.macs[eni.MacAddress] = true
	s.give(eni, c)
	return eni, nil
}

// AttachNetworkInterface starts to attach an Available ENI.
func (s *State) AttachNetworkInterface(req AttachNetworkInterfaceRequest) error {
	if req.TrunkNetworkInstanceId != "" {
		return badRequest("UnsupportedOperation", "Member network interfaces of a trunk are not supported.")
	}
	if req.InstanceId == "" {
		return missing("InstanceId")
	}
	eni, err := s.eni(req.NetworkInterfaceId)
	if err != nil {
		return err
	}
	i, ok := s.data.Instances[req.InstanceId]
	if !ok || i.Releasing {
		return notFound("InvalidEcsId.NotFound", "The specified instance %q does not exist.", req.InstanceId)
	}
	card := 0
	set(&card, req.NetworkCardIndex)
	switch {
	case card != 0:
		return badRequest("UnsupportedOperation", "NetworkCardIndex %d is not supported, only 0.", card)
	case eni.Type != ENISecondary:
		return forbidden("InvalidOperation.InvalidEniType", "Network interface %q is of type %s, which cannot be attached.", eni.NetworkInterfaceId, eni.Type)
	case eni.Status != ENIAvailable:
		return badRequest("InvalidOperation.InvalidEniState", "The current state of network interface %q does not support this operation: %s.", eni.NetworkInterfaceId, eni.Status)
	case eni.ZoneId != i.ZoneId:
		return forbidden("InvalidOperation.AvailabilityZoneMismatch", "Network interface %q is in zone %s, instance %q in zone %s.", eni.NetworkInterfaceId, eni.ZoneId, i.InstanceId, i.ZoneId)
	case eni.VpcId != i.VpcId:
		return forbidden("InvalidOperation.VpcMismatch", "Network interface %q is in VPC %s, instance %q in VPC %s.", eni.NetworkInterfaceId, eni.VpcId, i.InstanceId, i.VpcId)
	case i.Status != InstanceRunning && i.Status != InstanceStopped:
		return badRequest("InvalidOperation.InvalidEcsState", "The current state of instance %q does not support this operation: %s.", i.InstanceId, i.Status)
	}
	if err := s.canAttach(eni, i); err != nil {
		return err
	}
	s.attach(eni, i)
	eni.Status = ENIAttaching
	s.data.Operations = append(s.data.Operations, operation{
		Kind: opENIAttach, ID: eni.NetworkInterfaceId, Due: s.now().Add(s.options.Timing.AttachENI), Held: s.data.StuckAttaching,
	})
	s.changed()
	return nil
}

// canAttach says whether an instance's type leaves room for an ENI.
func (s *State) canAttach(eni *NetworkInterface, i *Instance) error {
	t := s.typeOf(i)
	if n := len(s.enisOf(i.InstanceId)); n >= t.ENIs.N {
		return forbidden("EniPerInstanceLimitExceeded", "Instance %q of type %s has %d network interfaces, the most it may have.", i.InstanceId, t.Name, n)
	}
	candidate := &NetworkInterface{NetworkInterfaceId: eni.NetworkInterfaceId, InstanceId: i.InstanceId}
	return s.checkENIQuota(candidate, eni.slots4(), eni.slots6())
}

// attach ties an ENI to an instance in its lowest free slot.
func (s *State) attach(eni *NetworkInterface, i *Instance) {
	slot := 0
	for _, other := range s.enisOf(i.InstanceId) {
		if other.Slot == slot {
			slot++
		}
	}
	eni.InstanceId, eni.Slot = i.InstanceId, slot
}

// completeAttach is the end of AttachNetworkInterface.
func (s *State) completeAttach(eni *NetworkInterface, at time.Time) {
	if s.data.FailingAttach {
		release(eni)
		return
	}
	eni.Status, eni.AttachedTime = ENIInUse, at
}

// release makes an ENI that is tied to an instance Available.
func release(eni *NetworkInterface) {
	eni.Status, eni.InstanceId, eni.Slot, eni.AttachedTime = ENIAvailable, "", 0, time.Time{}
}

// DetachNetworkInterface starts to detach an ENI. One that is being detached
// already is no error: the action has no ClientToken and is idempotent by state.
func (s *State) DetachNetworkInterface(req DetachNetworkInterfaceRequest) error {
	if req.TrunkNetworkInstanceId != "" {
		return badRequest("UnsupportedOperation", "Member network interfaces of a trunk are not supported.")
	}
	if req.InstanceId == "" {
		return missing("InstanceId")
	}
	eni, err := s.eni(req.NetworkInterfaceId)
	if err != nil {
		return err
	}
	i, ok := s.data.Instances[req.InstanceId]
	if !ok {
		return notFound("InvalidEcsId.NotFound", "The specified instance %q does not exist.", req.InstanceId)
	}
	switch {
	case eni.Type == ENIPrimary:
		return badRequest("InvalidOperation.DetachPrimaryEniNotAllowed", "Network interface %q is the primary one of its instance and cannot be detached.", eni.NetworkInterfaceId)
	case eni.InstanceId == i.InstanceId && eni.Status == ENIDetaching:
		return nil
	case eni.Status != ENIInUse || eni.InstanceId != i.InstanceId:
		return badRequest("InvalidOperation.InvalidEniState", "The current state of network interface %q does not support this operation: %s, attached to %q.", eni.NetworkInterfaceId, eni.Status, eni.InstanceId)
	case i.Status != InstanceRunning && i.Status != InstanceStopped:
		return badRequest("InvalidOperation.InvalidEcsState", "The current state of instance %q does not support this operation: %s.", i.InstanceId, i.Status)
	}
	eni.Status = ENIDetaching
	s.start(opENIDetach, eni.NetworkInterfaceId, s.now(), s.options.Timing.DetachENI)
	s.changed()
	return nil
}

// DeleteNetworkInterface starts to delete an Available ENI. One that is being
// deleted already is no error.
func (s *State) DeleteNetworkInterface(req DeleteNetworkInterfaceRequest) error {
	eni, err := s.eni(req.NetworkInterfaceId)
	if err != nil {
		return err
	}
	switch {
	case eni.Status == ENIDeleting:
		return nil
	case eni.Status != ENIAvailable:
		return badRequest("InvalidOperation.InvalidEniState", "The current state of network interface %q does not support this operation: %s.", eni.NetworkInterfaceId, eni.Status)
	}
	if entry := s.routeTo(eni.NetworkInterfaceId); entry != "" {
		return forbidden("DependencyViolation.RouteEntry", "Network interface %q is the next hop of route entry %s.", eni.NetworkInterfaceId, entry)
	}
	eni.Status = ENIDeleting
	s.start(opENIDelete, eni.NetworkInterfaceId, s.now(), s.options.Timing.DeleteENI)
	s.changed()
	return nil
}

// routeTo returns the id of a route entry that leads to an instance or ENI, "" if there is none.
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

// removeENI is the end of an ENI: its addresses and its MAC are free.
func (s *State) removeENI(eni *NetworkInterface) {
	s.cancel(eni.NetworkInterfaceId)
	s.giveBack(eni.VSwitchId, addressesOf(eni))
	delete(s.macs, eni.MacAddress)
	delete(s.data.NetworkInterfaces, eni.NetworkInterfaceId)
}

// ModifyNetworkInterfaceAttribute changes what is given.
func (s *State) ModifyNetworkInterfaceAttribute(req ModifyNetworkInterfaceAttributeRequest) error {
	eni, err := s.eni(req.NetworkInterfaceId)
	if err != nil {
		return err
	}
	if eni.Status == ENIDeleting {
		return badRequest("InvalidOperation.InvalidEniState", "The current state of network interface %q does not support this operation: %s.", eni.NetworkInterfaceId, eni.Status)
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
		eni.SecurityGroupIds = slices.Clone(req.SecurityGroupId)
	}
	set(&eni.NetworkInterfaceName, req.NetworkInterfaceName)
	set(&eni.Description, req.Description)
	set(&eni.SourceDestCheck, req.SourceDestCheck)
	set(&eni.DeleteOnRelease, req.DeleteOnRelease)
	set(&eni.QueueNumber, req.QueueNumber)
	s.changed()
	return nil
}
