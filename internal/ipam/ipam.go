// Package ipam decides how many addresses a node should have, where to take them
// from and which to give back.
//
// It is pure: a function from what is (limits, ENIs, use, demand, vSwitches) to
// what to do next. It knows no cloud, no Kubernetes and no clock, and it keeps
// nothing between calls: calling it again after a crash gives the rest of the work.
// How long there has been a surplus comes in with the state and goes out with the plan;
// who loses it between two calls waits once more before anything is given back.
package ipam

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"time"
)

// BatchSize is how many addresses one call to the cloud may assign or unassign
// (ECS API: AssignPrivateIpAddresses, at most 10).
const BatchSize = 10

// CreateMax is how many addresses, the primary included, an ENI can be created
// with (ECS API: SecondaryPrivateIpAddressCount, at most 49).
const CreateMax = 50

// Use is what the node does with an address.
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
	// Going: it is being unassigned; there is no way back.
	Going bool
	Use   Use
}

// Phase is where an ENI is on its way.
type Phase int

const (
	Creating  Phase = iota // asked for; Requested says with how many addresses
	Attaching              // has its addresses, serves no pod yet
	Ready
	Detaching // on its way out; counts against the limit until it is gone
)

// ENI is an interface of the node.
type ENI struct {
	Token     string
	Phase     Phase
	VSwitch   string
	Requested int // of Creating: how many addresses were asked for
	Addresses []Address
	// Unknown is how many more addresses the cloud has on it, of which it is not
	// certain yet that they may be used. They take room and are expected to come.
	Unknown int
	// Blocked: the cloud refused it addresses a short while ago; it is not asked.
	Blocked bool
	// Exclusive: it serves one pod, whole. It has no address but its primary.
	Exclusive bool
}

// VSwitch is where addresses come from.
type VSwitch struct {
	ID        string
	Available int
	// Promised is how many more addresses the ENIs that are in it, or are being made in it, can
	// ask for, those of other nodes too. An ENI cannot leave its vSwitch, so one that is full
	// of ENIs leaves their nodes short though others have room.
	Promised int
	// Unknown: how many are available is not known. ENIs that are there are asked for
	// addresses all the same; no ENI is created in it.
	Unknown bool
	// Parked: it was full a short while ago; it is not asked.
	Parked bool
}

// Policy orders vSwitches for a new ENI.
type Policy string

const (
	MostAvailable Policy = "most"    // the one with the most free addresses that are not promised
	Ordered       Policy = "ordered" // the first of the list that has any
	Random        Policy = "random"  // any that has some; State.Seed says which
)

// State is all that a plan depends on.
type State struct {
	// MaxENIs is how many ENIs may serve pods: the type's, less the primary.
	MaxENIs int
	// MaxExclusive is how many of MaxENIs are for pods that have an ENI of their own; the
	// rest is shared.
	MaxExclusive int
	// ExclusiveWarm is how many free ones of these to keep, ExclusiveDemand how many pods wait for one.
	ExclusiveWarm, ExclusiveDemand int
	// PerENI is how many addresses an ENI may have, its primary included.
	PerENI    int
	Min, Max  int // free addresses to keep
	Demand    int // pods that wait for an address
	ENIs      []ENI
	VSwitches []VSwitch
	Policy    Policy
	Seed      uint64 // of Random
	// NoCreate: the cloud refused a new ENI a short while ago; it is not asked.
	NoCreate bool
	// Now is the time. What was surplus for all of Patience is given back: pods that come
	// and go in bursts find what the last burst had, and no burst costs calls. 0: at once.
	Now      time.Time
	Patience time.Duration
	// Surplus and ExclusiveSurplus are the last plan's.
	Surplus, ExclusiveSurplus Surplus
}

// Surplus is how much more than its due a node has had, of addresses or of ENIs that
// serve one pod.
type Surplus struct {
	// Since is when it began; zero: there is none.
	Since time.Time
	// Least is the least that it was since: what no burst of pods has needed.
	Least int
}

