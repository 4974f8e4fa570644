// Package selector is Calico's language of label selectors, which Kubernetes' selectors are
// a part of: parsed, asked, and written in one canonical form.
//
// It owns the grammar and the algebra of selectors. It must never know what has the labels:
// Labels is all that it asks, so that labels which are made on the spot (a pod's namespace,
// the labels of its service account) need no copy of those that are there.
//
// The canonical form is what compiling rests on: selectors are compared, counted and shared
// by their String. Negations are at the labels alone, alternatives and conjunctions are
// sorted, and what is said about one label in a conjunction is said once. Selectors with
// the same String match the same labels; the reverse is not promised: (a && b) || (a && c) stays
// as it is.
package selector

import (
	"maps"
	"slices"
	"strings"
)

// Labels are asked for one label at a time.
type Labels interface {
	// Get is the value of a label, and whether it is there.
	Get(key string) (value string, ok bool)
}

// Map is Labels that are a map.
type Map map[string]string

// Get implements Labels.
func (m Map) Get(key string) (string, bool) {
	v, ok := m[key]
	return v, ok
}

// A Selector is a condition on labels, in canonical form. It does not change, and can be
// used by many at once. The nil Selector matches all labels, as a condition that is not set.
type Selector struct {
	op     op
	key    string
	values []string // in, notIn: sorted, each once; contains, starts, ends and their opposites: one
	of     []*Selector
	text   string
	// not is the opposite, whose own not this is: to make it anew at each level of a nested
	// selector would cost the square of its length.
	not *Selector
}

// op is what a Selector asks. Each has its opposite.
type op uint8

const (
	all op = iota
	none
	in
	notIn // or the label is absent
	has
	absent
	contains
	notContains // or the label is absent, and so on
	starts
	notStarts
	ends
	notEnds
	and
	or
)

var opposite = [...]op{none, all, notIn, in, absent, has, notContains, contains, notStarts, starts, notEnds, ends, or, and}

// All matches all labels.
func All() *Selector { return constant(true) }

// None matches no labels.
func None() *Selector { return constant(false) }

func constant(matches bool) *Selector {
	yes, no := pair(&Selector{op: all, text: "all()"}, &Selector{op: none, text: "!all()"})
	if matches {
		return yes
	}
	return no
}

// pair makes two selectors each other's opposites.
func pair(a, b *Selector) (*Selector, *Selector) {
	a.not, b.not = b, a
	return a, b
}

// In matches labels that have the key with one of the values. Of what cannot be written as
// a string of the grammar (it has both kinds of quotes) nothing is matched: no label of
// Kubernetes has such a value.
func In(key string, values ...string) *Selector {
	values = slices.DeleteFunc(slices.Clone(values), func(v string) bool { return strings.Contains(v, `"`) && strings.Contains(v, `'`) })
	slices.Sort(values)
	values = slices.Compact(values)
	if len(values) == 0 {
		return None()
	}
	return leaf(in, key, values...)
}

// Has matches labels that have the key.
func Has(key string) *Selector { return leaf(has, key) }

// Not matches what s does not match.
func Not(s *Selector) *Selector {
	if s == nil {
		return None()
	}
	return s.not
}

// And matches what all of them match.
func And(of ...*Selector) *Selector {
	var kids []*Selector
	byKey := map[string]*about{}
	for of = slices.Clone(of); len(of) > 0; {
		s := of[0]
		of = of[1:]
		switch {
		case s == nil || s.op == all:
		case s.op == none:
			return None()
		case s.op == and:
			of = append(of, s.of...)
		case s.op == or:
			kids = append(kids, s)
		default:
			if byKey[s.key] == nil {
				byKey[s.key] = &about{}
			}
			byKey[s.key].add(s)
		}
	}
	for key, a := range byKey {
		said, possible := a.said(key)
		if !possible {
			return None()
		}
		kids = append(kids, said...)
	}
	kids = sorted(kids)
	// What contradicts itself on one label, about has found. Here is (a || b) && !a && !b.
	if slices.ContainsFunc(kids, func(k *Selector) bool { return k.op == or && implied(Not(k), kids) }) {
		return None()
	}
	// (a || b) && a is a.
	kids = slices.DeleteFunc(slices.Clone(kids), func(k *Selector) bool {
		return k.op == or && slices.ContainsFunc(k.of, func(one *Selector) bool { return implied(one, kids) })
	})
	switch len(kids) {
	case 0:
		return All()
	case 1:
		return kids[0]
	}
	return join(and, kids)
}

