package state

import (
	"slices"
	"time"
)

// kind is what an operation completes.
type kind string

const (
	opENICreate         kind = "eni-create"
	opENIAttach         kind = "eni-attach"
	opENIDetach         kind = "eni-detach"
	opENIDelete         kind = "eni-delete"
	opVPC               kind = "vpc" // created or changed: becomes Available
	opVSwitchCreate     kind = "vswitch-create"
	opVSwitchDelete     kind = "vswitch-delete"
	opRouteTable        kind = "route-table"
	opRouteEntryCreate  kind = "route-entry-create"
	opRouteEntryDelete  kind = "route-entry-delete"
	opInstancePending   kind = "instance-pending"    // then Stopped
	opInstancePendingUp kind = "instance-pending-up" // then Starting
	opInstanceStart     kind = "instance-start"
	opInstanceStop      kind = "instance-stop"
	opInstanceReboot    kind = "instance-reboot" // Stopping, then Starting
	opInstanceRelease   kind = "instance-release"
)

// operation is work under way on one resource.
type operation struct {
	Kind kind
	ID   string
	Due  time.Time
	// VpcId is set for operations of which a VPC does one at a time.
	VpcId string `json:",omitempty"`
	// Held: never due until the fault that holds it is lifted.
	Held bool `json:",omitempty"`
}

// start begins an operation that takes d from the given moment.
func (s *State) start(k kind, id string, from time.Time, d time.Duration) {
	s.enqueue(operation{Kind: k, ID: id, Due: from.Add(d)})
}

// enqueue puts an operation behind those that are due before it or at the same time.
func (s *State) enqueue(o operation) {
	at, _ := slices.BinarySearchFunc(s.data.Operations, o, func(old, o operation) int {
		if old.Due.After(o.Due) {
			return 1
		}
		return -1
	})
	s.data.Operations = slices.Insert(s.data.Operations, at, o)
}

// startIn is start for an operation that locks its VPC.
func (s *State) startIn(vpcID string, k kind, id string, from time.Time, d time.Duration) {
	s.enqueue(operation{Kind: k, ID: id, Due: from.Add(d), VpcId: vpcID})
}

// cancel forgets the operations on a resource.
func (s *State) cancel(id string) {
	s.data.Operations = slices.DeleteFunc(s.data.Operations, func(o operation) bool { return o.ID == id })
}

// vpcBusy says what keeps a VPC from another change of routes or vSwitches: one
// such operation runs at a time, and the service tells the rest to come again.
func (s *State) vpcBusy(vpcID string) *Error {
	for _, o := range s.data.Operations {
		if o.VpcId != vpcID {
			continue
		}
		switch o.Kind {
		case opVPC:
			return badRequest("IncorrectVpcStatus", "The status of VPC %s does not support this operation: %s.", vpcID, StatusPending)
		case opVSwitchCreate, opVSwitchDelete:
			return badRequest("IncorrectVSwitchStatus", "VPC %s is busy: the status of vSwitch %s does not support this operation.", vpcID, o.ID)
		default:
			return badRequest("TaskConflict", "The operation conflicts with another one that is running in VPC %s: %s of %s.", vpcID, o.Kind, o.ID)
		}
	}
	return nil
}

// NextDue says when the next operation is due; not ok when none will ever be.
func (s *State) NextDue() (time.Time, bool) {
	i := s.earliest()
	if i < 0 {
		return time.Time{}, false
	}
	return s.data.Operations[i].Due, true
}

// earliest is the index of the operation that is due first, the oldest of equals; −1 without one.
func (s *State) earliest() int {
	return slices.IndexFunc(s.data.Operations, func(o operation) bool { return !o.Held })
}

// Tick completes every operation that is due at now, and those which such a one
// starts and which are then due too; it reports whether anything changed.
func (s *State) Tick(now time.Time) (changed bool) {
	for {
		i := s.earliest()
		if i < 0 || s.data.Operations[i].Due.After(now) {
			break
		}
		o := s.data.Operations[i]
		s.data.Operations = slices.Delete(s.data.Operations, i, i+1)
		s.complete(o)
		s.changed()
		changed = true
	}
	s.forgetTokens(now)
	return changed
}

// complete does an operation's last step. A resource that is gone meanwhile had
// its operations cancelled, so each lookup finds what it looks for.
func (s *State) complete(o operation) {
	s.touch(o.ID)
	switch o.Kind {
	case opENICreate:
		s.data.NetworkInterfaces[o.ID].Status = ENIAvailable
	case opENIAttach:
		s.completeAttach(s.data.NetworkInterfaces[o.ID], o.Due)
	case opENIDetach:
		s.release(s.data.NetworkInterfaces[o.ID])
	case opENIDelete:
		s.removeENI(s.data.NetworkInterfaces[o.ID])
	case opVPC:
		s.data.VPCs[o.ID].Status = StatusAvailable
	case opVSwitchCreate:
		s.data.VSwitches[o.ID].Status = StatusAvailable
	case opVSwitchDelete:
		s.removeVSwitch(o.ID)
	case opRouteTable:
		s.data.RouteTables[o.ID].Status = StatusAvailable
	case opRouteEntryCreate:
		table, i := s.findRouteEntry(o.ID)
		table.RouteEntries[i].Status = StatusAvailable
	case opRouteEntryDelete:
		table, i := s.findRouteEntry(o.ID)
		table.RouteEntries = slices.Delete(table.RouteEntries, i, i+1)
	case opInstancePending:
		s.data.Instances[o.ID].Status = InstanceStopped
	case opInstancePendingUp:
		s.data.Instances[o.ID].Status = InstanceStarting
		s.start(opInstanceStart, o.ID, o.Due, s.options.Timing.InstanceStart)
	case opInstanceStart:
		instance := s.data.Instances[o.ID]
		instance.Status, instance.StartTime = InstanceRunning, o.Due
	case opInstanceStop:
		s.data.Instances[o.ID].Status = InstanceStopped
	case opInstanceReboot:
		s.data.Instances[o.ID].Status = InstanceStarting
		s.start(opInstanceStart, o.ID, o.Due, s.options.Timing.InstanceStart)
	case opInstanceRelease:
		s.removeInstance(s.data.Instances[o.ID])
	}
}

// SetStuckAttaching makes attachments that are under way or start later stay
// Attaching; false lets them all finish at their time, or at once if it has passed.
func (s *State) SetStuckAttaching(stuck bool) {
	s.data.StuckAttaching = stuck
	for i := range s.data.Operations {
		if s.data.Operations[i].Kind == opENIAttach {
			s.data.Operations[i].Held = stuck
		}
	}
	s.changed()
}

// SetStrictDetach makes DetachNetworkInterface refuse an ENI that is not attached.
func (s *State) SetStrictDetach(strict bool) {
	s.data.StrictDetach = strict
	s.changed()
}

// SetFailingAttach makes attachments end Available instead of InUse, as a failed
// hot-plug does.
func (s *State) SetFailingAttach(fail bool) {
	s.data.FailingAttach = fail
	s.changed()
}
