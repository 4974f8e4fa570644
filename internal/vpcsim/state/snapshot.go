package state

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// snapshotFormat is the version of the format of MarshalJSON.
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

// Load makes a State from the result of MarshalJSON or Snapshot, and the Changes since. The
// Options are those of New; the Seed is not used, because the generator continues where it was.
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

// attempt is what a call that may fail has made so far.
type attempt struct {
	instances []*Instance
	enis      []*NetworkInterface
}

// atomically reverts what work did if it fails: new instances and ENIs, and changes of existing
// ENIs and of the addresses of vSwitches, which must be named.
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