// Or matches what one of them matches; none of them, nothing.
func Or(of ...*Selector) *Selector {
	kids := make([]*Selector, len(of))
	for i, s := range of {
		kids[i] = Not(s)
	}
	return Not(And(kids...))
}

// implied says whether all conditions of s are among kids.
func implied(s *Selector, kids []*Selector) bool {
	conditions := []*Selector{s}
	if s.op == and {
		conditions = s.of
	}
	for _, c := range conditions {
		if !slices.ContainsFunc(kids, func(k *Selector) bool { return k.text == c.text }) {
			return false
		}
	}
	return true
}

// Matches asks the selector of labels.
func (s *Selector) Matches(labels Labels) bool {
	if s == nil {
		return true
	}
	switch s.op {
	case all, none:
		return s.op == all
	case and:
		for _, k := range s.of {
			if !k.Matches(labels) {
				return false
			}
		}
		return true
	case or:
		for _, k := range s.of {
			if k.Matches(labels) {
				return true
			}
		}
		return false
	}
	value, ok := labels.Get(s.key)
	if !ok {
		return s.op == absent || s.op == notIn || s.op == notContains || s.op == notStarts || s.op == notEnds
	}
	return s.accepts(value)
}

// accepts asks a condition on one label of a value that it has.
func (s *Selector) accepts(value string) bool {
	switch s.op {
	case has, absent:
		return s.op == has
	case in, notIn:
		_, found := slices.BinarySearch(s.values, value)
		return found == (s.op == in)
	case contains, notContains:
		return strings.Contains(value, s.values[0]) == (s.op == contains)
	case starts, notStarts:
		return strings.HasPrefix(value, s.values[0]) == (s.op == starts)
	}
	return strings.HasSuffix(value, s.values[0]) == (s.op == ends)
}

// Always says that all labels match. There are selectors that match all labels in ways that
// it does not see.
func (s *Selector) Always() bool { return s == nil || s.op == all }

// Never says that no labels match; as for Always, not all such selectors are seen.
func (s *Selector) Never() bool { return s != nil && s.op == none }

// String is the canonical form, which Parse reads.
func (s *Selector) String() string {
	if s == nil {
		return All().text
	}
	return s.text
}

// A Requirement is a label that must be there, with one of Values if they are not nil.
type Requirement struct {
	Key    string
	Values []string
}

// Requires lists what all labels that match have, by key: an index finds candidates with any
// one of them. Empty: nothing is required that an index can use.
func (s *Selector) Requires() []Requirement {
	if s == nil {
		return nil
	}
	switch s.op {
	case in:
		return []Requirement{{s.key, s.values}}
	case has, contains, starts, ends:
		return []Requirement{{s.key, nil}}
	case and:
		// A conjunction can require a key twice: a in {…} && (a == … && … || …).
		byKey := map[string]Requirement{}
		for _, k := range s.of {
			for _, r := range k.Requires() {
				if had, ok := byKey[r.Key]; !ok || had.Values == nil || r.Values != nil && len(r.Values) < len(had.Values) {
					byKey[r.Key] = r
				}
			}
		}
		return byName(byKey)
	case or:
		byKey := map[string]Requirement{}
		for i, k := range s.of {
			now := map[string]Requirement{}
			for _, r := range k.Requires() {
				had, ok := byKey[r.Key]
				switch {
				case i == 0:
					now[r.Key] = r
				case ok && (had.Values == nil || r.Values == nil):
					now[r.Key] = Requirement{Key: r.Key}
				case ok:
					values := slices.Concat(had.Values, r.Values)
					slices.Sort(values)
					now[r.Key] = Requirement{r.Key, slices.Compact(values)}
				}
			}
			byKey = now
		}
		return byName(byKey)
	}
	return nil
}

func byName(requirements map[string]Requirement) []Requirement {
	return slices.SortedFunc(maps.Values(requirements), func(a, b Requirement) int { return strings.Compare(a.Key, b.Key) })
}

// leaf makes a condition on one label.
func leaf(o op, key string, values ...string) *Selector {
	// Every value contains, starts and ends with nothing.
	switch o {
	case contains, starts, ends:
		if values[0] == "" {
			return leaf(has, key)
		}
	}
	s, _ := pair(condition(o, key, values), condition(opposite[o], key, values))
	return s
}

