package preview

import (
	"cmp"
	"slices"

	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/compile"
)

func (c *comparer) ask(from, to stand, egress, ingress bool) []answer {
	var q question
	for w, n := range c.nodes {
		if egress {
			q[w][policy.Egress] = askOf(n, from.ruleSets[w][policy.Egress], to.places[w])
		}
		if ingress {
			q[w][policy.Ingress] = askOf(n, to.ruleSets[w][policy.Ingress], from.places[w])
		}
	}
	if q[0] == q[1] {
		return nil
	}
	a, ok := c.answers[q]
	if !ok {
		a = c.answer(q)
		c.answers[q] = a
	}
	return a
}

// askOf returns the tables that compile.Maps.Lookup uses.
func askOf(n *compile.Node, ruleSet compile.Hash, p compile.Place) ask {
	table, ok := n.Peers[compile.Peer{RuleSet: ruleSet, Atom: p.Atom}]
	if !ok && p.Base != p.Atom {
		table = n.Peers[compile.Peer{RuleSet: ruleSet, Atom: p.Base}]
	}
	kind := 0
	if p.Pod {
		kind = 1
	}
	return ask{table, n.RuleSets[ruleSet].Defaults[kind]}
}

// answer splits traffic at the intervals of all tables, and compares the verdicts of each
// piece.
func (c *comparer) answer(q question) []answer {
	var out []answer
	for class := compile.TCP; class <= compile.Other; class++ {
		var lines [2][2][2]compile.Line // by world, direction, and table or default table
		var starts []int
		for w := range q {
			for d, a := range q[w] {
				if a == (ask{}) {
					continue
				}
				for i, h := range []compile.Hash{a.table, a.byDefault} {
					if t := c.nodes[w].Tables[h]; t != nil {
						lines[w][d][i] = t.Lines[class]
					}
					for _, s := range lines[w][d][i] {
						starts = append(starts, int(s.From))
					}
				}
			}
		}
		last := 0xffff
		if class == compile.Other {
			last = 0xff
		}
		for _, n := range cells(starts, last) {
			if class == compile.Other && !slices.ContainsFunc(others, func(p uint16) bool { return n.from <= p && p <= n.to }) {
				continue
			}
			var sources []int
			for w := range lines {
				for d := range lines[w] {
					for _, l := range lines[w][d] {
						if s := spanAt(l, n.from); s.Sources != nil {
							for _, by := range *s.Sources {
								sources = append(sources, int(by.From))
							}
						}
					}
				}
			}
			for _, s := range cells(sources, 0xffff) {
				var v [2]Verdict
				for w := range v {
					v[w].Action = policy.Allow
					for d := range q[w] {
						if q[w][d] == (ask{}) {
							continue
						}
						by := decide(lines[w][d], n.from, s.from)
						v[w].By[d] = by
						if by.Action != policy.Allow {
							v[w].Action = policy.Deny
						}
					}
				}
				if v[0].Action == v[1].Action {
					continue
				}
				for d := range v[0].By {
					if v[0].By[d].Action != policy.Deny && v[1].By[d].Action != policy.Deny {
						v[0].By[d], v[1].By[d] = By{}, By{}
					}
				}
				span := Span{class, n.from, n.to, s.from, s.to}
				i := slices.IndexFunc(out, func(a answer) bool { return a.before == v[0] && a.after == v[1] })
				if i < 0 {
					i = len(out)
					out = append(out, answer{before: v[0], after: v[1]})
				}
				out[i].traffic = out[i].traffic.append(span)
			}
		}
	}
	return out
}

type cell struct{ from, to uint16 }

// cells splits the numbers up to last at the given starts.
func cells(starts []int, last int) (out []cell) {
	starts = append(starts, 0)
	slices.Sort(starts)
	starts = slices.Compact(starts)
	for i, from := range starts {
		if from > last {
			break
		}
		to := last
		if i+1 < len(starts) {
			to = min(last, starts[i+1]-1)
		}
		out = append(out, cell{uint16(from), uint16(to)})
	}
	return out
}

func spanAt(l compile.Line, number uint16) compile.Span {
	i, found := slices.BinarySearchFunc(l, number, func(s compile.Span, n uint16) int { return cmp.Compare(s.From, n) })
	if !found {
		i--
	}
	if i < 0 {
		return compile.Span{}
	}
	return l[i]
}

// decide returns what compile.Maps.Lookup finds: between the table and the default table, the
// lower level wins.
func decide(lines [2]compile.Line, number, source uint16) By {
	var of [2]compile.Span
	for i, l := range lines {
		of[i] = spanAt(l, number)
		if of[i].Sources != nil {
			of[i] = spanAt(*of[i].Sources, source)
		}
	}
	d := of[1].Decision
	if of[0].Decision != nil && (of[0].Level == 0 || of[0].Level < of[1].Level) {
		d = of[0].Decision
	}
	return By{d.Action, d.Reason, d.Tier, d.Rule}
}
