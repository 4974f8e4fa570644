package state

import (
	"net/netip"
	"slices"

	"terway.dev/terway/internal/catalog"
)

// instance returns an instance that is not being deleted.
func (s *State) instance(id string) (*Instance, error) {
	if id == "" {
		return nil, missing("InstanceId")
	}
	i, ok := s.data.Instances[id]
	if !ok || i.Releasing {
		return nil, notFound("InvalidInstanceId.NotFound", "The specified InstanceId does not exist: %q.", id)
	}
	return i, nil
}

func incorrectStatus(i *Instance) *Error {
	return forbidden("IncorrectInstanceStatus", "The current status of instance %s does not support this operation: %s.", i.InstanceId, i.Status)
}

// StartInstance starts a Stopped instance.
func (s *State) StartInstance(req StartInstanceRequest) error {
	i, err := s.instance(req.InstanceId)
	if err != nil {
		return err
	}
	if i.Status != InstanceStopped {
		return incorrectStatus(i)
	}
	if req.DryRun {
		return dryRun()
	}
	i.Status = InstanceStarting
	s.start(opInstanceStart, i.InstanceId, s.now(), s.options.Timing.InstanceStart)
	s.changed(i.InstanceId)
	return nil
}

// StopInstance stops a Running instance.
func (s *State) StopInstance(req StopInstanceRequest) error {
	return s.powerDown(req.InstanceId, req.DryRun, opInstanceStop)
}

// RebootInstance stops a Running instance and starts it again.
func (s *State) RebootInstance(req RebootInstanceRequest) error {
	return s.powerDown(req.InstanceId, req.DryRun, opInstanceReboot)
}

func (s *State) powerDown(id string, dry bool, k kind) error {
	i, err := s.instance(id)
	if err != nil {
		return err
	}
	if i.Status != InstanceRunning {
		return incorrectStatus(i)
	}
	if dry {
		return dryRun()
	}
	i.Status = InstanceStopping
	s.start(k, i.InstanceId, s.now(), s.options.Timing.InstanceStop)
	s.changed(i.InstanceId)
	return nil
}

// DeleteInstance releases a Stopped instance, or any with Force.
func (s *State) DeleteInstance(req DeleteInstanceRequest) error {
	return s.deleteInstances([]string{req.InstanceId}, req.Force, req.DryRun)
}

// DeleteInstances releases several instances, all or none.
func (s *State) DeleteInstances(req DeleteInstancesRequest) error {
	_, err := once(s, "Ecs:DeleteInstances", req.ClientToken, req, func() (bool, error) {
		if len(req.InstanceId) == 0 || len(req.InstanceId) > 100 {
			return false, badRequest("InvalidParameter", "1 to 100 InstanceId.N must be given, not %d.", len(req.InstanceId))
		}
		return true, s.deleteInstances(req.InstanceId, req.Force, req.DryRun)
	})
	return err
}

func (s *State) deleteInstances(ids []string, force, dry bool) error {
	var all []*Instance
	for _, id := range ids {
		i, err := s.instance(id)
		if err != nil {
			return err
		}
		switch {
		case i.DeletionProtection:
			return forbidden("InvalidOperation.DeletionProtection", "Instance %s has deletion protection on.", i.InstanceId)
		case i.Status == InstancePending:
			return forbidden("IncorrectInstanceStatus.Initializing", "Instance %s is still being made.", i.InstanceId)
		case i.Status != InstanceStopped && !force:
			return incorrectStatus(i)
		}
		targets := []string{i.InstanceId}
		for _, eni := range s.index.byInstance[i.InstanceId] {
			if eni.DeleteOnRelease {
				targets = append(targets, eni.NetworkInterfaceId)
			}
		}
		for _, target := range targets {
			if entry := s.routeTo(target); entry != "" {
				return forbidden("DependencyViolation.RouteEntry", "Instance %s is the next hop of route entry %s (by way of %s).", i.InstanceId, entry, target)
			}
		}
		if !slices.Contains(all, i) {
			all = append(all, i)
		}
	}
	if dry {
		return dryRun()
	}
	for _, i := range all {
		takes := s.options.Timing.InstanceStop
		if i.Status == InstanceStopped {
			takes = 0
		} else {
			i.Status = InstanceStopping
		}
		i.Releasing = true
		s.touch(i.InstanceId)
		s.cancel(i.InstanceId)
		s.start(opInstanceRelease, i.InstanceId, s.now(), takes)
	}
	s.changed()
	return nil
}

