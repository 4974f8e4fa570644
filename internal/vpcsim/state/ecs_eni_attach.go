package state

import (
	"time"
)

// Trunks. An ENI of type Trunk is attached like any other and uses one of its instance's slots.
// Secondary ENIs are attached to it as members: they then have the type Member, use no slot and
// are distinguished on the trunk by a VLAN id, which the API calls DeviceIndex. The state and
// the API have members; a data plane does not (View leaves them out).

// lastVLAN is the highest VLAN id.
const lastVLAN = 4094

// trunkMembers returns the ENIs attached to a trunk, by id.
func (s *State) trunkMembers(trunk *NetworkInterface) []*NetworkInterface {
	if trunk.Type != ENITrunk {
		return nil
	}
	var all []*NetworkInterface
	for _, eni := range s.index.byInstance[trunk.InstanceId].sorted() {
		if eni.TrunkNetworkInterfaceId == trunk.NetworkInterfaceId {
			all = append(all, eni)
		}
	}
	return all
}

// attachment finds an ENI and the instance for attaching or detaching it.
func (s *State) attachment(eniID, instanceID string) (*NetworkInterface, *Instance, error) {
	if instanceID == "" {
		return nil, nil, missing("InstanceId")
	}
	eni, err := s.eni(eniID)
	if err != nil {
		return nil, nil, err
	}
	i, ok := s.data.Instances[instanceID]
	if !ok {
		return nil, nil, notFound("InvalidEcsId.NotFound", "The specified instance %q does not exist.", instanceID)
	}
	return eni, i, nil
}

// AttachNetworkInterface starts to attach an ENI to an instance, or to a trunk of it.
func (s *State) AttachNetworkInterface(req AttachNetworkInterfaceRequest) error {
	eni, i, err := s.attachment(req.NetworkInterfaceId, req.InstanceId)
	if err != nil {
		return err
	}
	if i.Releasing {
		return notFound("InvalidEcsId.NotFound", "The specified instance %q does not exist.", req.InstanceId)
	}
	if err := plainCard("", req.NetworkCardIndex); err != nil {
		return err
	}
	switch {
	case eni.Type == ENIPrimary:
		return forbidden("InvalidOperation.InvalidEniType", "Network interface %q is of type %s, which cannot be attached.", eni.NetworkInterfaceId, eni.Type)
	case !eni.free():
		return invalidState(eni)
	case eni.ZoneId != i.ZoneId:
		return forbidden("InvalidOperation.AvailabilityZoneMismatch", "Network interface %q is in zone %s, instance %q in zone %s.", eni.NetworkInterfaceId, eni.ZoneId, i.InstanceId, i.ZoneId)
	case eni.VpcId != i.VpcId:
		return forbidden("InvalidOperation.VpcMismatch", "Network interface %q is in VPC %s, instance %q in VPC %s.", eni.NetworkInterfaceId, eni.VpcId, i.InstanceId, i.VpcId)
	case i.Status != InstanceRunning && i.Status != InstanceStopped:
		return badRequest("InvalidOperation.InvalidEcsState", "The current state of instance %q does not support this operation: %s.", i.InstanceId, i.Status)
	}
	if req.TrunkNetworkInstanceId != "" {
		trunk, vlan, err := s.canJoin(eni, i, req.TrunkNetworkInstanceId)
		if err != nil {
			return err
		}
		s.alter(eni, func() {
			eni.InstanceId, eni.Type = i.InstanceId, ENIMember
			eni.TrunkNetworkInterfaceId, eni.VlanId = trunk.NetworkInterfaceId, vlan
		})
	} else {
		if err := s.canAttach(eni, i); err != nil {
			return err
		}
		s.attach(eni, i)
	}
	from := s.now()
	if eni.Status == ENICreating {
		for _, o := range s.data.Operations {
			// If the ENI is still being created, it is attached afterwards.
			if o.ID == eni.NetworkInterfaceId && o.Due.After(from) {
				from = o.Due
			}
		}
		s.cancel(eni.NetworkInterfaceId)
	}
	eni.Status = ENIAttaching
	s.enqueue(operation{
		Kind: opENIAttach, ID: eni.NetworkInterfaceId, Due: from.Add(s.options.Timing.AttachENI), Held: s.data.StuckAttaching,
	})
	s.changed()
	return nil
}

// canAttach returns an error if an instance's type does not support an ENI or has no slot for
// it.
func (s *State) canAttach(eni *NetworkInterface, i *Instance) error {
	t := s.typeOf(i)
	if eni.Type == ENITrunk && !t.Trunk {
		return forbidden("InvalidOperation.InvalidEniType", "Network interface %q is a trunk, which instance %q of type %s does not support.", eni.NetworkInterfaceId, i.InstanceId, t.Name)
	}
	if n := len(s.enisOf(i.InstanceId)); n >= t.ENIs.N {
		return forbidden("EniPerInstanceLimitExceeded", "Instance %q of type %s has %d network interfaces, the most it may have.", i.InstanceId, t.Name, n)
	}
	return s.checkAttachedQuota(eni, i)
}

// checkAttachedQuota returns an error if an ENI has too many addresses for an instance.
func (s *State) checkAttachedQuota(eni *NetworkInterface, i *Instance) error {
	candidate := &NetworkInterface{NetworkInterfaceId: eni.NetworkInterfaceId, InstanceId: i.InstanceId}
	return s.checkENIQuota(candidate, eni.slots4(), eni.slots6())
}

