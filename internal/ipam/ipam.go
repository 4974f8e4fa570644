// Package ipam decides how many addresses a node should have, where to allocate them and which
// to give back.
//
// It is pure: a function from the current state (limits, ENIs, use, demand, vSwitches) to the
// next steps. It uses no cloud, no Kubernetes and no clock, and keeps nothing between calls: a
// call after a crash returns the remaining work. The duration of a surplus is part of the state
// and of the plan; a caller that loses it waits the full time again before anything is given
// back.
package ipam

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"time"
)

// BatchSize is the maximum number of addresses that a call to the cloud assigns or unassigns
// (ECS API: AssignPrivateIpAddresses, at most 10).
const BatchSize = 10

// CreateMax is the maximum number of addresses, including the primary, with which an ENI can be
// created (ECS API: SecondaryPrivateIpAddressCount, at most 49).
const CreateMax = 50

// Use is the state of an address on the node.
type Use int

const (
	Free Use = iota
	Used
	Cooling
	// Released: the node has confirmed that it stopped using the address.
	Released
)

// Address is an address of an ENI.
type Address struct {
	Address   netip.Addr
	Primary   bool
	Releasing bool // the node was asked to stop using it
	// Going: it is being unassigned, which cannot be undone.
	Going bool
	// Held: a load balancer has it as a backend. It counts as used, whatever its use on the node: no
	// other pod may have it, and it stays on its ENI.
	Held bool
	Use  Use
}

// free reports whether a pod could have the address if its ENI is ready.
func (a *Address) free() bool { return a.Use == Free && !a.Releasing && !a.Held }

// Phase is the state of an ENI.
type Phase int

const (
	Creating  Phase = iota // requested with Requested addresses
	Attaching              // has its addresses, serves no pods yet
	Ready
	Detaching // being detached; counts against the limit until it is gone
)

// ENI is an ENI of the node.
type ENI struct {
	Token     string
	Phase     Phase
	VSwitch   string
	Requested int // if Creating: how many addresses were requested
	Addresses []Address
	// Unknown is how many more addresses the ENI has in the cloud that may not be usable yet.
	// They occupy slots and are expected to become usable.
	Unknown int
	// Blocked: the cloud refused to assign addresses to it a short while ago, so it is not
	// asked again yet.
	Blocked bool
	// Exclusive: it serves one pod, and has only its primary address.
	Exclusive bool
}

// VSwitch is a source of addresses.
type VSwitch struct {
	ID        string
	Available int
	// Promised is how many more addresses ENIs in the vSwitch may request, including new ENIs
	// and those of other nodes. An ENI cannot change its vSwitch, so nodes with ENIs in a full
	// vSwitch run short even if other vSwitches have free addresses.
	Promised int
	// Unknown: the number of free addresses is not known. Existing ENIs in the vSwitch still
	// request addresses, but no ENI is created in it.
	Unknown bool
	// Parked: it was full a short while ago, so it is not asked again yet.
	Parked bool
}

// Policy selects the vSwitch for a new ENI.
type Policy string

const (
	MostAvailable Policy = "most"    // the one with the most free addresses that are not promised
	Ordered       Policy = "ordered" // the first of the list with free addresses
	Random        Policy = "random"  // any with free addresses; State.Seed decides
)

// State is the input of a plan.
type State struct {
	// MaxENIs is the maximum number of ENIs for pods: the type's limit without the primary.
	MaxENIs int
	// MaxExclusive is how many of MaxENIs may be exclusive; the rest is shared.
	MaxExclusive int
	// ExclusiveWarm is how many free exclusive ENIs to keep, ExclusiveDemand how many pods wait
	// for one.
	ExclusiveWarm, ExclusiveDemand int
	// PerENI is the maximum number of addresses of an ENI, including its primary address.
	PerENI    int
	Min, Max  int // free addresses to keep
	Demand    int // number of pods that wait for an address
	ENIs      []ENI
	VSwitches []VSwitch
	Policy    Policy
	Seed      uint64 // for Random
	// NoCreate: the cloud refused a new ENI a short while ago, so none is requested yet.
	NoCreate bool
	// Now is the time. A surplus is given back after it has lasted for Patience (0: at once):
	// bursts of pods reuse the addresses of the last burst, without calls to the cloud.
	Now      time.Time
	Patience time.Duration
	// Surplus and ExclusiveSurplus are from the last plan.
	Surplus, ExclusiveSurplus Surplus
}

