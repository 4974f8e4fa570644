package selector

import (
	"fmt"
	"strings"
)

// The grammar, as in Calico (libcalico-go/lib/selector/parser):
//
//	selector   = "" | any                                   "" is all()
//	any        = every { "||" every }
//	every      = condition { "&&" condition }
//	condition  = { "!" } ( "(" any ")" | "all()" | "global()" | "has(" label ")"
//	           | label "==" string | label "!=" string
//	           | label "in" set | label "not in" set
//	           | label "contains" string | label "starts with" string | label "ends with" string )
//	set        = "{" [ string { "," string } [ "," ] ] "}"
//	label      = one or more of A-Z a-z 0-9 _ . / -
//	string     = "'" … "'" | '"' … '"'                      no escapes
//
// Blanks and tabs are allowed between all of these. "has(", "all(" and "global(" are one token
// each, including the parenthesis. After such a token, and within "not in", "starts with" and
// "ends with", line breaks are allowed too, as in Calico of August 2025; newer versions allow
// only blanks and tabs.

// depth is the maximum nesting of parentheses. A selector of 1,024 characters, the API's limit,
// has at most 509.
const depth = 512

// An Error says what is wrong with a selector, and where.
type Error struct {
	Text   string
	Offset int    // in bytes
	Want   string // what is expected there
}

func (e *Error) Error() string {
	found := "the end"
	if rest := e.Text[e.Offset:]; rest != "" {
		found = fmt.Sprintf("%q", cut(rest, 20))
	}
	return fmt.Sprintf("selector %q has %s at position %d: want %s", cut(e.Text, 80), found, e.Offset+1, e.Want)
}

func cut(s string, n int) string {
	if len(s) > n {
		return s[:n] + "…"
	}
	return s
}

// Parse parses a selector of labels. The error is an *Error. global() is an error here: only
// ParseNamespaces accepts it.
func Parse(text string) (*Selector, error) {
	return parse(text, All(), nil)
}

// ParseNamespaces parses the namespaceSelector of a rule. It returns the selector of
// namespaces, and whether objects without a namespace (GlobalNetworkSets) are selected too.
// all() selects all namespaces, global() only objects without one. For such objects every label
// is absent, so !has(x) selects them as well. The empty selector selects everything.
func ParseNamespaces(text string) (namespaces *Selector, global bool, err error) {
	if namespaces, err = parse(text, All(), None()); err != nil {
		return nil, false, err
	}
	if text == "" {
		return namespaces, true, nil
	}
	outside, err := parse(text, None(), All())
	return namespaces, err == nil && outside.Matches(Map(nil)), err
}

// parse uses the given selectors for all() and global(). If global is nil, global() is an
// error.
func parse(text string, all, global *Selector) (s *Selector, err error) {
	p := &parser{text: text, all: all, global: global}
	defer func() {
		if r := recover(); r != nil {
			e, ours := r.(*Error)
			if !ours {
				panic(r)
			}
			s, err = nil, e
		}
	}()
	p.blanks()
	if p.at == len(text) {
		return all, nil
	}
	s = p.any()
	if p.at < len(text) {
		p.fail("&&, || or the end")
	}
	return s, nil
}

// parser is always at the start of a token: blanks are skipped after each.
type parser struct {
	text        string
	at          int
	all, global *Selector
	deep        int
}

// fail stops the parser; parse recovers.
func (p *parser) fail(want string) {
	panic(&Error{p.text, p.at, want})
}

func (p *parser) blanks() {
	for p.at < len(p.text) && (p.text[p.at] == ' ' || p.text[p.at] == '\t') {
		p.at++
	}
}

// spaces skips blanks and line breaks.
func (p *parser) spaces() {
	for p.at < len(p.text) && strings.IndexByte(" \t\n\f\r", p.text[p.at]) >= 0 {
		p.at++
	}
}

// take consumes a token if it is next.
func (p *parser) take(word string) bool {
	if !strings.HasPrefix(p.text[p.at:], word) {
		return false
	}
	p.at += len(word)
	p.blanks()
	return true
}

func (p *parser) must(word, want string) {
	if !p.take(word) {
		p.fail(want)
	}
}

func (p *parser) any() *Selector {
	of := []*Selector{p.every()}
	for p.take("||") {
		of = append(of, p.every())
	}
	return Or(of...)
}

func (p *parser) every() *Selector {
	of := []*Selector{p.condition()}
	for p.take("&&") {
		of = append(of, p.condition())
	}
	return And(of...)
}

func (p *parser) condition() *Selector {
	negated := false
	for !strings.HasPrefix(p.text[p.at:], "!=") && p.take("!") {
		negated = !negated
	}
	s := p.positive()
	if negated {
		return Not(s)
	}
	return s
}

func (p *parser) positive() *Selector {
	start := p.at
	switch {
	case p.take("("):
		if p.deep++; p.deep > depth {
			p.at = start
			p.fail(fmt.Sprintf("parentheses nested %d deep at most", depth))
		}
		s := p.any()
		p.must(")", "&&, || or )")
		p.deep--
		return s
	case p.take("has("):
		p.spaces()
		key := p.label("a label's name")
		p.spaces()
		p.must(")", ") after the label's name")
		return Has(key)
	case p.take("all("):
		p.spaces()
		p.must(")", ")")
		return p.all
	case p.take("global("):
		p.spaces()
		p.must(")", ")")
		if p.global == nil {
			p.at = start
			p.fail("labels: global() is for a rule's namespaceSelector")
		}
		return p.global
	}
	key := p.label("a label's name, has(…), all(), ! or (")
	switch {
	case p.take("=="):
		return In(key, p.string())
	case p.take("!="):
		return Not(In(key, p.string()))
	case p.take("contains"):
		return leaf(contains, key, p.string())
	case p.take("starts"):
		p.spaces()
		p.must("with", "starts with")
		return leaf(starts, key, p.string())
	case p.take("ends"):
		p.spaces()
		p.must("with", "ends with")
		return leaf(ends, key, p.string())
	case p.take("in"):
		return In(key, p.set()...)
	case p.take("not"):
		p.spaces()
		p.must("in", "not in")
		return Not(In(key, p.set()...))
	}
	p.fail("==, !=, in, not in, contains, starts with or ends with, after a label's name")
	return nil
}

func (p *parser) label(want string) string {
	end := p.at
	for end < len(p.text) && isLabel(p.text[end]) {
		end++
	}
	if end == p.at {
		p.fail(want)
	}
	key := p.text[p.at:end]
	p.at = end
	p.blanks()
	return key
}

func isLabel(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("_./-", c) >= 0
}

func (p *parser) string() string {
	if p.at == len(p.text) || p.text[p.at] != '\'' && p.text[p.at] != '"' {
		p.fail("a string in quotes")
	}
	n := strings.IndexByte(p.text[p.at+1:], p.text[p.at])
	if n < 0 {
		p.fail("a string that ends with the quote it begins with")
	}
	s := p.text[p.at+1 : p.at+1+n]
	p.at += n + 2
	p.blanks()
	return s
}

func (p *parser) set() []string {
	p.must("{", "{ and strings in quotes")
	var values []string
	for !p.take("}") {
		values = append(values, p.string())
		if !p.take(",") {
			p.must("}", ", or }")
			break
		}
	}
	return values
}
