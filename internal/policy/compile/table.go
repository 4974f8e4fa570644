package compile

import (
	"terway.dev/terway/internal/policy"
)

// A Table says for each class and number what is decided. Tables do not change, and equal
// ones are one.
type Table struct {
	Hash  Hash
	Lines [classes]Line
	spans int // of all lines, those by source port too
}

// A Line is spans in the order of where they begin; the first begins at 0, and each ends
// where the next begins. An empty Line says nothing at all.
type Line []Span

// A Span is what a Table says of some numbers: one of Decision and Sources, or neither, which
// is nothing.
type Span struct {
	From  uint16
	Level uint16
	// Decision holds unless another table of the connection has one of a lower Level.
	Decision *Decision
	// Sources decide by source port.
	Sources *Line
}

// A Decision is what rules say of some traffic.
type Decision struct {
	policy.Decision
	hash Hash
}

// Levels. A table that a rule set has for an atom stands beside the default table of the
// atom's kind, and the lower Level wins. Level 0 wins always.
const (
	levelFinal = 0
	levelFirst = 1
)

func newDecision(d policy.Decision) *Decision {
	var b digest
	b.num(int(d.Action), int(d.Reason))
	b.str(d.Tier)
	b.rule(d.Rule)
	b.num(len(d.Logs))
	for _, l := range d.Logs {
		b.rule(l)
	}
	return &Decision{d, b.sum()}
}

// closedTable is the default table of endpoints that fail closed.
var closedTable = func() *Table {
	t := &Table{}
	closed := newDecision(policy.Decision{Action: policy.Deny, Reason: policy.Closed})
	for c := range t.Lines {
		t.Lines[c] = Line{{Level: levelFirst, Decision: closed}}
	}
	t.seal()
	return t
}()

// empty says whether the table says nothing.
func (t *Table) empty() bool {
	for _, l := range t.Lines {
		if len(l) > 0 {
			return false
		}
	}
	return true
}

// seal gives the table its name, once it has its lines.
func (t *Table) seal() {
	var b digest
	var line func(Line)
	line = func(l Line) {
		b.num(len(l))
		t.spans += len(l)
		for _, s := range l {
			b.num(int(s.From), int(s.Level))
			switch {
			case s.Decision != nil:
				b.num(1)
				b.hash(s.Decision.hash)
			case s.Sources != nil:
				b.num(2)
				line(*s.Sources)
			default:
				b.num(0)
			}
		}
	}
	for _, l := range t.Lines {
		line(l)
	}
	t.Hash = b.sum()
}

// says reports whether two spans decide the same, wherever they begin and at whatever level.
func (s Span) says(o Span) bool {
	if (s.Decision == nil) != (o.Decision == nil) || (s.Sources == nil) != (o.Sources == nil) {
		return false
	}
	if s.Decision != nil && s.Decision.hash != o.Decision.hash {
		return false
	}
	if s.Sources == o.Sources {
		return true
	}
	a, b := *s.Sources, *o.Sources
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].From != b[i].From || !a[i].says(b[i]) {
			return false
		}
	}
	return true
}

// append adds a span to the end of a line, unless the last one says the same.
func (l Line) append(s Span) Line {
	if n := len(l); n > 0 && l[n-1].says(s) && l[n-1].Level == s.Level {
		return l
	}
	return append(l, s)
}

// trimmed is the line, or nil if it says nothing.
func (l Line) trimmed() Line {
	if len(l) == 1 && l[0].Decision == nil && l[0].Sources == nil {
		return nil
	}
	return l
}

// less is what line says where it differs from what the other says. Both are complete.
func (l Line) less(other Line) Line {
	var out Line
	for i, j := 0, 0; i < len(l); {
		s := l[i]
		s.From = max(s.From, other[j].From)
		if s.says(other[j]) {
			s = Span{From: s.From}
		}
		out = out.append(s)
		switch nextI, nextJ := end(l, i), end(other, j); {
		case nextI == nextJ:
			i++
			j = min(j+1, len(other)-1)
		case nextI < nextJ:
			i++
		default:
			j++
		}
	}
	return out.trimmed()
}

// end is the first number after a span.
func end(l Line, i int) int {
	if i+1 < len(l) {
		return int(l[i+1].From)
	}
	return 1 << 16
}