// Surplus is how many addresses, or exclusive ENIs, a node has had too many.
type Surplus struct {
	// Since is when the surplus began; zero: there is none.
	Since time.Time
	// Least is the smallest surplus since then: no burst of pods has needed these.
	Least int
}

// due updates the surplus and returns how much of it may be given back.
func (s Surplus) due(surplus int, now time.Time, patience time.Duration) (due int, next Surplus) {
	if surplus <= 0 {
		return 0, Surplus{}
	}
	// After a clock was set back, start again.
	if s.Since.IsZero() || s.Since.After(now) {
		s = Surplus{Since: now, Least: surplus}
	}
	s.Least = min(s.Least, surplus)
	if now.Sub(s.Since) < patience {
		return 0, s
	}
	if left := surplus - s.Least; left > 0 {
		return s.Least, Surplus{Since: now, Least: left}
	}
	return s.Least, Surplus{}
}

// Create requests a new ENI.
type Create struct {
	VSwitch   string
	Addresses int // including the primary
	Exclusive bool
}

// Assign requests N more addresses on an ENI.
type Assign struct {
	Token string
	N     int // at most BatchSize
}

// Unassign removes confirmed addresses from an ENI.
type Unassign struct {
	Token     string
	Addresses []netip.Addr // at most BatchSize
}

// Shortage is why the node cannot get what it needs.
type Shortage string

const (
	None        Shortage = ""
	TypeLimit   Shortage = "TypeLimit"
	VSwitchFull Shortage = "VSwitchFull"
	// NoENISlot: vSwitches have free addresses, but no ENI with room is in one of them, and the
	// node has no slot for another ENI.
	NoENISlot Shortage = "NoENISlot"
	// Refused: there is room, but the cloud refused a request a short while ago (Blocked,
	// NoCreate).
	Refused Shortage = "Refused"
)

// Plan is the list of next steps, in this order.
type Plan struct {
	// Keep are addresses that are needed again: their Releasing mark is removed.
	Keep     []netip.Addr
	Assign   []Assign
	Create   []Create
	Release  []netip.Addr // addresses to mark Releasing
	Unassign []Unassign
	Detach   []string // tokens of ENIs to detach and delete
	// Missing is how many addresses the node lacks because of Shortage.
	Missing  int
	Shortage Shortage
	// Surplus and ExclusiveSurplus are for the State of the next plan.
	Surplus, ExclusiveSurplus Surplus
}

// Empty reports whether there is nothing to do.
func (p *Plan) Empty() bool {
	return len(p.Keep)+len(p.Assign)+len(p.Create)+len(p.Release)+len(p.Unassign)+len(p.Detach) == 0
}

// Compute plans the next steps. Shared and exclusive ENIs are planned separately: neither uses
// the slots of the other.
func Compute(s State) Plan {
	exclusive, shared := s, s
	exclusive.ENIs, shared.ENIs = nil, nil
	for _, e := range s.ENIs {
		if e.Exclusive {
			exclusive.ENIs = append(exclusive.ENIs, e)
		} else {
			shared.ENIs = append(shared.ENIs, e)
		}
	}
	// After a change of MaxExclusive there may be too many ENIs of one kind: until they are
	// gone, the other kind has less room.
	exclusive.MaxENIs = ExclusiveRoom(s.MaxENIs, s.MaxExclusive, len(shared.ENIs))
	shared.MaxENIs = s.MaxENIs - max(s.MaxExclusive, len(exclusive.ENIs))
	p := exclusive.planExclusive()
	shared.VSwitches = p.taken(s.VSwitches)
	p.join(shared.planShared())
	return p
}

func (s State) planShared() Plan {
	var p Plan
	free := 0
	for i := range s.ENIs {
		free += s.ENIs[i].free()
	}
	due, rest := s.Surplus.due(free-s.Max-s.Demand, s.Now, s.Patience)
	p.Surplus = rest
	switch need := s.Demand + s.Min - free; {
	case s.Demand == 0 && p.releaseIdle(&s):
	case need > 0:
		p.grow(&s, need)
	case s.Demand == 0 && due > 0:
		p.shrink(&s, due)
	}
	p.settle(&s)
	p.finish(&s)
	return p
}

