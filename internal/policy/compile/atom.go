package compile

import (
	"bytes"
	"net/netip"
	"slices"
)

// An atom is a class of addresses that live rules cannot tell apart: those that have the
// same traits.
type atom struct {
	hash   Hash
	traits []*trait // by hash
	kind   kind
	// base is the atom of addresses that have nothing but the networks they are in and that
	// they are a pod's: what a rule set says of an atom of which it asks nothing more. A base
	// is its own.
	base *atom
	// count is how many single addresses and ranges of each family are in it, or have it as
	// base.
	count [families]int
	// addresses are the single ones.
	addresses map[netip.Addr]struct{}
}

// A kind says which of a rule set's default tables an address starts from.
type kind uint8

const (
	others kind = iota // nodes, what is outside, and pods that no live rule means as such
	pods               // pods, if a live rule means all pods
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
	var d digest
	for _, t := range list {
		d.hash(t.hash)
	}
	return d.sum()
}

// atom is the atom with these traits, which are sorted.
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
				continue // its base says it
			}
			if t.term.atoms == nil {
				t.term.atoms = map[*atom]struct{}{}
			}
			t.term.atoms[a] = struct{}{}
		}
	}
	return a
}

// count changes how many addresses of a family an atom has, and remembers how many it had.
func (b *batch) count(a *atom, f family, by int) {
	if _, ok := b.atoms[a]; !ok {
		b.atoms[a] = a.count
	}
	a.count[f] += by
	if a != a.base {
		b.count(a.base, f, by)
	}
}

// forget takes out an atom that has no more addresses.
func (c *Compiler) forget(a *atom) {
	for _, t := range a.traits {
		delete(t.term.atoms, a)
	}
	delete(c.atoms, a.hash)
}
