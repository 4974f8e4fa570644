package compile

import (
	"slices"

	"terway.dev/terway/internal/policy"
)

// A ruleSet is all that policies say of one direction and family of some pods, in order.
// Pods of which they say the same have the same one. Its name is what it says; what tables
// it has for which atoms, the cluster says.
//
// A rule is wide for a kind of address if it matches every address of the kind, whatever is in
// the cluster. Wide rules are compiled once, into the kind's default table. A table beside it,
// which some atoms have, has only what other rules say, and which of the two holds where both
// speak, their levels say: rules between which none of the other sort stands have one level,
// and what a tier does by default counts as a wide rule.
// So there is no product of atoms and wide rules, and equal tables of different rule sets
// are often one.
//
// Where a rule that an atom meets beside wide ones passes, the atom's table has what all rules
// of the tiers that follow make of it, at the level of the rule that passes.
//
// Where rules log, what is decided depends on all rules before. Then, and where a wide rule
// does not hold for an atom after all (its peers have a NotIn), the atom's table is made of
// all rules, and has what is not as the default table says, at level 0.
//
// An atom of which a rule set asks nothing beyond its base has the table of its base. So a
// network in many rules (all but 10.0.0.0/8 …) makes no table for each atom of pods in it.
type ruleSet struct {
	name      Hash
	direction policy.Direction
	family    family
	tiers     []tierPart
	clauses   []ruleClause
	asks      map[*term][]int32 // the clauses that ask a term
	// ports and services are what the pods' own address has of the ports that the clauses name.
	ports    []policy.NamedPort
	services []serviceEndpoint

	wide     [kinds][]bool
	passes   [kinds][]int32 // wide clauses that pass
	logs     [kinds]bool    // a wide clause logs
	levels   [kinds][]uint16
	defaults [kinds]*Table
	// of has the tables of atoms that have one beside the default table.
	of       map[*atom]*overlay
	overlays map[Hash]*overlay // by the traits that matter here
	// bases are the tables of bases, by what its horizon sees of them; nil: none.
	bases   map[Hash]*Table
	horizon *horizon // nil: it asks for no networks
	spans   int      // of all its tables
	closed  bool     // the budget is exceeded: it has no tables
	dead    bool

	plain []*Decision // by rules, tiers and nothing, without logs
	more  map[noted]*Decision
	notes map[logs]*logs

	pods  int
	nodes map[string]int // how many pods of a node have it
}

type tierPart struct {
	name   string
	action policy.Action // its Default
}

type ruleClause struct {
	*clause
	tier int
	rule int // the first clause of the same rule
}

type overlay struct {
	name  Hash
	table *Table // nil: nothing that the default table does not say
	atoms int
}

type noted struct {
	what  int
	notes *logs
}

// selected says whether any policy selects the pods.
func (rs *ruleSet) selected() bool { return len(rs.tiers) > 0 }

func (rs *ruleSet) note(before *logs, clause int) *logs {
	clause = rs.clauses[clause].rule
	if before != nil && before.clause == clause {
		return before // an alternative of the same rule
	}
	l := logs{before, clause}
	if rs.notes[l] == nil {
		if rs.notes == nil {
			rs.notes = map[logs]*logs{}
		}
		rs.notes[l] = &l
	}
	return rs.notes[l]
}

// byRule, byTier and byNone are decisions; equal ones are one.

func (rs *ruleSet) byRule(clause int, notes *logs) *Decision {
	c := &rs.clauses[clause]
	return rs.decision(c.rule, notes, func() policy.Decision {
		return policy.Decision{Action: c.action, Reason: policy.ByRule, Tier: rs.tiers[c.tier].name, Rule: c.id}
	})
}

func (rs *ruleSet) byTier(tier int, notes *logs) *Decision {
	return rs.decision(len(rs.clauses)+tier, notes, func() policy.Decision {
		return policy.Decision{Action: policy.Deny, Reason: policy.ByTier, Tier: rs.tiers[tier].name}
	})
}