// releaseIdle marks all addresses of idle shared ENIs beyond the limit of shared ENIs: exclusive
// ENIs need the slots. Otherwise a pool spread over many ENIs would keep them for ever. It
// reports whether ENIs are on their way out, which a pool below its minimum must not call back.
func (p *Plan) releaseIdle(s *State) bool {
	surplus, leaving := len(s.ENIs)-s.MaxENIs, false
	if surplus <= 0 {
		return false
	}
	for i := range s.ENIs {
		e := &s.ENIs[i]
		if e.Phase == Detaching || e.leaving() {
			surplus--
		}
		leaving = leaving || e.Phase == Ready && e.leaving()
	}
	for i := range s.ENIs {
		e := &s.ENIs[i]
		if surplus <= 0 || e.Phase != Ready || e.leaving() || e.busy() > 0 || e.Unknown > 0 {
			continue
		}
		for _, a := range e.Addresses {
			if !a.Releasing {
				p.Release = append(p.Release, a.Address)
			}
		}
		surplus, leaving = surplus-1, true
	}
	return leaving
}

// settle unmarks the primary address of an ENI that is only partly marked: a primary address
// leaves only with its ENI.
func (p *Plan) settle(s *State) {
	for i := range s.ENIs {
		e := &s.ENIs[i]
		if e.Phase == Detaching || !e.leaving() {
			continue
		}
		if slices.ContainsFunc(e.Addresses, func(a Address) bool {
			return slices.Contains(p.Keep, a.Address) || !a.Releasing && !slices.Contains(p.Release, a.Address)
		}) {
			for _, a := range e.Addresses {
				if a.Primary && !slices.Contains(p.Keep, a.Address) {
					p.Keep = append(p.Keep, a.Address)
				}
			}
		}
	}
}

// free returns how many addresses of the ENI pods can use, now or after it is attached.
func (e *ENI) free() int {
	switch e.Phase {
	case Creating:
		return e.Requested
	case Detaching:
		return 0
	}
	n := e.Unknown
	for _, a := range e.Addresses {
		if a.free() {
			n++
		}
	}
	return n
}

// grow covers a need for addresses: first with those marked for release, then with free slots
// on existing ENIs, then with new ENIs.
func (p *Plan) grow(s *State, need int) {
	for i := range s.ENIs {
		e := &s.ENIs[i]
		if e.Phase == Detaching {
			continue
		}
		// Primary addresses first: without its primary address the ENI is given back.
		for _, primary := range []bool{true, false} {
			for _, a := range e.Addresses {
				if need <= 0 || a.Primary != primary || !a.Releasing || a.Going {
					continue
				}
				p.Keep = append(p.Keep, a.Address)
				if (a.Use == Free || a.Use == Released) && !a.Held {
					need-- // one that a pod took before the agent saw the mark helps later
				}
			}
		}
	}

	left := map[string]int{} // what each vSwitch can still provide
	for _, v := range s.VSwitches {
		switch {
		case v.Parked:
		case v.Unknown:
			left[v.ID] = math.MaxInt32
		default:
			left[v.ID] = v.Available
		}
	}
	room, refused := false, false
	for i := range s.ENIs {
		e := &s.ENIs[i]
		if e.Phase == Detaching || e.leaving() {
			continue
		}
		n := s.PerENI - len(e.Addresses) - e.Unknown
		if e.Phase == Creating {
			n = s.PerENI - e.Requested
		}
		if n > 0 && e.Blocked {
			refused = true
			continue
		}
		if n > 0 {
			room = true
		}
		if e.Phase != Ready {
			// It can be asked when it is attached, which is sooner than a new one.
			k := min(max(n, 0), need, max(left[e.VSwitch], 0))
			need -= k
			left[e.VSwitch] -= k
			continue
		}
		for n = min(n, left[e.VSwitch]); n > 0 && need > 0; {
			k := min(n, need, BatchSize)
			p.Assign = append(p.Assign, Assign{e.Token, k})
			n, need = n-k, need-k
			left[e.VSwitch] -= k
		}
	}

	slots := s.MaxENIs - len(s.ENIs)
	if s.NoCreate && slots > 0 {
		slots, refused = 0, true
	}
	for need > 0 && slots > 0 {
		v := s.pick(left)
		if v == "" {
			break
		}
		k := min(need, s.PerENI, CreateMax, left[v])
		p.Create = append(p.Create, Create{VSwitch: v, Addresses: k})
		left[v] -= k
		need, slots = need-k, slots-1
	}
	if need <= 0 {
		return
	}
	p.Missing = need
	switch {
	case refused:
		p.Shortage = Refused
	case slots <= 0 && room && !pending(s) && s.pick(left) != "":
		p.Shortage = NoENISlot
	case slots > 0 || room && !pending(s):
		p.Shortage = VSwitchFull
	case !room && !pending(s):
		p.Shortage = TypeLimit
	}
}

