package state

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// snapshotFormat is the version of what MarshalJSON writes.
const snapshotFormat = 1

type snapshot struct {
	Format int
	Random []byte // the generator's state
	Data   data
}

// MarshalJSON saves everything but the Options. Equal states give equal bytes.
func (s *State) MarshalJSON() ([]byte, error) {
	random, err := s.rng.MarshalBinary()
	if err != nil {
		return nil, fmt.Errorf("save the random generator: %w", err)
	}
	return json.Marshal(snapshot{Format: snapshotFormat, Random: random, Data: s.data})
}

// Load makes a State of what MarshalJSON or Snapshot saved, and of the Changes since. The Options are those of New;
// the Seed plays no part, for the generator goes on where it was.
func Load(o Options, saved []byte, changes ...[]byte) (*State, error) {
	s, err := New(o)
	if err != nil {
		return nil, err
	}
	return s, s.restore(saved, changes)
}

func (s *State) restore(saved []byte, changes [][]byte) error {
	var in snapshot
	in.Data = data{}
	if err := json.Unmarshal(saved, &in); err != nil {
		return fmt.Errorf("read the saved state: %w", err)
	}
	if in.Format != snapshotFormat {
		return fmt.Errorf("the saved state has format %d, this program reads %d: start with an empty state directory", in.Format, snapshotFormat)
	}
	in.Data.complete()
	for _, line := range changes {
		if err := in.apply(line); err != nil {
			return err
		}
	}
	for id, i := range in.Data.Instances {
		if i == nil {
			return fmt.Errorf("the saved state has nothing about instance %s", id)
		}
		if _, ok := s.options.Catalog.Lookup(i.InstanceType); !ok {
			return fmt.Errorf("the saved state has instance %s of type %q, which is not in the catalog", id, i.InstanceType)
		}
	}
	if err := s.rng.UnmarshalBinary(in.Random); err != nil {
		return fmt.Errorf("read the saved random generator: %w", err)
	}
	if err := in.Data.check(); err != nil {
		return err
	}
	// Older programs saved operations in the order in which they were started.
	slices.SortStableFunc(in.Data.Operations, func(a, b operation) int { return a.Due.Compare(b.Due) })
	s.data, s.index, s.forgetAt = in.Data, newIndex(&in.Data), time.Time{}
	return nil
}

// check refuses a saved state whose parts do not fit together: what follows relies on it.
func (d *data) check() error {
	broken := func(what, id, why string) error {
		return fmt.Errorf("the saved state is broken: %s %s %s; start with an empty state directory", what, id, why)
	}
	for id, vpc := range d.VPCs {
		if vpc == nil || !slices.ContainsFunc(slices.Collect(maps.Values(d.RouteTables)), func(t *RouteTable) bool {
			return t != nil && t.VpcId == id && t.RouteTableType == RouteTableSystem
		}) {
			return broken("VPC", id, "has no system route table")
		}
	}
	for id, t := range d.RouteTables {
		if t == nil || d.VPCs[t.VpcId] == nil {
			return broken("route table", id, "is in no VPC")
		}
	}
	for id, v := range d.VSwitches {
		if v == nil || d.VPCs[v.VpcId] == nil || !v.CidrBlock.IsValid() || !v.CidrBlock.Addr().Is4() {
			return broken("vSwitch", id, "is in no VPC or has no range")
		}
	}
	for id, g := range d.SecurityGroups {
		if g == nil || d.VPCs[g.VpcId] == nil {
			return broken("security group", id, "is in no VPC")
		}
	}
	primary := map[string]bool{}
	for id, e := range d.NetworkInterfaces {
		switch {
		case e == nil || e.NetworkInterfaceId != id || d.VSwitches[e.VSwitchId] == nil:
			return broken("network interface", id, "is in no vSwitch")
		case e.InstanceId != "" && d.Instances[e.InstanceId] == nil:
			return broken("network interface", id, "is on an instance that does not exist")
		case slices.ContainsFunc(e.SecurityGroupIds, func(g string) bool { return d.SecurityGroups[g] == nil }):
			return broken("network interface", id, "is in a security group that does not exist")
		case slices.ContainsFunc(e.Ipv4Prefixes, func(p netip.Prefix) bool { return !p.IsValid() || !p.Addr().Is4() }):
			return broken("network interface", id, "has an IPv4 prefix that is none")
		}
		primary[e.InstanceId] = primary[e.InstanceId] || e.Type == ENIPrimary
	}
	for id := range d.Instances {
		if !primary[id] {
			return broken("instance", id, "has no primary network interface")
		}
	}
	for id, e := range d.EIPs {
		if e == nil {
			return broken("EIP", id, "is empty")
		}
	}
	for _, o := range d.Operations {
		if !d.has(o) {
			return broken("operation", string(o.Kind), "is about "+o.ID+", which does not exist")
		}
	}
	return nil
}

