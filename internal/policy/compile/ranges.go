package compile

import (
	"net/netip"
	"slices"
	"sort"

	"go4.org/netipx"
)

// An addrRange starts at from and ends before the next one. The list covers all addresses of a
// family. The atom of a range is the one for addresses that no object has.
type addrRange struct {
	from netip.Addr
	atom *atom
}

// rangeAt returns the index of the range with the address.
func rangeAt(ranges []addrRange, a netip.Addr) int {
	return sort.Search(len(ranges), func(i int) bool { return a.Less(ranges[i].from) }) - 1
}

// A cut is an address at which a term starts or ceases to hold.
type cut struct {
	at   netip.Addr
	term *term
	by   int // +1: the term holds from here on; -1: it no longer does
}

// cuts appends the ends of networks for which a term is added (by 1) or removed (by -1).
func cuts(list []cut, f family, t *term, nets *netipx.IPSet, by int) []cut {
	for _, r := range nets.Ranges() {
		if familyOf(r.From()) != f {
			continue
		}
		list = append(list, cut{r.From(), t, by})
		if next := r.To().Next(); next.IsValid() {
			list = append(list, cut{next, t, -by})
		}
	}
	return list
}

// recut rebuilds the ranges of a family in one pass over them and the cuts, and marks the
// addresses in the ranges that changed.
func (c *Compiler) recut(b *batch, f family, list []cut) {
	if len(list) == 0 {
		return
	}
	slices.SortStableFunc(list, func(a, b cut) int { return a.at.Compare(b.at) })
	was := c.ranges[f]
	now := make([]addrRange, 0, len(was)+len(list))
	change := map[*term]int{} // compared with the old range
	for i, r := range was {
		from := r.from
		for {
			for len(list) > 0 && list[0].at == from {
				if change[list[0].term] += list[0].by; change[list[0].term] == 0 {
					delete(change, list[0].term)
				}
				list = list[1:]
			}
			a := r.atom
			if len(change) > 0 {
				a = c.atom(changed(a.traits, change))
			}
			if n := len(now); n == 0 || now[n-1].atom != a {
				now = append(now, addrRange{from, a})
			}
			more := len(list) > 0 && (i+1 == len(was) || list[0].at.Less(was[i+1].from))
			if len(change) > 0 {
				var until netip.Addr // zero: the end
				switch {
				case more:
					until = list[0].at
				case i+1 < len(was):
					until = was[i+1].from
				}
				c.addresses.each(f, from, until, b.markAddress)
			}
			if !more {
				break
			}
			from = list[0].at
		}
	}
	for _, r := range was {
		b.count(r.atom, f, -1)
	}
	for _, r := range now {
		b.count(r.atom, f, 1)
	}
	c.ranges[f] = now
}

func changed(traits []*trait, change map[*term]int) []*trait {
	out := slices.DeleteFunc(slices.Clone(traits), func(t *trait) bool { return change[t.term] < 0 })
	for t, by := range change {
		if by > 0 {
			out = append(out, t.has(portKey{}))
		}
	}
	return sortTraits(out)
}
