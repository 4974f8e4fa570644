// Package selector is Calico's language of label selectors, of which the selectors of
// Kubernetes are a subset: it parses them, evaluates them and writes them in one canonical
// form.
//
// It owns the grammar and the algebra of selectors. It must never depend on what has the
// labels: it reads labels by the interface Labels, so generated labels (a pod's namespace, the
// labels of its service account) need no copy of the object's labels.
//
// The compiler relies on the canonical form: selectors are compared, counted and shared by
// their String. Negation applies only to single labels, alternatives and conjunctions are
// sorted, and a conjunction has one condition for each label where possible. Selectors with
// equal Strings match the same labels. The reverse is not guaranteed: (a && b) || (a && c)
// stays as it is.
package selector

import (
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"weak"
)

// Labels is read one label at a time.
type Labels interface {
	// Get returns the value of a label, and whether it exists.
	Get(key string) (value string, ok bool)
}

// Map implements Labels by a map.
type Map map[string]string

// Get implements Labels.
func (m Map) Get(key string) (string, bool) {
	v, ok := m[key]
	return v, ok
}

// A Selector is a condition on labels, in canonical form. It is immutable and safe for
// concurrent use. A nil Selector matches all labels, like a condition that is not set.
type Selector struct {
	op     op
	key    string
	values []string // in, notIn: sorted and unique; contains, starts, ends and their opposites: one
	of     []*Selector
	text   string
	// not is the opposite, with this as its own not. Computing it again at each level of a
	// nested selector would take quadratic time.
	not *Selector
}

// op is the operator of a Selector. Each has an opposite.
type op uint8

const (
	all op = iota
	none
	in
	notIn // also matches if the label is absent
	has
	absent
	contains
	notContains // also matches if the label is absent; so do the next two
	starts
	notStarts
	ends
	notEnds
	and
	or
)

var opposite = [...]op{none, all, notIn, in, absent, has, notContains, contains, notStarts, starts, notEnds, ends, or, and}

// All returns the selector of all labels.
func All() *Selector { return constant(true) }

// None returns the selector of no labels.
func None() *Selector { return constant(false) }

func constant(matches bool) *Selector {
	yes, no := pair(&Selector{op: all, text: "all()"}, &Selector{op: none, text: "!all()"})
	if matches {
		return yes
	}
	return no
}

// pair links two selectors as opposites.
func pair(a, b *Selector) (*Selector, *Selector) {
	a.not, b.not = b, a
	return a, b
}

// In matches if the label has one of the values. A value that the grammar cannot write (with
// both kinds of quotes) matches nothing: no label of Kubernetes has such a value.
func In(key string, values ...string) *Selector {
	values = slices.DeleteFunc(slices.Clone(values), func(v string) bool { return strings.Contains(v, `"`) && strings.Contains(v, `'`) })
	slices.Sort(values)
	values = slices.Compact(values)
	if len(values) == 0 {
		return None()
	}
	return leaf(in, key, values...)
}

// Has matches if the label exists.
func Has(key string) *Selector { return leaf(has, key) }

// Not matches what s does not match.
func Not(s *Selector) *Selector {
	if s == nil {
		return None()
	}
	return s.not
}

// And matches what all of the selectors match.
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
	// The type about has found contradictions on a single label. This finds (a || b) && !a &&
	// !b.
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

// Or matches what one of the selectors matches, and nothing if there is none.
func Or(of ...*Selector) *Selector {
	kids := make([]*Selector, len(of))
	for i, s := range of {
		kids[i] = Not(s)
	}
	return Not(And(kids...))
}

// implied reports whether all conditions of s are among kids.
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

// Matches evaluates the selector on labels.
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

// accepts evaluates a condition on the value of a label.
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

// Always reports whether the selector is known to match all labels. Some selectors match all
// labels without being recognized.
func (s *Selector) Always() bool { return s == nil || s.op == all }

// Never reports whether the selector is known to match no labels. As with Always, some are not
// recognized.
func (s *Selector) Never() bool { return s != nil && s.op == none }

// String returns the canonical form, which Parse accepts.
func (s *Selector) String() string {
	if s == nil {
		return All().text
	}
	return s.text
}

// A Requirement is a label that must exist, with one of Values if they are not nil.
type Requirement struct {
	Key    string
	Values []string
}

// Requires returns labels that every match has, by key, so that an index finds candidates by
// any one of them. Empty: there is no label that an index can use.
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
		// A conjunction can have two requirements for a key: a in {…} && (a == … && … || …).
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

// leaf returns a condition on one label.
func leaf(o op, key string, values ...string) *Selector {
	// Every string contains, starts with and ends with "".
	switch o {
	case contains, starts, ends:
		if values[0] == "" {
			return leaf(has, key)
		}
	}
	return leaves.get(condition(o, key, values), func(s *Selector) { pair(s, condition(opposite[o], key, values)) })
}

// leaves shares equal conditions: in a large cluster thousands of policies have the same ones.
var leaves = shared{of: map[string]weak.Pointer[Selector]{}}

type shared struct {
	mu sync.Mutex
	of map[string]weak.Pointer[Selector] // by the text
}

// get returns the Selector with the text of s; this is s, completed, if nobody has another one.
func (l *shared) get(s *Selector, complete func(*Selector)) *Selector {
	l.mu.Lock()
	defer l.mu.Unlock()
	if has := l.of[s.text].Value(); has != nil {
		return has
	}
	complete(s)
	s.text = strings.Clone(s.text) // not a part of a longer one
	p := weak.Make(s)
	l.of[s.text] = p
	runtime.AddCleanup(s, func(text string) {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.of[text] == p {
			delete(l.of, text)
		}
	}, s.text)
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

// join returns a conjunction or alternatives of two or more selectors.
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

// sorted sorts selectors by text and removes duplicates. It modifies the list.
func sorted(kids []*Selector) []*Selector {
	slices.SortFunc(kids, func(a, b *Selector) int { return strings.Compare(a.text, b.text) })
	return slices.CompactFunc(kids, func(a, b *Selector) bool { return a.text == b.text })
}

// about collects the conditions of a conjunction on one label.
type about struct {
	in             []string // one of these; nil: no condition
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

// said returns the shortest equivalent conditions, and false if they contradict each other.
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
	// A value that another condition excludes can be left out.
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

// Keys returns the labels that a selector reads, sorted.
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
