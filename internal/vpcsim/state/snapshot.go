package state

import (
	"encoding/json"
	"fmt"
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

// Load makes a State of what MarshalJSON saved. The Options are those of New;
// the Seed plays no part, for the generator goes on where it was.
func Load(o Options, saved []byte) (*State, error) {
	s, err := New(o)
	if err != nil {
		return nil, err
	}
	return s, s.restore(saved)
}

func (s *State) restore(saved []byte) error {
	var in snapshot
	in.Data = data{}
	if err := json.Unmarshal(saved, &in); err != nil {
		return fmt.Errorf("read the saved state: %w", err)
	}
	if in.Format != snapshotFormat {
		return fmt.Errorf("the saved state has format %d, this program reads %d: start with an empty state directory", in.Format, snapshotFormat)
	}
	for id, i := range in.Data.Instances {
		if _, ok := s.options.Catalog.Lookup(i.InstanceType); !ok {
			return fmt.Errorf("the saved state has instance %s of type %q, which is not in the catalog", id, i.InstanceType)
		}
	}
	if err := s.rng.UnmarshalBinary(in.Random); err != nil {
		return fmt.Errorf("read the saved random generator: %w", err)
	}
	s.data = in.Data
	s.index()
	return nil
}

// atomically undoes all that work did if it fails.
func (s *State) atomically(work func() error) error {
	saved, err := s.MarshalJSON()
	if err != nil {
		return err
	}
	if err := work(); err != nil {
		if undo := s.restore(saved); undo != nil {
			return fmt.Errorf("%w; and undoing it failed: %w", err, undo)
		}
		return err
	}
	return nil
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