func (rs *ruleSet) byNone(notes *logs) *Decision {
	return rs.decision(len(rs.clauses)+len(rs.tiers), notes, func() policy.Decision {
		return policy.Decision{Action: policy.Allow, Reason: policy.NoPolicy}
	})
}

func (rs *ruleSet) decision(what int, notes *logs, newOne func() policy.Decision) *Decision {
	if notes == nil {
		if rs.plain == nil {
			rs.plain = make([]*Decision, len(rs.clauses)+len(rs.tiers)+1)
		}
		if rs.plain[what] == nil {
			rs.plain[what] = newDecision(newOne())
		}
		return rs.plain[what]
	}
	if rs.more == nil {
		rs.more = map[noted]*Decision{}
	}
	d := rs.more[noted{what, notes}]
	if d == nil {
		of := newOne()
		for n := notes; n != nil; n = n.before {
			of.Logs = append(of.Logs, rs.clauses[n.clause].id)
		}
		slices.Reverse(of.Logs)
		d = newDecision(of)
		rs.more[noted{what, notes}] = d
	}
	return d
}

// prepare finds wide rules and levels, and makes the default tables.
func (c *Compiler) prepare(rs *ruleSet) {
	for k := range kinds {
		rs.wide[k] = make([]bool, len(rs.clauses))
		rs.levels[k] = make([]uint16, len(rs.clauses))
		level, before := levelFirst, true // levels begin with a wide one
		next := func(wide bool) uint16 {
			if wide != before {
				level++
			}
			before = wide
			return uint16(level)
		}
		after := make([]uint16, len(rs.tiers)+1)
		i := 0
		for t, part := range rs.tiers {
			for ; i < len(rs.clauses) && rs.clauses[i].tier == t; i++ {
				cl := &rs.clauses[i]
				rs.wide[k][i] = len(cl.named) == 0 && cl.meets(func(t *term) bool { return t.holdsForAll(k, rs.family) })
				rs.levels[k][i] = next(rs.wide[k][i])
				if rs.wide[k][i] && cl.action == policy.Pass {
					rs.passes[k] = append(rs.passes[k], int32(i))
				}
				rs.logs[k] = rs.logs[k] || rs.wide[k][i] && cl.action == policy.Log
			}
			if part.action == policy.Deny {
				after[t] = next(true)
			}
		}
		after[len(rs.tiers)] = next(true)
		if level > 0xffff {
			c.close(rs)
			return
		}
		if k > 0 && slices.Equal(rs.wide[k], rs.wide[0]) {
			rs.defaults[k] = c.share(rs.defaults[0])
			continue
		}
		var layers []ruleLayer
		for i := range rs.clauses {
			if rs.wide[k][i] {
				layers = append(layers, ruleLayer{i, rs.levels[k][i], true, rs.regionFor(i, nil)})
			}
		}
		t := rs.paint(layers, &painter{rs: rs, complete: true, after: after})
		rs.defaults[k] = c.share(t)
		rs.spans += t.spans
	}
	c.watch(rs)
}

type ruleLayer struct {
	clause int
	level  uint16
	wide   bool
	region *region
}

// paint makes a table; the layers are in order.
func (rs *ruleSet) paint(of []ruleLayer, p *painter) *Table {
	t := &Table{}
	layers := make([]layer, 0, len(of))
	for class := range classes {
		layers = layers[:0]
		for _, l := range of {
			cl := &rs.clauses[l.clause]
			if len(l.region.numbers[class]) == 0 {
				continue
			}
			var sources []interval
			if hasSources(class) {
				sources = l.region.sources[class]
			}
			layers = append(layers, layer{l.clause, cl.tier, l.level, l.wide, cl.action, l.region.numbers[class], sources})
		}
		t.Lines[class] = p.line(layers)
	}
	t.seal()
	return t
}

func hasSources(c Class) bool { return c < ICMP }

