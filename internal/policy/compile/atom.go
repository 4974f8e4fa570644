package compile

import (
	"bytes"
	"net/netip"
	"slices"
)

// An atom is a set of addresses that live rules cannot tell apart: all of them have the same
// traits.
type atom struct {
	hash   Hash
	traits []*trait // sorted by hash
	kind   kind
	// base is the atom with the same networks and kind, and no other traits. A rule set that
	// uses no other trait of an atom uses the table of its base. A base is its own base.
	base *atom
	// count is the number of single addresses and ranges of each family in the atom, or in
	// atoms with this base.
	count [families]int
	// addresses are the single addresses in the atom.
	addresses map[netip.Addr]struct{}
}

// A kind selects one of a rule set's default tables for an address.
type kind uint8

const (
	others kind = iota // nodes, addresses outside the cluster, and pods if no live rule selects all pods
	pods               // pods, if a live rule selects all pods
	kinds
)

type family uint8

const (
	v4 family = iota
	v6
	families
)

func familyOf(a netip.Addr) family {
	if a.Is4() {
		return v4
	}
	return v6
}

func sortTraits(list []*trait) []*trait {
	slices.SortFunc(list, func(a, b *trait) int { return bytes.Compare(a.hash[:], b.hash[:]) })
	return slices.Compact(list)
}

func hashTraits(list []*trait) Hash {
	d := make(digest, 0, len(list)*len(Hash{}))
	for _, t := range list {
		d.hash(t.hash)
	}
	return d.sum()
}

// atom returns the atom with these sorted traits.
func (c *Compiler) atom(traits []*trait) *atom {
	h := hashTraits(traits)
	a := c.atoms[h]
	if a == nil {
		a = &atom{hash: h, traits: traits, addresses: map[netip.Addr]struct{}{}}
		c.atoms[h] = a
		var base []*trait
		for _, t := range traits {
			if t.term.ranged() || t.term.allPods() {
				base = append(base, t)
			}
		}
		a.base = c.atom(base)
		for _, t := range traits {
			if t.term.allPods() {
				a.kind = pods
			}
			if t.term.ranged() && a != a.base {
				continue // the base has this trait too
			}
			if t.term.atoms == nil {
				t.term.atoms = map[*atom]struct{}{}
			}
			t.term.atoms[a] = struct{}{}
		}
	}
	return a
}

// count adds by to the number of addresses of an atom, and keeps the number from before the
// batch.
func (b *batch) count(a *atom, f family, by int) {
	if _, ok := b.atoms[a]; !ok {
		b.atoms[a] = a.count
	}
	a.count[f] += by
	if a != a.base {
		b.count(a.base, f, by)
	}
}

// forget removes an atom that has no more addresses.
func (c *Compiler) forget(a *atom) {
	for _, t := range a.traits {
		delete(t.term.atoms, a)
	}
	delete(c.atoms, a.hash)
}