// pending reports whether an ENI is being attached or detached: the room that results is not
// known yet.
func pending(s *State) bool {
	return slices.ContainsFunc(s.ENIs, func(e ENI) bool { return e.Phase != Ready || e.leaving() })
}

// leaving reports whether the whole ENI is being given back: its primary address can leave only
// with the ENI.
func (e *ENI) leaving() bool {
	return slices.ContainsFunc(e.Addresses, func(a Address) bool { return a.Primary && a.Releasing })
}

// pick selects the vSwitch for a new ENI; "" if none has a free address.
func (s *State) pick(left map[string]int) string {
	best, most := "", 0
	var some []string
	for _, v := range s.VSwitches {
		free := left[v.ID] - v.Promised
		switch {
		case left[v.ID] <= 0 || v.Unknown:
		case s.Policy == Random:
			some = append(some, v.ID)
		case best == "", s.Policy != Ordered && free > most:
			best, most = v.ID, free
		}
	}
	if len(some) > 0 {
		return some[(s.Seed+uint64(len(s.ENIs)))%uint64(len(some))]
	}
	return best
}

// shrink marks surplus free addresses, on the least used ENIs first, so that whole ENIs become
// idle and can be given back.
func (p *Plan) shrink(s *State, surplus int) {
	enis := slices.Clone(s.ENIs)
	slices.SortStableFunc(enis, func(a, b ENI) int {
		return cmp.Or(cmp.Compare(a.busy(), b.busy()), cmp.Compare(a.Token, b.Token))
	})
	for i := range enis {
		e := &enis[i]
		if e.Phase != Ready {
			continue
		}
		whole := e.busy() == 0 && e.Unknown == 0 && e.free() <= surplus
		for _, a := range e.Addresses {
			if surplus <= 0 {
				return
			}
			if !a.free() || a.Primary && !whole {
				continue
			}
			p.Release = append(p.Release, a.Address)
			surplus--
		}
	}
}

// busy counts the addresses that pods use, that are cooling or that are held.
func (e *ENI) busy() int {
	n := 0
	for _, a := range e.Addresses {
		if a.Use == Used || a.Use == Cooling || a.Held {
			n++
		}
	}
	return n
}

// finish gives back what the node has confirmed.
func (p *Plan) finish(s *State) {
	for i := range s.ENIs {
		e := &s.ENIs[i]
		if e.Phase != Ready {
			continue
		}
		if e.leaving() {
			if !slices.ContainsFunc(e.Addresses, func(a Address) bool {
				return !a.Releasing || a.Use != Released || a.Held || slices.Contains(p.Keep, a.Address)
			}) {
				p.Detach = append(p.Detach, e.Token)
			}
			// Until all are confirmed the ENI stays complete, so that it can be kept.
			continue
		}
		var gone []netip.Addr
		for _, a := range e.Addresses {
			if a.Releasing && a.Use == Released && !a.Held && !a.Primary && !slices.Contains(p.Keep, a.Address) {
				gone = append(gone, a.Address)
			}
		}
		for c := range slices.Chunk(gone, BatchSize) {
			p.Unassign = append(p.Unassign, Unassign{e.Token, c})
		}
	}
}