// regionFor is what traffic a clause matches with an end of these traits.
func (rs *ruleSet) regionFor(clause int, traits []*trait) *region {
	cl := &rs.clauses[clause]
	if cl.region != nil {
		return cl.region
	}
	// names are the pod's own, or those of the other end.
	own := func(name string, protocol uint8) (ports []uint16) {
		for _, p := range rs.ports {
			if p.Name == name && p.Protocol == protocol {
				ports = append(ports, p.Port)
			}
		}
		return ports
	}
	other := func(name string, protocol uint8) (ports []uint16) {
		for _, t := range traits {
			if t.term.about == aboutPortName && t.term.name == name && t.protocol == protocol {
				ports = append(ports, t.port)
			}
		}
		return ports
	}
	if rs.direction == policy.Ingress {
		return regionOf(cl.traffic, ends{source: other, destination: own, service: func(name policy.NamespacedName, protocol uint8) (ports []uint16) {
			for _, e := range rs.services {
				if e.name == name && e.protocol == protocol {
					ports = append(ports, e.port)
				}
			}
			return ports
		}})
	}
	return regionOf(cl.traffic, ends{source: own, destination: other, service: func(name policy.NamespacedName, protocol uint8) (ports []uint16) {
		for _, t := range traits {
			if t.term.about == aboutServicePort && t.term.service == name && t.protocol == protocol {
				ports = append(ports, t.port)
			}
		}
		return ports
	}})
}

// add gives an atom the table that it has beside the default table, if the rule set asks more
// of it than of its base.
func (c *Compiler) add(rs *ruleSet, a *atom) {
	if rs.closed || rs.of[a] != nil || a == a.base {
		return
	}
	var d digest
	d.num(int(a.kind))
	var narrow []*trait
	own := false
	for _, t := range a.traits {
		if _, asked := rs.asks[t.term]; asked && !t.term.holdsForAll(a.kind, rs.family) {
			narrow = append(narrow, t)
			own = own || !t.term.ranged()
			d.hash(t.hash)
		}
	}
	if !own {
		return
	}
	name := d.sum()
	o := rs.overlays[name]
	if o == nil {
		o = &overlay{name: name}
		if t := c.overlay(rs, a, narrow); !t.empty() {
			o.table = c.share(t)
			rs.spans += t.spans
		}
		if rs.overlays == nil {
			rs.overlays, rs.of = map[Hash]*overlay{}, map[*atom]*overlay{}
		}
		rs.overlays[name] = o
	}
	o.atoms++
	rs.of[a] = o
	c.watch(rs)
}

// watch closes a rule set that is beyond the budget.
func (c *Compiler) watch(rs *ruleSet) {
	if rs.spans > c.budget.Spans || len(rs.of)+len(rs.bases) > c.budget.Atoms {
		c.close(rs)
	}
}

// drop takes an atom out that has no more addresses.
func (c *Compiler) drop(rs *ruleSet, a *atom) {
	o := rs.of[a]
	if o == nil {
		return
	}
	delete(rs.of, a)
	if o.atoms--; o.atoms == 0 {
		delete(rs.overlays, o.name)
		if o.table != nil {
			rs.spans -= o.table.spans
			c.unshare(o.table)
		}
	}
}

