package compile

import (
	"slices"

	"terway.dev/terway/internal/policy"
)

// A ruleSet holds all rules that apply to some pods in one direction and family, in order. Pods
// with equal rules share it. Its name depends only on the rules; which atoms need tables
// depends on the cluster.
//
// A rule is wide for a kind of address if it matches every address of the kind, whatever is in
// the cluster. Wide rules are compiled once, into the default table of the kind. The table of
// an atom has only the other rules. If both tables decide, the level says which one wins: a
// lower level is an earlier rule. Rules with no rule of the other sort between them share a
// level, and the default of a tier counts as a wide rule. So wide rules are not repeated for
// each atom, and tables of different rule sets are often equal.
//
// If a narrow rule passes, the atom's table has the decisions of all rules in the following
// tiers, at the level of the rule that passes.
//
// If rules log, the decision includes all rules before it. In this case, and where a wide rule
// does not hold for an atom after all (its peers have a NotIn), the atom's table is made from
// all rules. It has every difference from the default table, at level 0.
//
// For an atom with no trait beyond its base that the rule set uses, the table of the base is
// used. So a network in many rules (all but 10.0.0.0/8 …) needs no table for each atom of pods
// in it.
type ruleSet struct {
	name      Hash
	direction policy.Direction
	family    family
	tiers     []tierPart
	clauses   []ruleClause
	asks      map[*term][]int32 // the clauses that use a term
	// ports and services are the ports of the pod itself that the clauses refer to by name.
	ports    []policy.NamedPort
	services []serviceEndpoint

	wide     [kinds][]bool
	passes   [kinds][]int32 // wide clauses that pass
	logs     [kinds]bool    // a wide clause logs
	levels   [kinds][]uint16
	defaults [kinds]*Table
	// of has the atoms with a table beside the default table.
	of       map[*atom]*overlay
	overlays map[Hash]*overlay // by the traits that the rule set uses
	// bases has the tables of bases, by the part that the group sees; nil: none.
	bases  map[Hash]*Table
	group  *networkGroup // nil: it uses no networks
	spans  int           // of all tables
	closed bool          // the budget is exceeded: it has no tables
	dead   bool

	plain []*Decision // decisions without logs: by rule, by tier, by none
	more  map[noted]*Decision
	notes map[logs]*logs

	pods  int
	nodes map[string]int // number of pods of a node that use it
}

type tierPart struct {
	name   string
	action policy.Action // the tier's Default
}

type ruleClause struct {
	*clause
	tier int32
	rule int32 // the first clause of the same rule
}

type overlay struct {
	name  Hash
	table *Table // nil: equal to the default table
	atoms int
}

type noted struct {
	what  int
	notes *logs
}

// selected reports whether a policy selects the pods.
func (rs *ruleSet) selected() bool { return len(rs.tiers) > 0 }

func (rs *ruleSet) note(before *logs, clause int) *logs {
	clause = int(rs.clauses[clause].rule)
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

// byRule, byTier and byNone return decisions; equal ones are shared.

func (rs *ruleSet) byRule(clause int, notes *logs) *Decision {
	c := &rs.clauses[clause]
	return rs.decision(int(c.rule), notes, func() policy.Decision {
		return policy.Decision{Action: c.action, Reason: policy.ByRule, Tier: rs.tiers[c.tier].name, Rule: c.id()}
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
			of.Logs = append(of.Logs, rs.clauses[n.clause].id())
		}
		slices.Reverse(of.Logs)
		d = newDecision(of)
		rs.more[noted{what, notes}] = d
	}
	return d
}

// prepare finds the wide rules and the levels, and makes the default tables.
func (c *Compiler) prepare(rs *ruleSet) {
	for k := range kinds {
		rs.wide[k] = make([]bool, len(rs.clauses))
		rs.levels[k] = make([]uint16, len(rs.clauses))
		level, before := levelFirst, true // the first level is for wide rules
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
			for ; i < len(rs.clauses) && int(rs.clauses[i].tier) == t; i++ {
				cl := &rs.clauses[i]
				rs.wide[k][i] = !cl.needsName() && cl.meets(func(t *term) bool { return t.holdsForAll(k, rs.family) })
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
			rs.wide[k], rs.levels[k] = rs.wide[0], rs.levels[0]
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

// paint makes a table from ordered layers.
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
			layers = append(layers, layer{l.clause, int(cl.tier), l.level, l.wide, cl.action, l.region.numbers[class], sources})
		}
		t.Lines[class] = p.line(layers)
	}
	t.seal()
	return t
}

func hasSources(c Class) bool { return c < ICMP }

// regionFor returns the traffic that a clause matches if the other end has these traits.
func (rs *ruleSet) regionFor(clause int, traits []*trait) *region {
	cl := &rs.clauses[clause]
	if cl.region != nil {
		return cl.region
	}
	// names resolves the names of the pod's own ports, or of the other end's.
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
		return regionOf(&cl.names.traffic, ends{source: other, destination: own, service: func(name policy.NamespacedName, protocol uint8) (ports []uint16) {
			for _, e := range rs.services {
				if e.name == name && e.protocol == protocol {
					ports = append(ports, e.port)
				}
			}
			return ports
		}})
	}
	return regionOf(&cl.names.traffic, ends{source: own, destination: other, service: func(name policy.NamespacedName, protocol uint8) (ports []uint16) {
		for _, t := range traits {
			if t.term.about == aboutServicePort && t.term.service == name && t.protocol == protocol {
				ports = append(ports, t.port)
			}
		}
		return ports
	}})
}

// add gives an atom a table beside the default table, if the rule set uses more of its traits
// than the base has.
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

// drop removes an atom that has no more addresses.
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

// overlay returns the table of an atom beside the default table, or nil.
func (c *Compiler) overlay(rs *ruleSet, a *atom, narrow []*trait) *Table {
	c.query++
	for _, t := range a.traits {
		t.term.mark = c.query
	}
	holds := func(t *term) bool { return t.mark == c.query }
	var asked []int32
	for _, t := range narrow {
		asked = append(asked, rs.asks[t.term]...)
	}
	slices.Sort(asked)
	asked = slices.Compact(asked)

	var layers []ruleLayer // layers that match, instead of those in the default table
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
		if wide && (!matches || cl.excludes(holds)) {
			whole, differs = true, true
		}
		if matches && !wide {
			differs = true
			whole = whole || cl.action == policy.Log
			if cl.action == policy.Pass {
				passing = min(passing, int(cl.tier))
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
			if int(rs.clauses[i].tier) <= passing {
				layers = append(layers, ruleLayer{int(i), rs.levels[a.kind][i], true, rs.regionFor(int(i), nil)})
			}
		}
		for i := range rs.clauses {
			if rs.wide[a.kind][i] && int(rs.clauses[i].tier) > passing {
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

// close makes a rule set fail closed.
func (c *Compiler) close(rs *ruleSet) {
	c.strip(rs)
	rs.closed = true
	var of []policy.Ref
	for _, cl := range rs.clauses {
		if !slices.Contains(of, cl.of.ref) {
			of = append(of, cl.of.ref)
		}
	}
	c.closed[rs] = of
	for k := range rs.defaults {
		rs.defaults[k] = c.share(closedTable)
	}
}

// strip removes all tables of a rule set.
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
			continue // the table of a base or a default table decides
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
	if rs.group != nil {
		for a, visible := range rs.group.seen {
			c.addBase(rs, visible, a)
		}
	}
}

// A sharedTable counts its uses by rule sets.
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
