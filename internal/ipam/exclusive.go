package ipam

import (
	"cmp"
	"slices"
)

// ExclusiveRoom returns how many exclusive ENIs fit beside so many shared ones.
func ExclusiveRoom(maxENIs, maxExclusive, shared int) int {
	return max(0, min(maxExclusive, maxENIs-shared))
}

// planExclusive plans the exclusive ENIs. There is no pool of addresses here: an ENI is free or
// used by a pod.
func (s State) planExclusive() Plan {
	var p Plan
	var free []*ENI
	used := 0
	for i := range s.ENIs {
		e := &s.ENIs[i]
		if e.Phase != Detaching && !e.used() && !e.leaving() {
			free = append(free, e)
		}
		if e.used() {
			used++
		}
	}
	room := max(0, s.MaxENIs-used) // for free ENIs
	// ENIs beyond the limit go at once: they occupy the slots of shared ones. Of the rest, one
	// more than the warm ones may stay, so that a pod that is replaced finds an ENI.
	over := max(0, len(free)-room)
	due, rest := s.ExclusiveSurplus.due(len(free)-over-min(s.ExclusiveWarm+1, room)-s.ExclusiveDemand, s.Now, s.Patience)
	p.ExclusiveSurplus = rest
	switch need := s.ExclusiveDemand + min(s.ExclusiveWarm, room) - len(free); {
	case need > 0:
		p.growExclusive(&s, need)
	case s.ExclusiveDemand == 0:
		p.shrinkExclusive(free, over+due)
	}
	p.finish(&s)
	return p
}

// used reports whether a pod has the ENI, or a load balancer holds its address. If its address is
// cooling it counts as free: with an ENI for each pod there may be no other.
func (e *ENI) used() bool {
	return slices.ContainsFunc(e.Addresses, func(a Address) bool { return a.Use == Used || a.Held })
}

func (p *Plan) growExclusive(s *State, need int) {
	for i := range s.ENIs {
		e := &s.ENIs[i]
		if e.Phase == Detaching || !e.leaving() || need <= 0 {
			continue
		}
		for _, a := range e.Addresses {
			if !a.Going {
				p.Keep = append(p.Keep, a.Address)
			}
		}
		need--
	}
	left := map[string]int{}
	for _, v := range s.VSwitches {
		if !v.Parked {
			left[v.ID] = v.Available
		}
	}
	slots, refused := s.MaxENIs-len(s.ENIs), false
	if s.NoCreate && slots > 0 {
		slots, refused = 0, true
	}
	for need > 0 && slots > 0 {
		v := s.pick(left)
		if v == "" {
			break
		}
		p.Create = append(p.Create, Create{VSwitch: v, Addresses: 1, Exclusive: true})
		left[v]--
		need, slots = need-1, slots-1
	}
	if need <= 0 || s.ExclusiveDemand == 0 {
		return // a warm pool that cannot be filled is no problem while no pod waits
	}
	p.Missing = min(need, s.ExclusiveDemand)
	switch {
	case refused:
		p.Shortage = Refused
	case slots > 0:
		p.Shortage = VSwitchFull
	case !pending(s):
		p.Shortage = TypeLimit
	}
}

// shrinkExclusive gives back surplus ENIs that are ready.
func (p *Plan) shrinkExclusive(free []*ENI, surplus int) {
	slices.SortStableFunc(free, func(a, b *ENI) int { return cmp.Compare(a.Token, b.Token) })
	for _, e := range free {
		if surplus <= 0 || e.Phase != Ready || e.busy() > 0 {
			continue
		}
		for _, a := range e.Addresses {
			p.Release = append(p.Release, a.Address)
		}
		surplus--
	}
}

// taken returns the vSwitches after the plan.
func (p *Plan) taken(vs []VSwitch) []VSwitch {
	left := slices.Clone(vs)
	for _, c := range p.Create {
		for i := range left {
			if left[i].ID == c.VSwitch {
				left[i].Available = max(0, left[i].Available-c.Addresses)
			}
		}
	}
	return left
}

// join adds another plan. If both have a shortage, the one with more missing addresses is
// reported.
func (p *Plan) join(q Plan) {
	p.Keep = append(p.Keep, q.Keep...)
	p.Assign = append(p.Assign, q.Assign...)
	p.Create = append(p.Create, q.Create...)
	p.Release = append(p.Release, q.Release...)
	p.Unassign = append(p.Unassign, q.Unassign...)
	p.Detach = append(p.Detach, q.Detach...)
	p.Missing += q.Missing
	p.Surplus = q.Surplus
	if p.Shortage == None {
		p.Shortage = q.Shortage
	}
}
