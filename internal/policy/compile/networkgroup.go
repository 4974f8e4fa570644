package compile

import (
	"slices"
	"strings"
)

// A networkGroup is the set of a family's rule sets that use the same networks. A base looks
// the same to all of them. A change of other networks visits none of them.
type networkGroup struct {
	key      Hash
	family   family
	terms    map[*term]struct{} // ranged, and not wide in the family
	ruleSets map[*ruleSet]struct{}
	// seen is the visible part of each base that has one; count is the number of bases with it.
	seen  map[*atom]Hash
	count map[Hash]int
}

// join adds a rule set to its group.
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
	h := c.groups[key]
	if h == nil {
		h = &networkGroup{
			key: key, family: rs.family, terms: map[*term]struct{}{},
			ruleSets: map[*ruleSet]struct{}{}, seen: map[*atom]Hash{}, count: map[Hash]int{},
		}
		c.groups[key] = h
		for _, t := range terms {
			h.terms[t] = struct{}{}
			if t.groups == nil {
				t.groups = map[*networkGroup]struct{}{}
			}
			t.groups[h] = struct{}{}
		}
		b.groups = append(b.groups, h)
	}
	rs.group = h
	h.ruleSets[rs] = struct{}{}
}

// leave removes a rule set from its group.
func (c *Compiler) leave(rs *ruleSet) {
	h := rs.group
	if h == nil {
		return
	}
	if delete(h.ruleSets, rs); len(h.ruleSets) > 0 {
		return
	}
	delete(c.groups, h.key)
	for t := range h.terms {
		delete(t.groups, h)
	}
}

// visible returns the traits of a base that the group uses; false: none.
func (h *networkGroup) visible(a *atom) (Hash, bool) {
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

// add adds a base that now has addresses. It reports whether its visible part is new.
func (h *networkGroup) add(a *atom) (Hash, bool) {
	s, any := h.visible(a)
	if _, had := h.seen[a]; had || !any {
		return s, false
	}
	h.seen[a] = s
	h.count[s]++
	return s, h.count[s] == 1
}

// remove removes a base that has no more addresses. It reports whether its visible part has
// disappeared.
func (h *networkGroup) remove(a *atom) (Hash, bool) {
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

// updateGroups updates the groups to the current bases, and adds and removes the tables of
// visible parts that appeared or disappeared.
func (c *Compiler) updateGroups(b *batch, came, gone map[*atom][families]bool, changed func(*ruleSet)) {
	for _, h := range b.groups {
		for t := range h.terms {
			for a := range t.atoms {
				if a.count[h.family] > 0 {
					h.add(a)
				}
			}
		}
	}
	each := func(atoms map[*atom][families]bool, do func(*networkGroup, *atom)) {
		for a, of := range atoms {
			if a != a.base {
				continue
			}
			for _, t := range a.traits {
				for h := range t.term.groups {
					if of[h.family] {
						do(h, a)
					}
				}
			}
		}
	}
	each(came, func(h *networkGroup, a *atom) {
		if s, is := h.add(a); is {
			for rs := range h.ruleSets {
				if _, born := b.born[rs]; !born {
					c.addBase(rs, s, a)
					changed(rs)
				}
			}
		}
	})
	each(gone, func(h *networkGroup, a *atom) {
		if s, is := h.remove(a); is {
			for rs := range h.ruleSets {
				c.dropBase(rs, s)
				changed(rs)
			}
		}
	})
}

// addBase gives a rule set the table for a visible part, of which a is an example.
func (c *Compiler) addBase(rs *ruleSet, visible Hash, a *atom) {
	if _, has := rs.bases[visible]; has || rs.closed {
		return
	}
	var narrow []*trait
	for _, t := range a.traits {
		if _, ok := rs.group.terms[t.term]; ok {
			narrow = append(narrow, t)
		}
	}
	if rs.bases == nil {
		rs.bases = map[Hash]*Table{}
	}
	rs.bases[visible] = nil
	if t := c.overlay(rs, a, narrow); !t.empty() {
		rs.bases[visible] = c.share(t)
		rs.spans += t.spans
	}
	c.watch(rs)
}

func (c *Compiler) dropBase(rs *ruleSet, visible Hash) {
	if t := rs.bases[visible]; t != nil {
		rs.spans -= t.spans
		c.unshare(t)
	}
	delete(rs.bases, visible)
}

// base returns the table that a rule set has for a base, or nil.
func (rs *ruleSet) base(a *atom) *Table {
	if rs.group == nil {
		return nil
	}
	s, ok := rs.group.seen[a]
	if !ok {
		return nil
	}
	return rs.bases[s]
}
