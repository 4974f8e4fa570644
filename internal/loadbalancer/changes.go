package loadbalancer

import (
	"cmp"
	"fmt"
	"slices"

	"terway.dev/terway/internal/cloud"
)

// Limits are those of a product's groups.
type Limits struct {
	PerCall  int // backends in one call, at least 1
	PerGroup int
}

// LimitsOf returns a product's limits, as their documentation has them. An account may have higher ones.
func LimitsOf(p Product) Limits {
	if p == CLB {
		return Limits{PerCall: 20, PerGroup: 200}
	}
	return Limits{PerCall: 200, PerGroup: 400}
}

// Verb is what is done with backends.
type Verb string

// Verbs, each of which is a call of the API.
const (
	Weigh  Verb = "weigh"
	Add    Verb = "add"
	Remove Verb = "remove"
)

// Batch is one call.
type Batch struct {
	Verb     Verb
	Backends []cloud.Backend
}

// Change is how a group becomes what is wanted.
type Change struct {
	// Batches are to be done in this order. One that fails is no reason to leave out the next.
	Batches []Batch
	// Left are wanted backends that stay out.
	Left []Left
}

// Left is a backend that stays out of its group, and why.
type Left struct {
	cloud.Backend
	Why string
}

// Changes returns how a group with the current backends gets the wanted ones. Backends that have another
// description than owner are not ours and are never touched; with an owner of "" all are ours (see Owner).
//
//   - What drains gets weight 0 first, as pods that terminate wait for that. Only if nothing in the group would
//     then take connections, what is new comes before.
//   - What is new is added before what is old is removed, unless the group is full.
//   - If not all fit, those that drain go, then those stay that are in the group, and the rest is Left.
func Changes(owner string, current, wanted []cloud.Backend, limits Limits) Change {
	c := Change{}
	now, others := map[cloud.BackendKey]cloud.Backend{}, map[cloud.BackendKey]bool{}
	serves := false // something takes connections before, after and meanwhile
	for _, b := range current {
		if foreign(owner, b) {
			others[b.Key()] = true
			serves = serves || b.Weight > 0
			continue
		}
		now[b.Key()] = b
	}
	kept := c.keep(now, others, wanted, limits.PerGroup-len(others))

	var drain, raise, add, remove []cloud.Backend
	stays := map[cloud.BackendKey]bool{}
	for _, b := range kept {
		stays[b.Key()] = true
		old, in := now[b.Key()]
		switch {
		case !in:
			add = append(add, b)
		case b.Weight == old.Weight:
		case b.Weight == 0:
			drain = append(drain, b)
		default:
			raise = append(raise, b)
		}
		serves = serves || in && old.Weight > 0 && b.Weight > 0
	}
	for _, b := range current {
		if _, ours := now[b.Key()]; ours && !stays[b.Key()] {
			remove = append(remove, b)
		}
	}
	slices.SortStableFunc(remove, func(a, b cloud.Backend) int {
		return cmp.Or(cmp.Compare(min(a.Weight, 1), min(b.Weight, 1)), compareBackends(a, b))
	})

	if serves {
		c.batches(Weigh, append(drain, raise...), limits.PerCall)
	}
	size := len(current)
	for len(add) > 0 {
		room := limits.PerGroup - size
		if n := min(limits.PerCall, len(remove)); room < min(limits.PerCall, len(add)) && n > 0 {
			c.batches(Remove, remove[:n], limits.PerCall)
			remove, size = remove[n:], size-n
			continue
		}
		n := min(limits.PerCall, len(add))
		c.batches(Add, add[:n], limits.PerCall)
		add, size = add[n:], size+n
	}
	if !serves {
		c.batches(Weigh, append(raise, drain...), limits.PerCall)
	}
	c.batches(Remove, remove, limits.PerCall)
	return c
}

// keep returns those of the wanted backends that fit. The others are left, unless they drain.
func (c *Change) keep(now map[cloud.BackendKey]cloud.Backend, others map[cloud.BackendKey]bool, wanted []cloud.Backend, room int) []cloud.Backend {
	kept := slices.Clone(wanted)
	kept = slices.DeleteFunc(kept, func(b cloud.Backend) bool {
		if others[b.Key()] {
			c.Left = append(c.Left, Left{b, fmt.Sprintf("it is in the group with another description than %q, so it is not ours: remove it there", b.Description)})
		}
		return others[b.Key()]
	})
	slices.SortStableFunc(kept, func(a, b cloud.Backend) int {
		rank := func(b cloud.Backend) int {
			_, in := now[b.Key()]
			switch {
			case b.Weight > 0 && in:
				return 0
			case b.Weight > 0:
				return 1
			}
			return 2
		}
		return cmp.Or(cmp.Compare(rank(a), rank(b)), compareBackends(a, b))
	})
	room = max(room, 0)
	if len(kept) <= room {
		return kept
	}
	for _, b := range kept[room:] {
		if b.Weight > 0 {
			c.Left = append(c.Left, Left{b, fmt.Sprintf("the group is full: it may have %d of the %d backends that are wanted: have a higher quota, or fewer pods", room, len(kept))})
		}
	}
	return kept[:room]
}

// batches appends calls of at most most backends.
func (c *Change) batches(verb Verb, list []cloud.Backend, most int) {
	for some := range slices.Chunk(list, most) {
		c.Batches = append(c.Batches, Batch{verb, some})
	}
}
