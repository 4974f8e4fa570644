package compile

import (
	"slices"
	"strings"
)

// A horizon is the set of a family's rule sets that use the same networks. All of them see a
// base in the same way. A change of other networks visits none of them.
type horizon struct {
	key      Hash
	family   family
	terms    map[*term]struct{} // ranged, and not wide in the family
	ruleSets map[*ruleSet]struct{}
	// seen is the visible part of each base that has one; count is the number of bases with it.
	seen  map[*atom]Hash
	count map[Hash]int
}

// join adds a rule set to its horizon.
func (c *Compiler) join(b *batch, rs *ruleSet) {
	var terms []*term
	for t := range rs.asks {
		if t.ranged() && !t.holdsForAll(others, rs.family) {
			terms = append(terms, t)
		}
	}
	if len(terms) == 0 {
		return
	}
	slices.SortFunc(terms, func(a, b *term) int { return strings.Compare(a.key, b.key) })
	var d digest
	d.num(int(rs.family))
	for _, t := range terms {
		d.str(t.key)
	}
	key := d.sum()
	h := c.horizons[key]
	if h == nil {
		h = &horizon{
			key: key, family: rs.family, terms: map[*term]struct{}{},
			ruleSets: map[*ruleSet]struct{}{}, seen: map[*atom]Hash{}, count: map[Hash]int{},
		}
		c.horizons[key] = h
		for _, t := range terms {
			h.terms[t] = struct{}{}
			if t.horizons == nil {
				t.horizons = map[*horizon]struct{}{}
			}
			t.horizons[h] = struct{}{}
		}
		b.horizons = append(b.horizons, h)
	}
	rs.horizon = h
	h.ruleSets[rs] = struct{}{}
}

// leave removes a rule set from its horizon.
func (c *Compiler) leave(rs *ruleSet) {
	h := rs.horizon
	if h == nil {
		return
	}
	if delete(h.ruleSets, rs); len(h.ruleSets) > 0 {
		return
	}
	delete(c.horizons, h.key)
	for t := range h.terms {
		delete(t.horizons, h)
	}
}

// sight returns the part of a base that the horizon sees; false: none.
func (h *horizon) sight(a *atom) (Hash, bool) {
	var d digest
	d.num(int(a.kind))
	any := false
	for _, t := range a.traits {
		if _, ok := h.terms[t.term]; ok {
			d.hash(t.hash)
			any = true
		}
	}
	return d.sum(), any
}

// come adds a base that now has addresses. It reports whether its visible part is new.
func (h *horizon) come(a *atom) (Hash, bool) {
	s, any := h.sight(a)
	if _, had := h.seen[a]; had || !any {
		return s, false
	}
	h.seen[a] = s
	h.count[s]++
	return s, h.count[s] == 1
}

// gone removes a base that has no more addresses. It reports whether its visible part has
// disappeared.
func (h *horizon) gone(a *atom) (Hash, bool) {
	s, had := h.seen[a]
	if !had {
		return s, false
	}
	delete(h.seen, a)
	if h.count[s]--; h.count[s] > 0 {
		return s, false
	}
	delete(h.count, s)
	return s, true
}

// look updates horizons to the current bases, and adds and removes the tables of visible parts
// that appeared or disappeared.
func (c *Compiler) look(b *batch, came, gone map[*atom][families]bool, changed func(*ruleSet)) {
	for _, h := range b.horizons {
		for t := range h.terms {
			for a := range t.atoms {
				if a.count[h.family] > 0 {
					h.come(a)
				}
			}
		}
	}
	each := func(atoms map[*atom][families]bool, do func(*horizon, *atom)) {
		for a, of := range atoms {
			if a != a.base {
				continue
			}
			for _, t := range a.traits {
				for h := range t.term.horizons {
					if of[h.family] {
						do(h, a)
					}
				}
			}
		}
	}
	each(came, func(h *horizon, a *atom) {
		if s, is := h.come(a); is {
			for rs := range h.ruleSets {
				if _, born := b.born[rs]; !born {
					c.addBase(rs, s, a)
					changed(rs)
				}
			}
		}
	})
	each(gone, func(h *horizon, a *atom) {
		if s, is := h.gone(a); is {
			for rs := range h.ruleSets {
				c.dropBase(rs, s)
				changed(rs)
			}
		}
	})
}

// addBase gives a rule set the table for a visible part, of which a is an example.
func (c *Compiler) addBase(rs *ruleSet, sight Hash, a *atom) {
	if _, has := rs.bases[sight]; has || rs.closed {
		return
	}
	var narrow []*trait
	for _, t := range a.traits {
		if _, ok := rs.horizon.terms[t.term]; ok {
			narrow = append(narrow, t)
		}
	}
	if rs.bases == nil {
		rs.bases = map[Hash]*Table{}
	}
	rs.bases[sight] = nil
	if t := c.overlay(rs, a, narrow); !t.empty() {
		rs.bases[sight] = c.share(t)
		rs.spans += t.spans
	}
	c.watch(rs)
}

func (c *Compiler) dropBase(rs *ruleSet, sight Hash) {
	if t := rs.bases[sight]; t != nil {
		rs.spans -= t.spans
		c.unshare(t)
	}
	delete(rs.bases, sight)
}

// base returns the table that a rule set has for a base, or nil.
func (rs *ruleSet) base(a *atom) *Table {
	if rs.horizon == nil {
		return nil
	}
	s, ok := rs.horizon.seen[a]
	if !ok {
		return nil
	}
	return rs.bases[s]
}