// condition writes a condition on one label.
func condition(o op, key string, values []string) *Selector {
	s := &Selector{op: o, key: key, values: values}
	switch {
	case o == has:
		s.text = "has(" + key + ")"
	case o == absent:
		s.text = "!has(" + key + ")"
	case o == in && len(values) == 1:
		s.text = key + " == " + quoted(values[0])
	case o == notIn && len(values) == 1:
		s.text = key + " != " + quoted(values[0])
	case o == in, o == notIn:
		list := make([]string, len(values))
		for i, v := range values {
			list[i] = quoted(v)
		}
		s.text = key + map[op]string{in: " in {", notIn: " not in {"}[o] + strings.Join(list, ", ") + "}"
	default:
		s.text = key + words[o] + quoted(values[0])
		if o == notContains || o == notStarts || o == notEnds {
			s.text = "!" + s.text
		}
	}
	return s
}

var words = map[op]string{
	contains: " contains ", notContains: " contains ",
	starts: " starts with ", notStarts: " starts with ",
	ends: " ends with ", notEnds: " ends with ",
}

func quoted(value string) string {
	if strings.Contains(value, `"`) {
		return "'" + value + "'"
	}
	return `"` + value + `"`
}

// join makes a conjunction or a list of alternatives of two or more.
func join(o op, kids []*Selector) *Selector {
	nots := make([]*Selector, len(kids))
	for i, k := range kids {
		nots[i] = k.not
	}
	s, _ := pair(joined(o, kids), joined(opposite[o], nots))
	return s
}

func joined(o op, kids []*Selector) *Selector {
	kids = sorted(kids)
	text := make([]string, len(kids))
	for i, k := range kids {
		text[i] = k.text
		if k.op == and || k.op == or {
			text[i] = "(" + k.text + ")"
		}
	}
	return &Selector{op: o, of: kids, text: strings.Join(text, map[op]string{and: " && ", or: " || "}[o])}
}

// sorted puts selectors in order of their text, each once. It changes the list.
func sorted(kids []*Selector) []*Selector {
	slices.SortFunc(kids, func(a, b *Selector) int { return strings.Compare(a.text, b.text) })
	return slices.CompactFunc(kids, func(a, b *Selector) bool { return a.text == b.text })
}

// about is what a conjunction says of one label.
type about struct {
	in             []string // one of these; nil: nothing said
	notIn          []string
	others         []*Selector // contains, starts, ends and their opposites
	needed, absent bool
}

func (a *about) add(s *Selector) {
	switch s.op {
	case in:
		if a.in == nil {
			a.in = slices.Clone(s.values)
		}
		a.in = slices.DeleteFunc(a.in, func(v string) bool { return !s.accepts(v) })
		a.needed = true
	case notIn:
		a.notIn = append(a.notIn, s.values...)
	case has:
		a.needed = true
	case absent:
		a.absent = true
	default:
		a.others = append(a.others, s)
		a.needed = a.needed || s.op == contains || s.op == starts || s.op == ends
	}
}

// said is the least that says the same, and false if nothing can be so.
func (a *about) said(key string) (kids []*Selector, possible bool) {
	switch {
	case a.absent:
		return []*Selector{leaf(absent, key)}, !a.needed
	case a.in != nil:
		values := slices.DeleteFunc(a.in, func(v string) bool {
			return slices.Contains(a.notIn, v) || slices.ContainsFunc(a.others, func(s *Selector) bool { return !s.accepts(v) })
		})
		if len(values) == 0 {
			return nil, false
		}
		return []*Selector{leaf(in, key, values...)}, true
	}
	slices.Sort(a.notIn)
	// A value that another condition refuses need not be named.
	refused := func(v string) bool {
		return slices.ContainsFunc(a.others, func(s *Selector) bool { return !s.accepts(v) })
	}
	if values := slices.DeleteFunc(slices.Compact(a.notIn), refused); len(values) > 0 {
		kids = append(kids, leaf(notIn, key, values...))
	}
	positive := false
	for _, s := range a.others {
		for _, other := range a.others {
			if other.op == opposite[s.op] && other.values[0] == s.values[0] {
				return nil, false
			}
		}
		positive = positive || s.op == contains || s.op == starts || s.op == ends
	}
	kids = append(kids, a.others...)
	if a.needed && !positive {
		kids = append(kids, leaf(has, key))
	}
	return kids, true
}

// Keys are the labels that a selector asks for, sorted.
func (s *Selector) Keys() []string {
	var keys []string
	var add func(*Selector)
	add = func(s *Selector) {
		if s.key != "" {
			keys = append(keys, s.key)
		}
		for _, k := range s.of {
			add(k)
		}
	}
	if s != nil {
		add(s)
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}
