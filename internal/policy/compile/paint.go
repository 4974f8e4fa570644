package compile

import (
	"slices"
	"sort"

	"terway.dev/terway/internal/policy"
)

// A layer is a clause as the painter sees it. An earlier layer covers a later one.
type layer struct {
	clause  int // index in the rule set
	tier    int // index in the rule set
	level   uint16
	wide    bool // the default table has it too
	action  policy.Action
	numbers []interval
	sources []interval // nil: all
}

// A painter makes lines from layers. The first layer that covers a number decides it. Later
// layers only visit the numbers that are left, so the cost of a line grows with the number of
// layers, not with the product of their intervals.
type painter struct {
	rs *ruleSet
	// complete: numbers that no layer decides are decided by the default of a tier, or allowed
	// after the last tier. Otherwise the line has only the decisions of narrow layers, and for
	// traffic that they pass the decisions that follow, at the level of the layer that passed.
	// Wide layers take part because they affect these decisions, and because traffic that they
	// pass does not reach the later layers of their tier.
	complete bool
	after    []uint16 // levels of the tiers' defaults, and of "no tier decides"
}

// logs is a list of the Log rules that matched, the last one first.
type logs struct {
	before *logs
	clause int
}

func (p painter) line(layers []layer) Line { return p.paint(layers, false) }

func (p painter) paint(layers []layer, bySource bool) Line {
	shape := func(l *layer) []interval {
		switch {
		case !bySource:
			return l.numbers
		case l.sources != nil:
			return l.sources
		}
		return everything
	}
	if !p.complete && !bySource && !slices.ContainsFunc(layers, func(l layer) bool { return !l.wide }) {
		return nil
	}
	// A cell is a range of numbers that no layer tells apart.
	starts := make([]int, 1, 2*len(layers)+2)
	for i := range layers {
		for _, s := range shape(&layers[i]) {
			starts = append(starts, int(s.from), int(s.to)+1)
		}
	}
	slices.Sort(starts)
	starts = slices.Compact(starts)
	if starts[len(starts)-1] > 0xffff {
		starts = starts[:len(starts)-1]
	}
	n := len(starts)
	cell := func(number int) int { return sort.SearchInts(starts, number) }

	spans := make([]Span, n)
	notes := make([]*logs, n)
	done := make([]bool, n)
	if !bySource {
		p.split(layers, starts, spans, done)
	}
	// next[i] is the first cell from i on that is still open in this tier.
	next := make([]int32, n+1)
	open := func(i int) int {
		for int(next[i]) != i {
			next[i] = next[next[i]]
			i = int(next[i])
		}
		return i
	}
	// passed[i] is the level of the narrow layer that passed the cell; 0: none did.
	passed := make([]uint16, n)
	tier := func(t int, layers []layer, ofPassed bool) {
		whole := p.complete || ofPassed
		next[n] = int32(n)
		for i := n - 1; i >= 0; i-- {
			next[i] = int32(i)
			if done[i] || passed[i] > 0 != ofPassed {
				next[i] = next[i+1]
			}
		}
		for k := range layers {
			l := &layers[k]
			if !whole && l.wide && l.action != policy.Pass {
				continue
			}
			for _, s := range shape(l) {
				last := cell(int(s.to) + 1)
				for i := open(cell(int(s.from))); i < last; i = open(i + 1) {
					switch l.action {
					case policy.Log:
						notes[i] = p.rs.note(notes[i], l.clause)
						continue
					case policy.Allow, policy.Deny:
						spans[i] = Span{Level: l.level, Decision: p.rs.byRule(l.clause, notes[i])}
						if ofPassed {
							spans[i].Level = passed[i]
						}
						done[i] = true
					case policy.Pass:
						if !whole && !l.wide {
							passed[i] = l.level
						}
					}
					next[i] = int32(i + 1)
				}
			}
		}
		if whole && p.rs.tiers[t].action == policy.Deny {
			for i := open(0); i < n; i = open(i + 1) {
				spans[i] = Span{Level: passed[i], Decision: p.rs.byTier(t, notes[i])}
				if !ofPassed {
					spans[i].Level = p.after[t]
				}
				done[i] = true
			}
		}
	}
	for t := range p.rs.tiers {
		k := 0
		for k < len(layers) && layers[k].tier == t {
			k++
		}
		if slices.ContainsFunc(passed, func(level uint16) bool { return level > 0 }) {
			tier(t, layers[:k], true) // first: these passed in earlier tiers
		}
		if k > 0 || p.complete {
			tier(t, layers[:k], false)
		}
		layers = layers[k:]
	}
	for i := range spans {
		switch {
		case done[i]:
		case p.complete:
			spans[i] = Span{Level: p.after[len(p.rs.tiers)], Decision: p.rs.byNone(notes[i])}
		case passed[i] > 0:
			spans[i] = Span{Level: passed[i], Decision: p.rs.byNone(notes[i])}
		}
	}
	var line Line
	for i, s := range spans {
		s.From = uint16(starts[i])
		line = line.append(s)
	}
	if !bySource {
		line = line.trimmed()
	}
	return slices.Clone(line) // without room for more: there are many
}

// split decides the cells that a layer with source ports covers, by source port.
func (p painter) split(layers []layer, starts []int, spans []Span, done []bool) {
	if !slices.ContainsFunc(layers, func(l layer) bool { return l.sources != nil }) {
		return
	}
	type event struct{ cell, layer int }
	var events []event // the start of a layer, or its end if it is active
	for i := range layers {
		for _, s := range layers[i].numbers {
			events = append(events, event{sort.SearchInts(starts, int(s.from)), i}, event{sort.SearchInts(starts, int(s.to)+1), i})
		}
	}
	slices.SortStableFunc(events, func(a, b event) int { return a.cell - b.cell })
	var active []int // sorted
	for i := range starts {
		for len(events) > 0 && events[0].cell == i {
			at, on := slices.BinarySearch(active, events[0].layer)
			if on {
				active = slices.Delete(active, at, at+1)
			} else {
				active = slices.Insert(active, at, events[0].layer)
			}
			events = events[1:]
		}
		if !slices.ContainsFunc(active, func(k int) bool { return layers[k].sources != nil }) {
			continue
		}
		here := make([]layer, len(active))
		for j, k := range active {
			here[j] = layers[k]
		}
		line := p.paint(here, true)
		done[i] = true
		if len(line) == 1 {
			spans[i] = line[0]
		} else {
			spans[i] = Span{Sources: &line}
		}
	}
}