// canJoin returns the VLAN id of an ENI as a member of a trunk, or an error.
func (s *State) canJoin(eni *NetworkInterface, i *Instance, trunkID string) (trunk *NetworkInterface, vlan int, err error) {
	if trunk, err = s.eni(trunkID); err != nil {
		return nil, 0, err
	}
	switch {
	case trunk.Type != ENITrunk:
		return nil, 0, forbidden("InvalidOperation.InvalidEniType", "Network interface %q is of type %s, not a trunk.", trunkID, trunk.Type)
	case eni.Type != ENISecondary:
		return nil, 0, forbidden("InvalidOperation.InvalidEniType", "Network interface %q is of type %s, which cannot be a member of a trunk.", eni.NetworkInterfaceId, eni.Type)
	case trunk.InstanceId != i.InstanceId || trunk.Status != ENIInUse:
		return nil, 0, badRequest("InvalidOperation.InvalidEniState", "Trunk %q is not in use on instance %q: %s on %q.", trunkID, i.InstanceId, trunk.Status, trunk.InstanceId)
	}
	t := s.typeOf(i)
	most, _ := t.MaxPodsTrunk() // 0 if the number is unknown
	members, used := 0, map[int]bool{}
	for _, other := range s.index.byInstance[i.InstanceId] {
		if other.Type == ENIMember {
			members++
			used[other.VlanId] = used[other.VlanId] || other.TrunkNetworkInterfaceId == trunkID
		}
	}
	if members >= most {
		return nil, 0, forbidden("EniPerInstanceLimitExceeded", "The trunks of instance %q of type %s have %d members, the most they may have.", i.InstanceId, t.Name, members)
	}
	if err := s.checkAttachedQuota(eni, i); err != nil {
		return nil, 0, err
	}
	for vlan = 1; used[vlan]; vlan++ {
	}
	if vlan > lastVLAN {
		return nil, 0, forbidden("EniPerInstanceLimitExceeded", "Trunk %q has no VLAN id left.", trunkID)
	}
	return trunk, vlan, nil
}

// attach assigns an ENI to an instance in its lowest free slot.
func (s *State) attach(eni *NetworkInterface, i *Instance) {
	slot := 0
	for _, other := range s.enisOf(i.InstanceId) {
		if other.Slot == slot {
			slot++
		}
	}
	s.alter(eni, func() { eni.InstanceId, eni.Slot = i.InstanceId, slot })
}

// completeAttach completes AttachNetworkInterface.
func (s *State) completeAttach(eni *NetworkInterface, at time.Time) {
	if s.data.FailingAttach {
		s.release(eni)
		return
	}
	eni.Status, eni.AttachedTime = ENIInUse, at
}

// release makes an ENI of an instance Available.
func (s *State) release(eni *NetworkInterface) {
	s.alter(eni, func() {
		eni.Status, eni.InstanceId, eni.Slot, eni.AttachedTime = ENIAvailable, "", 0, time.Time{}
		if eni.Type == ENIMember {
			eni.Type, eni.TrunkNetworkInterfaceId, eni.VlanId = ENISecondary, "", 0
		}
	})
}

// DetachNetworkInterface starts to detach an ENI. An ENI that is being detached already, or is
// on no instance, is no error: the action has no ClientToken, it is idempotent, and clean-up
// code for the real service detaches an ENI in any state before deleting it. SetStrictDetach
// makes the latter an error.
func (s *State) DetachNetworkInterface(req DetachNetworkInterfaceRequest) error {
	eni, i, err := s.attachment(req.NetworkInterfaceId, req.InstanceId)
	if err != nil {
		return err
	}
	trunk := req.TrunkNetworkInstanceId
	switch {
	case eni.Type == ENIPrimary:
		return badRequest("InvalidOperation.DetachPrimaryEniNotAllowed", "Network interface %q is the primary one of its instance and cannot be detached.", eni.NetworkInterfaceId)
	case eni.free() && !s.data.StrictDetach:
		return nil
	case eni.InstanceId == i.InstanceId && trunk != "" && trunk != eni.TrunkNetworkInterfaceId:
		return invalid("TrunkNetworkInstanceId", trunk, "the trunk that the network interface is a member of")
	case eni.InstanceId == i.InstanceId && eni.Status == ENIDetaching:
		return nil
	case eni.Status != ENIInUse || eni.InstanceId != i.InstanceId:
		return invalidState(eni)
	case i.Status != InstanceRunning && i.Status != InstanceStopped:
		return badRequest("InvalidOperation.InvalidEcsState", "The current state of instance %q does not support this operation: %s.", i.InstanceId, i.Status)
	}
	if members := s.trunkMembers(eni); len(members) > 0 {
		return forbidden("InvalidOperation.EniLinked", "Trunk %q has members, %s among them, which must be detached first.", eni.NetworkInterfaceId, members[0].NetworkInterfaceId)
	}
	eni.Status = ENIDetaching
	s.start(opENIDetach, eni.NetworkInterfaceId, s.now(), s.options.Timing.DetachENI)
	s.changed(eni.NetworkInterfaceId)
	return nil
}

// DeleteNetworkInterface starts to delete an ENI that is on no instance. One that is being
// deleted already is no error.
func (s *State) DeleteNetworkInterface(req DeleteNetworkInterfaceRequest) error {
	eni, err := s.eni(req.NetworkInterfaceId)
	if err != nil {
		return err
	}
	switch {
	case eni.Status == ENIDeleting:
		return nil
	case !eni.free():
		return invalidState(eni)
	}
	if entry := s.routeTo(eni.NetworkInterfaceId); entry != "" {
		return forbidden("DependencyViolation.RouteEntry", "Network interface %q is the next hop of route entry %s.", eni.NetworkInterfaceId, entry)
	}
	s.cancel(eni.NetworkInterfaceId)
	eni.Status = ENIDeleting
	s.start(opENIDelete, eni.NetworkInterfaceId, s.now(), s.options.Timing.DeleteENI)
	s.changed(eni.NetworkInterfaceId)
	return nil
}
