// Package pool holds the node's addresses in memory: which are free for pods, which pods hold,
// which cool, which go back to the cloud.
//
// It is pure: it uses no kernel, no file, no API server and no clock. The caller writes the journal
// before it acts on the pool's answers.
package pool

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Offer is an address that the node may use.
type Offer struct {
	Address netip.Addr
	// ENI is the MAC of the interface that carries it.
	ENI string
	// Usable: the ENI's device is on the node.
	Usable bool
	// Releasing: the controller is taking the address back.
	Releasing bool
	// Held: a load balancer has it as a backend, so no other pod gets it.
	Held bool
	// Exclusive: the ENI is for one pod.
	Exclusive bool
}

// Holder is the attachment that holds an address.
type Holder struct {
	Key     string // the attachment: sandbox/interface
	Pod     string // namespace/name
	Sandbox string
}

// Lease is what a holder gets: one address of each family that the ENI has.
type Lease struct {
	ENI       string // MAC
	Addresses []netip.Addr
}

type slot struct {
	offer   Offer
	offered bool      // in the desired state
	holder  *Holder   // nil when free
	freed   time.Time // when it began to cool; zero: never held
	last    time.Time // when it last came back, used or not: the order of use
	given   bool      // given back: confirmed to the controller
}

// Pool is not safe for concurrent use; its owner holds a mutex.
type Pool struct {
	cooling time.Duration
	slots   map[netip.Addr]*slot
}

// New returns an empty pool.
func New() *Pool { return &Pool{slots: map[netip.Addr]*slot{}} }

// SetCooling sets how long a freed address rests.
func (p *Pool) SetCooling(d time.Duration) { p.cooling = d }

// Restore puts back what the journal has stored: an address that a pod holds, or the time at which
// an address became free.
func (p *Pool) Restore(a netip.Addr, eni string, h *Holder, freed time.Time) error {
	s := p.slot(a)
	if s.holder != nil {
		return fmt.Errorf("address %s is held by %s and cannot be given to %s", a, s.holder.Key, keyOf(h))
	}
	s.holder, s.freed, s.last = h, freed, freed
	if s.offer.ENI == "" {
		s.offer = Offer{Address: a, ENI: eni}
	}
	return nil
}

// Update sets which addresses the node may use. It returns the addresses that left the pool:
// neither offered nor held any more.
func (p *Pool) Update(offers []Offer) (left []netip.Addr) {
	for _, s := range p.slots {
		s.offered = false
	}
	for _, o := range offers {
		s := p.slot(o.Address)
		if !o.Releasing {
			// The controller may have changed its mind; until the next offer a confirmation stands.
			s.given = false
		}
		s.offer, s.offered = o, true
		if o.Releasing && s.holder == nil {
			s.given = true
		}
	}
	for a, s := range p.slots {
		if !s.offered && s.holder == nil {
			delete(p.slots, a)
			left = append(left, a)
		}
	}
	sortAddrs(left)
	return left
}

// Take gives a holder the free address that has rested longest, and one of each other family of the
// same ENI. ok is false when there is none. A holder must not have addresses already.
func (p *Pool) Take(h Holder, now time.Time) (l Lease, ok bool) {
	return p.take(h, false, func(s *slot) bool { return p.free(s, now) })
}

// TakeExclusive gives a holder the addresses of an exclusive ENI. An address that still cools may
// be taken if there is no other: a node has no more exclusive ENIs than pods that need them, so a
// replaced pod would have to wait for its own.
func (p *Pool) TakeExclusive(h Holder, now time.Time) (l Lease, ok bool) {
	if l, ok = p.take(h, true, func(s *slot) bool { return p.free(s, now) }); ok {
		return l, ok
	}
	return p.take(h, true, func(s *slot) bool { return s.usable() })
}

func (p *Pool) take(h Holder, exclusive bool, free func(*slot) bool) (l Lease, ok bool) {
	type families struct{ v4, v6 family }
	enis := map[string]*families{}
	for _, s := range p.slots {
		if !s.offered || s.offer.Releasing || s.offer.Exclusive != exclusive {
			continue
		}
		e := enis[s.offer.ENI]
		if e == nil {
			e = &families{}
			enis[s.offer.ENI] = e
		}
		f := &e.v4
		if s.offer.Address.Is6() {
			f = &e.v6
		}
		f.has = true
		if free(s) && (f.best == nil || s.before(f.best)) {
			f.best = s
		}
	}
	var take []*slot
	for _, e := range enis {
		var c []*slot
		whole := true
		for _, f := range []family{e.v4, e.v6} {
			if f.best != nil {
				c = append(c, f.best)
			} else if f.has {
				whole = false
			}
		}
		if whole && len(c) > 0 && (take == nil || c[0].before(take[0])) {
			take = c
		}
	}
	for _, s := range take {
		s.holder = &h
		l.ENI = s.offer.ENI
		l.Addresses = append(l.Addresses, s.offer.Address)
	}
	return l, len(take) > 0
}

