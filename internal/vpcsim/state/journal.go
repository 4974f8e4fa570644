package state

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// journal records what changed since it was last read, so that saving a change costs as much as
// the change and not as the cloud. For resources of which there are thousands (those of many,
// tokens, free addresses) it records which changed; the rest is compared as a whole, and so are
// the running operations.
type journal struct {
	touched map[string]bool // ids of resources of many
	tokens  map[string]bool // keys of data.Tokens
	freed   []freedChange
	rest    []byte
}

// freedChange is a change of data.Freed: an address was appended to its vSwitch's list, or
// removed from it.
type freedChange struct {
	VSwitchId string
	Address   netip.Addr
	Taken     bool `json:",omitempty"`
}

// change is the content of a line of Changes.
type change struct {
	Revision   uint64
	Random     []byte
	Operations []operation
	many
	Gone      []string                    `json:",omitempty"` // resources of many
	Tokens    map[string]rememberedAnswer `json:",omitempty"`
	Forgotten []string                    `json:",omitempty"` // tokens
	Freed     []freedChange               `json:",omitempty"`
	Rest      *few                        `json:",omitempty"` // nil: unchanged
}

// record is a kind of resources in many.
type record interface {
	// pick copies a resource to another many; it reports whether there is one.
	pick(from, to *many, id string) bool
	// drop removes a resource.
	drop(from *many, id string)
	// merge copies all resources to another many.
	merge(from, to *many)
}

// recordOf is the record of a map by id.
type recordOf[T any] func(*many) *map[string]*T

func (of recordOf[T]) pick(from, to *many, id string) bool {
	r, ok := (*of(from))[id]
	if ok {
		ensure(of(to))
		(*of(to))[id] = r
	}
	return ok
}

func (of recordOf[T]) drop(from *many, id string) { delete(*of(from), id) }

func (of recordOf[T]) merge(from, to *many) { maps.Copy(*of(to), *of(from)) }

// records returns the records of all products.
func records() []record {
	var all []record
	for _, p := range products {
		all = append(all, p.records...)
	}
	return all
}

// Snapshot is MarshalJSON; from then on the State records what Changes returns.
func (s *State) Snapshot() ([]byte, error) {
	rest, err := json.Marshal(s.data.few)
	if err != nil {
		return nil, err
	}
	s.journal = &journal{touched: map[string]bool{}, tokens: map[string]bool{}, rest: rest}
	return s.MarshalJSON()
}

// Changes saves what changed since the last call of Snapshot or Changes, for Load. It is one
// line of JSON, whose size does not depend on the cloud. Snapshot must have been called, and
// the Revision must have increased since: Load ignores a change that it takes for known.
func (s *State) Changes() ([]byte, error) {
	j := s.journal
	c := change{
		Revision: s.data.Revision, Operations: s.data.Operations, Freed: j.freed, Tokens: map[string]rememberedAnswer{},
	}
	var err error
	if c.Random, err = s.rng.MarshalBinary(); err != nil {
		return nil, fmt.Errorf("save the random generator: %w", err)
	}
	all := records()
	for id := range j.touched {
		if !slices.ContainsFunc(all, func(r record) bool { return r.pick(&s.data.many, &c.many, id) }) {
			c.Gone = append(c.Gone, id)
		}
	}
	for key := range j.tokens {
		if answer, ok := s.data.Tokens[key]; ok {
			c.Tokens[key] = answer
		} else {
			c.Forgotten = append(c.Forgotten, key)
		}
	}
	rest, err := json.Marshal(s.data.few)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(rest, j.rest) {
		c.Rest = &s.data.few
	}
	b, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	clear(j.touched)
	clear(j.tokens)
	j.freed, j.rest = nil, rest
	return b, nil
}

// apply applies a line of Changes to a saved state. A change that the state has already has no
// effect.
func (in *snapshot) apply(line []byte) error {
	var c change
	if err := json.Unmarshal(line, &c); err != nil {
		return fmt.Errorf("read a saved change: %w", err)
	}
	d := &in.Data
	if c.Revision <= d.Revision {
		return nil
	}
	in.Random, d.Revision, d.Operations = c.Random, c.Revision, c.Operations
	for _, r := range records() {
		for _, id := range c.Gone {
			r.drop(&d.many, id)
		}
		r.merge(&c.many, &d.many)
	}
	for _, key := range c.Forgotten {
		delete(d.Tokens, key)
	}
	maps.Copy(d.Tokens, c.Tokens)
	for _, f := range c.Freed {
		list := d.Freed[f.VSwitchId]
		if at := slices.Index(list, f.Address); !f.Taken {
			list = append(list, f.Address)
		} else if at >= 0 {
			list = slices.Delete(list, at, at+1)
		}
		d.putFreed(f.VSwitchId, list)
	}
	if c.Rest != nil {
		d.few = *c.Rest
		d.complete()
	}
	maps.DeleteFunc(d.Freed, func(id string, _ []netip.Addr) bool { return d.VSwitches[id] == nil })
	return nil
}

// touch records that resources of many are changed, added or removed; other ids are ignored.
func (s *State) touch(ids ...string) {
	if s.journal == nil {
		return
	}
	for _, id := range ids {
		s.journal.touched[id] = true
	}
}

// touchToken records that a token is added or removed.
func (s *State) touchToken(key string) {
	if s.journal != nil {
		s.journal.tokens[key] = true
	}
}

// touchFreed records that an address was added to the list of free ones, or removed from it.
func (s *State) touchFreed(vSwitchID string, a netip.Addr, taken bool) {
	if s.journal != nil {
		s.journal.freed = append(s.journal.freed, freedChange{vSwitchID, a, taken})
	}
}

// putFreed stores no empty list.
func (d *data) putFreed(vSwitchID string, list []netip.Addr) {
	if len(list) == 0 {
		delete(d.Freed, vSwitchID)
	} else {
		d.Freed[vSwitchID] = list
	}
}
