package state

import (
	"slices"
	"time"
)

// kind is the kind of an operation; the products define the kinds.
type kind string

// operation is a running operation on one resource.
type operation struct {
	Kind kind
	ID   string
	Due  time.Time
	// VpcId is set for operations of which a VPC runs one at a time.
	VpcId string `json:",omitempty"`
	// Held: not due until the fault that holds it is removed.
	Held bool `json:",omitempty"`
}

// start starts an operation that takes d from the given time.
func (s *State) start(k kind, id string, from time.Time, d time.Duration) {
	s.enqueue(operation{Kind: k, ID: id, Due: from.Add(d)})
}

// enqueue inserts an operation after those that are due before it or at the same time.
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

// cancel removes the operations on a resource.
func (s *State) cancel(id string) {
	s.data.Operations = slices.DeleteFunc(s.data.Operations, func(o operation) bool { return o.ID == id })
}

// NextDue returns when the next operation is due; ok is false if none ever will be.
func (s *State) NextDue() (time.Time, bool) {
	i := s.earliest()
	if i < 0 {
		return time.Time{}, false
	}
	return s.data.Operations[i].Due, true
}

// earliest returns the index of the operation that is due first, the oldest of equals; −1 if
// there is none.
func (s *State) earliest() int {
	return slices.IndexFunc(s.data.Operations, func(o operation) bool { return !o.Held })
}

// Tick completes every operation that is due at now, and those that they start and that are due
// too; it reports whether anything changed.
func (s *State) Tick(now time.Time) (changed bool) {
	for {
		i := s.earliest()
		if i < 0 || s.data.Operations[i].Due.After(now) {
			break
		}
		o := s.data.Operations[i]
		s.data.Operations = slices.Delete(s.data.Operations, i, i+1)
		s.touch(o.ID)
		completionOf(o.Kind).finish(s, o)
		s.changed()
		changed = true
	}
	s.forgetTokens(now)
	return changed
}