// has reports whether the resource of an operation exists.
func (d *data) has(o operation) bool {
	switch o.Kind {
	case opENICreate, opENIAttach, opENIDetach, opENIDelete:
		return d.NetworkInterfaces[o.ID] != nil
	case opVPC:
		return d.VPCs[o.ID] != nil
	case opVSwitchCreate, opVSwitchDelete:
		return d.VSwitches[o.ID] != nil
	case opRouteTable:
		return d.RouteTables[o.ID] != nil
	case opRouteEntryCreate, opRouteEntryDelete:
		for _, t := range d.RouteTables {
			if slices.ContainsFunc(t.RouteEntries, func(e RouteEntry) bool { return e.RouteEntryId == o.ID }) {
				return true
			}
		}
		return false
	}
	return d.Instances[o.ID] != nil
}

// attempt is what a call that may fail half-way has made so far.
type attempt struct {
	instances []*Instance
	enis      []*NetworkInterface
}

// atomically undoes all that work did if it fails: the instances and ENIs that it
// made, and what it did to existing ENIs and to the addresses of vSwitches, which
// must be named.
func (s *State) atomically(vSwitchIDs, eniIDs []string, work func() error) error {
	random, err := s.rng.MarshalBinary()
	if err != nil {
		return fmt.Errorf("save the random generator: %w", err)
	}
	revision, operations := s.data.Revision, slices.Clone(s.data.Operations)
	freed := map[string][]netip.Addr{}
	noted := 0
	if s.journal != nil {
		noted = len(s.journal.freed)
	}
	for _, id := range vSwitchIDs {
		if list, ok := s.data.Freed[id]; ok {
			freed[id] = slices.Clone(list)
		}
	}
	var before []NetworkInterface
	for _, id := range eniIDs {
		if eni, ok := s.data.NetworkInterfaces[id]; ok {
			before = append(before, eni.clone())
		}
	}
	s.attempt = &attempt{}
	err = work()
	made := s.attempt
	s.attempt = nil
	if err == nil {
		return nil
	}
	for _, eni := range made.enis {
		s.removeENI(eni)
	}
	for _, i := range made.instances {
		delete(s.data.Instances, i.InstanceId)
	}
	for _, old := range before {
		eni := s.data.NetworkInterfaces[old.NetworkInterfaceId]
		s.alter(eni, func() { *eni = old })
	}
	for _, id := range vSwitchIDs {
		p := s.pool(id)
		if p == nil {
			continue
		}
		p.freed, p.fresh = map[netip.Addr]bool{}, 0
		delete(s.data.Freed, id)
		if list, ok := freed[id]; ok {
			s.data.Freed[id] = list
			for _, a := range list {
				p.freed[a] = true
			}
		}
	}
	s.data.Revision, s.data.Operations = revision, operations
	if s.journal != nil {
		s.journal.freed = s.journal.freed[:noted]
	}
	if undo := s.rng.UnmarshalBinary(random); undo != nil {
		return fmt.Errorf("%w; and undoing it failed: %w", err, undo)
	}
	return err
}

// View is a copy of all that a data plane needs, each list by id.
func (s *State) View() *View {
	view := &View{Revision: s.data.Revision, RegionId: s.options.RegionId, OwnerId: s.options.OwnerId}
	for _, id := range sortedKeys(s.data.VPCs) {
		view.VPCs = append(view.VPCs, s.describeVPC(s.data.VPCs[id]))
	}
	for _, id := range sortedKeys(s.data.VSwitches) {
		view.VSwitches = append(view.VSwitches, s.describeVSwitch(s.data.VSwitches[id]))
	}
	for _, id := range sortedKeys(s.data.RouteTables) {
		view.RouteTables = append(view.RouteTables, s.describeTable(s.data.RouteTables[id]))
	}
	for _, id := range sortedKeys(s.data.SecurityGroups) {
		view.SecurityGroups = append(view.SecurityGroups, s.describeGroup(s.data.SecurityGroups[id]))
	}
	for _, id := range sortedKeys(s.data.Instances) {
		i := s.data.Instances[id]
		seen := InstanceView{Instance: s.describeInstance(i), Type: s.typeOf(i)}
		seen.NetworkInterfaces = nil
		for _, eni := range s.enisOf(id) {
			if eni.Status == ENIInUse {
				seen.NetworkInterfaces = append(seen.NetworkInterfaces, eni.clone())
			}
		}
		view.Instances = append(view.Instances, seen)
	}
	return view
}