// overlay is the table that an atom has beside the default table, if any.
func (c *Compiler) overlay(rs *ruleSet, a *atom, narrow []*trait) *Table {
	c.asking++
	for _, t := range a.traits {
		t.term.mark = c.asking
	}
	holds := func(t *term) bool { return t.mark == c.asking }
	var asked []int32
	for _, t := range narrow {
		asked = append(asked, rs.asks[t.term]...)
	}
	slices.Sort(asked)
	asked = slices.Compact(asked)

	var layers []ruleLayer // those that match, in place of what the default table has of them
	whole, differs := rs.logs[a.kind], false
	passing := len(rs.tiers) // the first tier in which a narrow rule passes
	for _, i := range asked {
		cl := &rs.clauses[i]
		wide, matches := rs.wide[a.kind][i], cl.meets(holds)
		var r *region
		if matches {
			r = rs.regionFor(int(i), narrow)
			matches = !r.empty()
		}
		if wide && (!matches || slices.ContainsFunc(cl.unnamed, holds)) {
			whole, differs = true, true
		}
		if matches && !wide {
			differs = true
			whole = whole || cl.action == policy.Log
			if cl.action == policy.Pass {
				passing = min(passing, cl.tier)
			}
			if !whole {
				layers = append(layers, ruleLayer{int(i), rs.levels[a.kind][i], false, r})
			}
		}
	}
	if !differs {
		return &Table{}
	}
	if !whole {
		for _, i := range rs.passes[a.kind] {
			if rs.clauses[i].tier <= passing {
				layers = append(layers, ruleLayer{int(i), rs.levels[a.kind][i], true, rs.regionFor(int(i), nil)})
			}
		}
		for i := range rs.clauses {
			if rs.wide[a.kind][i] && rs.clauses[i].tier > passing {
				layers = append(layers, ruleLayer{i, rs.levels[a.kind][i], true, rs.regionFor(i, nil)})
			}
		}
		slices.SortStableFunc(layers, func(a, b ruleLayer) int { return a.clause - b.clause })
		return rs.paint(layers, &painter{rs: rs})
	}
	layers = layers[:0]
	for i := range rs.clauses {
		cl := &rs.clauses[i]
		matches := rs.wide[a.kind][i]
		if _, is := slices.BinarySearch(asked, int32(i)); is {
			matches = cl.meets(holds)
		}
		if matches {
			layers = append(layers, ruleLayer{i, levelFinal, false, rs.regionFor(i, narrow)})
		}
	}
	t := rs.paint(layers, &painter{rs: rs, complete: true, after: make([]uint16, len(rs.tiers)+1)})
	out := &Table{}
	for class := range t.Lines {
		out.Lines[class] = t.Lines[class].less(rs.defaults[a.kind].Lines[class])
	}
	out.seal()
	return out
}

// close lets a rule set fail closed.
func (c *Compiler) close(rs *ruleSet) {
	c.strip(rs)
	rs.closed = true
	c.closed[rs] = struct{}{}
	for k := range rs.defaults {
		rs.defaults[k] = c.share(closedTable)
	}
}

// strip takes all tables from a rule set.
func (c *Compiler) strip(rs *ruleSet) {
	for _, t := range rs.defaults {
		if t != nil {
			c.unshare(t)
		}
	}
	rs.defaults = [kinds]*Table{}
	for _, o := range rs.overlays {
		if o.table != nil {
			c.unshare(o.table)
		}
	}
	for _, t := range rs.bases {
		if t != nil {
			c.unshare(t)
		}
	}
	rs.of, rs.overlays, rs.bases, rs.spans, rs.closed = nil, nil, nil, 0, false
	rs.passes, rs.logs = [kinds][]int32{}, [kinds]bool{}
	delete(c.closed, rs)
}

// build makes all tables of a rule set.
func (c *Compiler) build(rs *ruleSet) {
	c.strip(rs)
	c.prepare(rs)
	for t := range rs.asks {
		if t.ranged() || t.allPods() {
			continue // bases have it, or the default tables
		}
		for a := range t.atoms {
			if rs.closed {
				return
			}
			if a.count[rs.family] > 0 {
				c.add(rs, a)
			}
		}
	}
	if rs.horizon != nil {
		for a, sight := range rs.horizon.seen {
			c.addBase(rs, sight, a)
		}
	}
}

// A shared table counts the rule sets' uses of it.
type sharedTable struct {
	*Table
	uses int
}

func (c *Compiler) share(t *Table) *Table {
	s := c.tables[t.Hash]
	if s == nil {
		s = &sharedTable{Table: t}
		c.tables[t.Hash] = s
	}
	s.uses++
	return s.Table
}

func (c *Compiler) unshare(t *Table) {
	s := c.tables[t.Hash]
	if s.uses--; s.uses == 0 {
		delete(c.tables, t.Hash)
	}
}
