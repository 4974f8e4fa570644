package preview

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"terway.dev/terway/internal/policy/compile"
)

// Traffic is a sorted list of disjoint Spans.
type Traffic []Span

// A Span is a rectangle of ports; both bounds are included.
type Span struct {
	Class compile.Class
	// From and To are destination ports; for ICMP and ICMPv6 they are type << 8 | code; for
	// other protocols they are IP numbers, and those of protocols with their own class do not
	// count.
	From, To uint16
	// SourceFrom and SourceTo are source ports; 0 and 65535 mean all.
	SourceFrom, SourceTo uint16
}

// others are the IP numbers of protocols without a class of their own.
var others = func() (list []uint16) {
	for n := range 256 {
		if compile.ClassOf(uint8(n)) == compile.Other {
			list = append(list, uint16(n))
		}
	}
	return list
}()

func (s Span) compare(o Span) int {
	return cmp.Or(cmp.Compare(s.Class, o.Class), cmp.Compare(s.From, o.From), cmp.Compare(s.SourceFrom, o.SourceFrom), cmp.Compare(s.To, o.To), cmp.Compare(s.SourceTo, o.SourceTo))
}

// append adds a span at the end, and joins adjacent spans.
func (t Traffic) append(s Span) Traffic {
	if n := len(t); n > 0 && t[n-1].Class == s.Class {
		switch l := &t[n-1]; {
		case l.SourceFrom == s.SourceFrom && l.SourceTo == s.SourceTo && between(s.Class, l.To, s.From):
			l.To = s.To
			return t
		case l.From == s.From && l.To == s.To && int(l.SourceTo)+1 == int(s.SourceFrom):
			l.SourceTo = s.SourceTo
			return t
		}
	}
	return append(t, s)
}

// between reports whether no number is between a and b, with a < b.
func between(c compile.Class, a, b uint16) bool {
	if c != compile.Other {
		return int(a)+1 == int(b)
	}
	return !slices.ContainsFunc(others, func(n uint16) bool { return a < n && n < b })
}

func last(c compile.Class) uint16 {
	if c == compile.Other {
		return 0xff
	}
	return 0xffff
}

// except returns the complement of the traffic; false if it depends on source ports.
func (t Traffic) except() (Traffic, bool) {
	var out Traffic
	for c := compile.TCP; c <= compile.Other; c++ {
		next := 0
		for _, s := range t {
			if s.Class != c {
				continue
			}
			if s.SourceFrom != 0 || s.SourceTo != 0xffff {
				return nil, false
			}
			if int(s.From) > next {
				out = append(out, Span{c, uint16(next), s.From - 1, 0, 0xffff})
			}
			next = int(s.To) + 1
		}
		if next <= int(last(c)) {
			out = append(out, Span{c, uint16(next), last(c), 0, 0xffff})
		}
	}
	return slices.DeleteFunc(out, func(s Span) bool {
		return s.Class == compile.Other && !slices.ContainsFunc(others, func(n uint16) bool { return s.From <= n && n <= s.To })
	}), true
}

// String describes the traffic, or its complement, whichever is shorter.
func (t Traffic) String() string {
	not, ok := t.except()
	switch {
	case ok && len(not) == 0:
		return "all"
	case ok && len(not) < len(t):
		return "all but " + strings.Join(not.Strings(), ", ")
	}
	return strings.Join(t.Strings(), ", ")
}

// Strings returns the Spans in the form "tcp/80", "udp", "icmp/8", "protocol/47".
func (t Traffic) Strings() []string {
	out := make([]string, 0, len(t))
	for _, s := range t {
		out = append(out, s.String())
	}
	return out
}

func (s Span) String() string {
	name := [...]string{"tcp", "udp", "sctp", "icmp", "icmpv6", "protocol"}[s.Class]
	text := name
	switch {
	case s.From == 0 && s.To == last(s.Class):
		if s.Class == compile.Other {
			text = "other protocols"
		}
	case s.Class == compile.ICMP || s.Class == compile.ICMPv6:
		from, to := fmt.Sprint(s.From>>8), fmt.Sprint(s.To>>8)
		if s.From&0xff != 0 || s.To&0xff != 0xff {
			from, to = fmt.Sprintf("%d:%d", s.From>>8, s.From&0xff), fmt.Sprintf("%d:%d", s.To>>8, s.To&0xff)
		}
		text += "/" + interval(from, to)
	default:
		text += "/" + interval(fmt.Sprint(s.From), fmt.Sprint(s.To))
	}
	if s.SourceFrom != 0 || s.SourceTo != 0xffff {
		text += " from port " + interval(fmt.Sprint(s.SourceFrom), fmt.Sprint(s.SourceTo))
	}
	return text
}

func interval(from, to string) string {
	if from == to {
		return from
	}
	return from + "-" + to
}
