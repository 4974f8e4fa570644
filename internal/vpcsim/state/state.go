package state

import (
	"cmp"
	"errors"
	"math/rand/v2"
	"slices"
	"time"
)

// State is the simulated cloud.
type State struct {
	options Options
	rng     *rand.PCG
	data    data
	// index is derived from data.
	index *index
	// journal is nil until Snapshot is called.
	journal *journal
	// attempt is set while atomically runs.
	attempt *attempt
	// forgetAt is when the oldest of data.Tokens expires; it may be too early.
	forgetAt time.Time
}

var _ API = (*State)(nil)

// data is what is saved.
type data struct {
	Revision uint64
	few
	vpcMany
	many
	// Operations are the running operations, sorted by due time, the oldest of equals first.
	Operations []operation
	// Tokens are the answers to calls with a ClientToken, by product, action and token.
	Tokens map[string]rememberedAnswer
}

// few are the resources of which an account has few: Changes saves them as a whole.
type few struct {
	vpcFew
	ecsFew
	nlbFew
}

// many are the resources of which an account has many: Changes saves one at a time. The fields
// of its parts are maps by id, each with a record in its product.
type many struct {
	ecsMany
	slbMany
	nlbMany
}

// New returns an empty cloud.
func New(o Options) (*State, error) {
	if o.Now == nil {
		return nil, errors.New("state.Options.Now is nil: a clock is required")
	}
	if o.Catalog == nil {
		return nil, errors.New("state.Options.Catalog is nil: use catalog.Default()")
	}
	o.RegionId = cmp.Or(o.RegionId, "cn-hangzhou")
	o.OwnerId = cmp.Or(o.OwnerId, "1234567890123456")
	if len(o.Zones) == 0 {
		for _, letter := range []string{"g", "h", "i", "j", "k"} {
			o.Zones = append(o.Zones, o.RegionId+"-"+letter)
		}
	}
	o.Zones = slices.Clone(o.Zones)
	o.Limits = o.Limits.withDefaults()
	s := &State{
		options: o,
		rng:     rand.NewPCG(o.Seed, 0x7465727761790001),
	}
	s.data.complete()
	s.index = newIndex(&s.data)
	return s, nil
}

// Revision increases with every change.
func (s *State) Revision() uint64 { return s.data.Revision }

// changed records a change, and which resources of many it affects.
func (s *State) changed(ids ...string) {
	s.data.Revision++
	s.touch(ids...)
}

// now returns the time stamp for what happens in this call.
func (s *State) now() time.Time { return s.options.Now().UTC().Round(0) }

// SetTiming sets the durations of operations that start from now on.
func (s *State) SetTiming(t Timing) { s.options.Timing = t }

// sortedKeys returns a map's keys in order, so that results do not depend on the order of maps.
func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