// removeInstance removes an instance: its ENIs are deleted or become Available.
func (s *State) removeInstance(i *Instance) {
	for _, eni := range s.index.byInstance[i.InstanceId].sorted() {
		s.cancel(eni.NetworkInterfaceId)
		if eni.DeleteOnRelease || eni.Type == ENIPrimary {
			s.removeENI(eni)
		} else {
			s.release(eni)
		}
	}
	delete(s.data.Instances, i.InstanceId)
	s.serverGone(i.InstanceId)
	s.touch(i.InstanceId)
}

// ModifyInstanceAttribute changes the given attributes.
func (s *State) ModifyInstanceAttribute(req ModifyInstanceAttributeRequest) error {
	i, err := s.instance(req.InstanceId)
	if err != nil {
		return err
	}
	if req.EnableJumboFrame != nil && *req.EnableJumboFrame && !s.typeOf(i).JumboFrames() {
		return badRequest("InvalidParameter", "InstanceType %q does not support jumbo frames (EnableJumboFrame).", i.InstanceType)
	}
	if len(req.SecurityGroupIds) > 0 {
		err := s.ModifyNetworkInterfaceAttribute(ModifyNetworkInterfaceAttributeRequest{
			NetworkInterfaceId: s.enisOf(i.InstanceId)[0].NetworkInterfaceId, SecurityGroupId: req.SecurityGroupIds,
		})
		if err != nil {
			return err
		}
	}
	set(&i.InstanceName, req.InstanceName)
	set(&i.HostName, req.HostName)
	set(&i.Description, req.Description)
	set(&i.UserData, req.UserData)
	set(&i.DeletionProtection, req.DeletionProtection)
	set(&i.EnableJumboFrame, req.EnableJumboFrame)
	s.changed(i.InstanceId)
	return nil
}

// AttachInstanceRamRole sets the RAM role of instances, all or none; an instance has at most
// one.
func (s *State) AttachInstanceRamRole(req AttachInstanceRamRoleRequest) error {
	if req.RamRoleName == "" {
		return missing("RamRoleName")
	}
	if len(req.InstanceIds) == 0 {
		return missing("InstanceIds")
	}
	var all []*Instance
	for _, id := range req.InstanceIds {
		i, err := s.instance(id)
		if err != nil {
			return err
		}
		if i.RamRoleName != "" && i.RamRoleName != req.RamRoleName {
			return forbidden("InvalidInstance.RamRole", "Instance %s has the RAM role %s already.", id, i.RamRoleName)
		}
		all = append(all, i)
	}
	for _, i := range all {
		i.RamRoleName = req.RamRoleName
		s.touch(i.InstanceId)
	}
	s.changed()
	return nil
}

func (s *State) describeInstance(i *Instance) Instance {
	c := i.clone()
	c.SecurityGroupIds = slices.Clone(s.groupsOf(i))
	for _, eni := range s.enisOf(i.InstanceId) {
		c.NetworkInterfaces = append(c.NetworkInterfaces, eni.clone())
	}
	return c
}

// groupsOf returns the security groups of an instance: those of its primary ENI.
func (s *State) groupsOf(i *Instance) []string {
	return s.enisOf(i.InstanceId)[0].SecurityGroupIds
}

