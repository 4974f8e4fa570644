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
	// PerBalancer is for the groups of a load balancer together, each backend counted in each group; 0: there is none.
	PerBalancer int
	// full: the load balancer has left PerGroup for the group.
	full bool
}

// LimitsOf returns a product's limits, as their documentation has them. An account may have higher ones.
func LimitsOf(p Product) Limits {
	if p == CLB {
		return Limits{PerCall: 20, PerGroup: 200}
	}
	return Limits{PerCall: 200, PerGroup: 400, PerBalancer: 400}
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

// Part is a listener's part of a load balancer: its group, with what it has and what it should have.
type Part struct {
	// Group identifies the group; two listeners may have one.
	Group string
	// Owner is the owner of the listener's backends: see Changes.
	Owner           string
	Current, Wanted []cloud.Backend
}

// PartChange is the change of a listener's group.
type PartChange struct {
	// Part is the index of the listener's part.
	Part int
	Change
}

// ChangesOfAll returns how the groups of a load balancer get what is wanted, in the order in which the changes are to be
// made: those that give room come first. If not all fits the load balancer, what drains goes first; then each listener gets
// as many backends as the others, or all that it wants, and the rest is Left.
func ChangesOfAll(parts []Part, limits Limits) (all []PartChange) {
	now, total := map[string][]cloud.Backend{}, 0
	own, active, draining := make([]int, len(parts)), make([]int, len(parts)), make([]int, len(parts))
	order, share := make([]int, len(parts)), make([]int, len(parts))
	for i, p := range parts {
		if _, counted := now[p.Group]; !counted {
			now[p.Group] = p.Current
			total += len(p.Current)
		}
		own[i] = p.own(p.Current)
		for _, b := range p.Wanted {
			if b.Weight > 0 {
				active[i]++
			} else {
				draining[i]++
			}
		}
		order[i], share[i] = i, len(p.Wanted)
	}
	room := limits.PerBalancer - total + sum(own)
	full := limits.PerBalancer > 0 && sum(share) > room
	if full {
		share = split(active, room)
		for i, n := range split(draining, room-sum(share)) {
			share[i] += n
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(share[a]-own[a], share[b]-own[b]) })
	for _, i := range order {
		p, mine := parts[i], limits
		p.Current = now[p.Group]
		if limits.PerBalancer > 0 {
			most := limits.PerBalancer - total + len(p.Current)
			if full {
				most = min(most, len(p.Current)-p.own(p.Current)+share[i])
			}
			if most < mine.PerGroup {
				mine.PerGroup, mine.full = most, true
			}
		}
		c := Changes(p.Owner, p.Current, p.Wanted, mine)
		now[p.Group] = c.after(p.Current)
		total += len(now[p.Group]) - len(p.Current)
		all = append(all, PartChange{i, c})
	}
	return all
}

// own returns how many of the backends of the part's group are the listener's.
func (p *Part) own(list []cloud.Backend) (n int) {
	for _, b := range list {
		if !foreign(p.Owner, b) {
			n++
		}
	}
	return n
}

func sum(list []int) (n int) {
	for _, x := range list {
		n += x
	}
	return n
}

// split returns what each gets of room: all get the same, but none more than it wants.
func split(wants []int, room int) []int {
	got := make([]int, len(wants))
	for gave := true; gave; {
		gave = false
		for i, want := range wants {
			if got[i] < want && room > 0 {
				got[i], room, gave = got[i]+1, room-1, true
			}
		}
	}
	return got
}

// after returns what a group has after the change.
func (c *Change) after(list []cloud.Backend) []cloud.Backend {
	list = slices.Clone(list)
	for _, batch := range c.Batches {
		for _, b := range batch.Backends {
			list = slices.DeleteFunc(list, func(is cloud.Backend) bool { return is.Key() == b.Key() })
			if batch.Verb != Remove {
				list = append(list, b)
			}
		}
	}
	return list
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
	kept := c.keep(now, others, wanted, limits)

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
func (c *Change) keep(now map[cloud.BackendKey]cloud.Backend, others map[cloud.BackendKey]bool, wanted []cloud.Backend, limits Limits) []cloud.Backend {
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
	room := max(limits.PerGroup-len(others), 0)
	if len(kept) <= room {
		return kept
	}
	why := fmt.Sprintf("the group is full: it may have %d of the %d backends that are wanted: have a higher quota, or fewer pods", room, len(kept))
	if limits.full {
		why = fmt.Sprintf("the load balancer is full, which may have %d backends in all its groups: this one may have %d of the %d that are wanted: have a higher quota, fewer pods, or fewer spec.ports in one Service", limits.PerBalancer, room, len(kept))
	}
	for _, b := range kept[room:] {
		if b.Weight > 0 {
			c.Left = append(c.Left, Left{b, why})
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