// family is what an ENI has of one address family.
type family struct {
	has  bool  // any address at all
	best *slot // the address to give next
}

// before orders by how long an address has been out of use, then by address.
func (s *slot) before(o *slot) bool {
	if !s.last.Equal(o.last) {
		return s.last.Before(o.last)
	}
	return s.offer.Address.Less(o.offer.Address)
}

// Free takes an address back from the attachment with that key; it cools from now on. An address
// held by another attachment, or by none, is left alone.
func (p *Pool) Free(a netip.Addr, key string, now time.Time) {
	if s := p.back(a, key, now); s != nil {
		s.freed = now
	}
}

// Return takes back an address that no pod has used: it need not cool, but other free addresses are
// used first.
func (p *Pool) Return(a netip.Addr, key string, now time.Time) {
	p.back(a, key, now)
}

func (p *Pool) back(a netip.Addr, key string, now time.Time) *slot {
	s, ok := p.slots[a]
	if !ok || s.holder == nil || s.holder.Key != key {
		return nil
	}
	s.holder, s.last = nil, now
	switch {
	case !s.offered:
		delete(p.slots, a)
	case s.offer.Releasing:
		s.given = true
	}
	return s
}

// Count is the number of addresses in each state.
type Count struct {
	Total, Used, Free, Cooling, Held, Releasing, Unusable int
}

// Count counts the addresses at a time.
func (p *Pool) Count(now time.Time) Count {
	var c Count
	for _, s := range p.slots {
		c.Total++
		switch {
		case s.holder != nil:
			c.Used++
		case s.given || !s.offered || s.offer.Releasing:
			c.Releasing++
		case p.cools(s, now):
			c.Cooling++
		case s.offer.Held:
			c.Held++
		case !s.offer.Usable:
			c.Unusable++
		default:
			c.Free++
		}
	}
	return c
}

// NextCooled returns when the next cooling address can be used; ok is false when none cools.
func (p *Pool) NextCooled(now time.Time) (at time.Time, ok bool) {
	for _, s := range p.slots {
		if s.holder != nil || s.given || !s.offered || !s.offer.Usable || s.offer.Held || !p.cools(s, now) {
			continue
		}
		if t := s.freed.Add(p.cooling); !ok || t.Before(at) {
			at, ok = t, true
		}
	}
	return at, ok
}

// Used is an address and its holder.
type Used struct {
	Address netip.Addr
	Holder
}

// Report returns the lists for the controller, each sorted by address.
func (p *Pool) Report(now time.Time) (used []Used, cooling, released []netip.Addr) {
	for a, s := range p.slots {
		switch {
		case s.holder != nil:
			used = append(used, Used{a, *s.holder})
		case p.cools(s, now):
			// This includes an address that goes back: as soon as it leaves, the cloud may give it
			// to another node, so it cools here first.
			cooling = append(cooling, a)
		case s.given:
			released = append(released, a)
		}
	}
	slices.SortFunc(used, func(x, y Used) int { return x.Address.Compare(y.Address) })
	sortAddrs(cooling)
	sortAddrs(released)
	return used, cooling, released
}

func (p *Pool) free(s *slot, now time.Time) bool { return s.usable() && !p.cools(s, now) }

// usable reports whether a pod could have the address, apart from cooling.
func (s *slot) usable() bool {
	return s.offered && s.offer.Usable && !s.offer.Releasing && !s.offer.Held && !s.given && s.holder == nil
}

func (p *Pool) cools(s *slot, now time.Time) bool {
	return !s.freed.IsZero() && now.Before(s.freed.Add(p.cooling))
}

func (p *Pool) slot(a netip.Addr) *slot {
	s, ok := p.slots[a]
	if !ok {
		s = &slot{offer: Offer{Address: a}}
		p.slots[a] = s
	}
	return s
}

func keyOf(h *Holder) string {
	if h == nil {
		return "nobody"
	}
	return h.Key
}

func sortAddrs(a []netip.Addr) { slices.SortFunc(a, netip.Addr.Compare) }