// SelectInstances returns the ids of the instances that match, sorted.
func (s *State) SelectInstances(req DescribeInstancesRequest) ([]string, error) {
	addrs, err := parseAddrs("PrivateIpAddresses", filterCodes, 4, req.PrivateIpAddresses)
	if err != nil {
		return nil, err
	}
	addrs6, err := parseAddrs("Ipv6Address", filterCodes, 6, req.Ipv6Address)
	if err != nil {
		return nil, err
	}
	holds := func(i *Instance, addrs []netip.Addr) bool {
		return len(addrs) == 0 || slices.ContainsFunc(s.enisOf(i.InstanceId), func(e *NetworkInterface) bool { return hasAddress(e, addrs) })
	}
	if len(req.InstanceIds) > 100 {
		return nil, badRequest("InvalidParameter", "At most 100 InstanceIds may be given, not %d.", len(req.InstanceIds))
	}
	switch req.InstanceNetworkType {
	case "", "vpc":
	case "classic": // none exist
		return []string{}, nil
	default:
		return nil, notFound("InvalidNetworkType.NotFound", "The specified InstanceNetworkType does not exist: %q, expected vpc or classic.", req.InstanceNetworkType)
	}
	switch InstanceStatus(req.Status) {
	case "", InstancePending, InstanceStarting, InstanceRunning, InstanceStopping, InstanceStopped:
	default:
		return nil, notFound("InvalidStatus.NotFound", "The specified Status does not exist: %q.", req.Status)
	}
	ids := distinct(req.InstanceIds)
	if len(ids) == 0 {
		ids = sortedKeys(s.data.Instances)
	}
	found := []string{}
	for _, id := range ids {
		i, ok := s.data.Instances[id]
		if ok && isName(req.InstanceName, i.InstanceName) && is(req.VpcId, i.VpcId) &&
			is(req.VSwitchId, i.VSwitchId) && is(req.ZoneId, i.ZoneId) && is(req.InstanceType, i.InstanceType) &&
			is(req.ImageId, i.ImageId) && is(req.KeyPairName, i.KeyPairName) &&
			is(req.InstanceTypeFamily, s.typeOf(i).Family) && is(req.Status, string(i.Status)) &&
			is(req.ResourceGroupId, i.ResourceGroupId) && hasTags(req.Tag, i.Tags) && holds(i, addrs) && holds(i, addrs6) &&
			(req.SecurityGroupId == "" || slices.Contains(s.groupsOf(i), req.SecurityGroupId)) {
			found = append(found, id)
		}
	}
	return found, nil
}

// DescribeInstances lists instances, by id.
func (s *State) DescribeInstances(req DescribeInstancesRequest) ([]Instance, error) {
	ids, err := s.SelectInstances(req)
	if err != nil {
		return nil, err
	}
	found := make([]Instance, 0, len(ids))
	for _, id := range ids {
		found = append(found, s.describeInstance(s.data.Instances[id]))
	}
	return found, nil
}

// DescribeInstanceAttribute returns one instance.
func (s *State) DescribeInstanceAttribute(instanceId string) (*Instance, error) {
	i, ok := s.data.Instances[instanceId]
	if !ok {
		return nil, notFound("InvalidInstanceId.NotFound", "The specified InstanceId does not exist: %q.", instanceId)
	}
	c := s.describeInstance(i)
	return &c, nil
}

// DescribeInstanceTypes lists instance types, by name.
func (s *State) DescribeInstanceTypes(req DescribeInstanceTypesRequest) ([]catalog.Type, error) {
	if len(req.InstanceTypes) > 10 {
		return nil, badRequest("InvalidParameter", "At most 10 InstanceTypes.N may be given, not %d.", len(req.InstanceTypes))
	}
	below := func(c catalog.Count, least int) bool { return least > 0 && (!c.Known || c.N < least) }
	found := []catalog.Type{}
	for _, t := range s.options.Catalog.All() {
		switch {
		case !isOneOf(req.InstanceTypes, t.Name), !is(req.InstanceTypeFamily, t.Family), !isOneOf(req.InstanceTypeFamilies, t.Family),
			below(t.VCPU, req.MinimumCpuCoreCount), req.MaximumCpuCoreCount > 0 && t.VCPU.N > req.MaximumCpuCoreCount,
			t.MemoryGiB < req.MinimumMemorySize, req.MaximumMemorySize > 0 && t.MemoryGiB > req.MaximumMemorySize,
			below(t.ENIs, req.MinimumEniQuantity), below(t.IPv4PerENI, req.MinimumEniPrivateIpAddressQuantity),
			below(t.IPv6PerENI, req.MinimumEniIpv6AddressQuantity):
		default:
			found = append(found, t)
		}
	}
	return found, nil
}
