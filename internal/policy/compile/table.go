package compile

import (
	"terway.dev/terway/internal/policy"
)

// A Table has the decision for each class and number. Tables are immutable, and equal ones are
// shared.
type Table struct {
	Hash  Hash
	Lines [classes]Line
	spans int // of all lines, including those by source port
}

// A Line is a list of spans in order. The first starts at 0, and each ends where the next
// starts. An empty Line decides nothing.
type Line []Span

// A Span has either Decision or Sources set. With neither, it decides nothing.
type Span struct {
	From  uint16
	Level uint16
	// Decision applies unless the connection's other table has one with a lower Level.
	Decision *Decision
	// Sources decides by source port.
	Sources *Line
}

// A Decision is the result of the rules for some traffic.
type Decision struct {
	policy.Decision
	hash Hash
}

// Levels. An atom may have a table beside the default table of its kind. If both decide, the
// lower Level wins. Level 0 always wins.
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

// empty reports whether the table decides nothing.
func (t *Table) empty() bool {
	for _, l := range t.Lines {
		if len(l) > 0 {
			return false
		}
	}
	return true
}

// seal names the table after its lines are complete.
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

// says reports whether two spans decide the same, ignoring start and level.
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

// append adds a span to a line, unless the last span decides the same.
func (l Line) append(s Span) Line {
	if n := len(l); n > 0 && l[n-1].says(s) && l[n-1].Level == s.Level {
		return l
	}
	return append(l, s)
}

// trimmed returns the line, or nil if it decides nothing.
func (l Line) trimmed() Line {
	if len(l) == 1 && l[0].Decision == nil && l[0].Sources == nil {
		return nil
	}
	return l
}

// less returns the parts of l that differ from other. Both lines are complete.
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

// end returns the first number after a span.
func end(l Line, i int) int {
	if i+1 < len(l) {
		return int(l[i+1].From)
	}
	return 1 << 16
}