// due takes what is surplus now and says how much of it may be given back.
func (s Surplus) due(surplus int, now time.Time, patience time.Duration) (due int, next Surplus) {
	if surplus <= 0 {
		return 0, Surplus{}
	}
	// A clock that was set back begins anew.
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

// Create asks for a new ENI.
type Create struct {
	VSwitch   string
	Addresses int // the primary included
	Exclusive bool
}

// Assign asks for N more addresses on an ENI.
type Assign struct {
	Token string
	N     int // at most BatchSize
}

// Unassign takes confirmed addresses off an ENI.
type Unassign struct {
	Token     string
	Addresses []netip.Addr // at most BatchSize
}

// Shortage is why the node cannot have what it needs.
type Shortage string

const (
	None        Shortage = ""
	TypeLimit   Shortage = "TypeLimit"
	VSwitchFull Shortage = "VSwitchFull"
	// NoENISlot: vSwitches have addresses, but no ENI of the node that has room is in one
	// of them, and there is no slot for another ENI.
	NoENISlot Shortage = "NoENISlot"
	// Refused: there is room, but the cloud refused it a short while ago (Blocked, NoCreate).
	Refused Shortage = "Refused"
)

// Plan is what to do next, in this order.
type Plan struct {
	// Keep are addresses to take out of Releasing: they are needed after all.
	Keep     []netip.Addr
	Assign   []Assign
	Create   []Create
	Release  []netip.Addr // addresses to mark Releasing
	Unassign []Unassign
	Detach   []string // tokens of ENIs to give back whole
	// Missing is how many addresses the node lacks that Shortage prevents.
	Missing  int
	Shortage Shortage
	// Surplus and ExclusiveSurplus are for the next plan's State.
	Surplus, ExclusiveSurplus Surplus
}

// Empty reports whether there is nothing to do.
func (p *Plan) Empty() bool {
	return len(p.Keep)+len(p.Assign)+len(p.Create)+len(p.Release)+len(p.Unassign)+len(p.Detach) == 0
}

// Compute plans the next steps. Shared ENIs and those that pods have for themselves
// are planned apart: neither takes the other's slots.
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
	// After a change of MaxExclusive there may be more of a kind than it allows: until they
	// are gone, the other kind has less room.
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
	case s.Demand == 0 && p.vacate(&s):
	case need > 0:
		p.grow(&s, need)
	case s.Demand == 0 && due > 0:
		p.shrink(&s, due)
	}
	p.settle(&s)
	p.finish(&s)
	return p
}

// vacate marks idle ENIs that are more than the shared ones may be, whole: pods that
// want an ENI to themselves need the place, and none is sent before there is one. A
// spread pool would else hold it for good. It reports whether ENIs are on their way out,
// which a pool below its minimum must not call back.
func (p *Plan) vacate(s *State) bool {
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

// settle keeps the primary address of an ENI that is half marked: an ENI goes
// whole or not at all.
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

// free is how many addresses of the ENI pods can have, now or when it is attached.
func (e *ENI) free() int {
	switch e.Phase {
	case Creating:
		return e.Requested
	case Detaching:
		return 0
	}
	n := e.Unknown
	for _, a := range e.Addresses {
		if a.Use == Free && !a.Releasing {
			n++
		}
	}
	return n
}

// grow finds need more addresses: first those on their way out, then room on the
// ENIs there are, then new ENIs.
func (p *Plan) grow(s *State, need int) {
	for i := range s.ENIs {
		e := &s.ENIs[i]
		if e.Phase == Detaching {
			continue
		}
		// The primary first: without it the ENI goes, and all others with it.
		for _, primary := range []bool{true, false} {
			for _, a := range e.Addresses {
				if need <= 0 || a.Primary != primary || !a.Releasing || a.Going {
					continue
				}
				p.Keep = append(p.Keep, a.Address)
				if a.Use == Free || a.Use == Released {
					need-- // one that a pod took before it saw the mark helps later
				}
			}
		}
	}

	left := map[string]int{} // what each vSwitch can still give
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
			// It can be asked when it is attached, which is sooner than a new one is.
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

// pending reports whether an ENI is on its way in or out: what it leaves room for
// is not known yet.
func pending(s *State) bool {
	return slices.ContainsFunc(s.ENIs, func(e ENI) bool { return e.Phase != Ready || e.leaving() })
}

// leaving reports whether the whole ENI is being given back: its primary address
// can leave only with the ENI.
func (e *ENI) leaving() bool {
	return slices.ContainsFunc(e.Addresses, func(a Address) bool { return a.Primary && a.Releasing })
}

// pick chooses the vSwitch for a new ENI; "" when none has an address.
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

// shrink marks surplus free addresses: of the least used ENIs, so that whole
// ENIs become idle and can be given back.
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
			if a.Use != Free || a.Releasing || a.Primary && !whole {
				continue
			}
			p.Release = append(p.Release, a.Address)
			surplus--
		}
	}
}

// busy counts the addresses that pods hold or held a moment ago.
func (e *ENI) busy() int {
	n := 0
	for _, a := range e.Addresses {
		if a.Use == Used || a.Use == Cooling {
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
			if !slices.ContainsFunc(e.Addresses, func(a Address) bool { return !a.Releasing || a.Use != Released || slices.Contains(p.Keep, a.Address) }) {
				p.Detach = append(p.Detach, e.Token)
			}
			// Until all are confirmed the ENI stays whole, so that it can be kept whole.
			continue
		}
		var gone []netip.Addr
		for _, a := range e.Addresses {
			if a.Releasing && a.Use == Released && !a.Primary && !slices.Contains(p.Keep, a.Address) {
				gone = append(gone, a.Address)
			}
		}
		for c := range slices.Chunk(gone, BatchSize) {
			p.Unassign = append(p.Unassign, Unassign{e.Token, c})
		}
	}
}
