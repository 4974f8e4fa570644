package selector

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
)

func ExampleParse() {
	s, err := Parse("!(role != 'db' || tier in {'x', 'y'}) && has(owner)")
	if err != nil {
		panic(err)
	}
	fmt.Println(s)
	fmt.Println(s.Matches(Map{"role": "db", "owner": "anna"}), s.Matches(Map{"role": "db", "tier": "x", "owner": "anna"}))

	_, err = Parse("role = 'db'")
	fmt.Println(err)
	// Output:
	// has(owner) && role == "db" && tier not in {"x", "y"}
	// true false
	// selector "role = 'db'" has "= 'db'" at position 6: want ==, !=, in, not in, contains, starts with or ends with, after a label's name
}

func TestMatches(t *testing.T) {
	labels := Map{"a": "b", "app": "web-1", "empty": "", "example.com/x": "y"}
	for text, want := range map[string]bool{
		"":                                 true,
		" \t":                              true,
		"all()":                            true,
		"all( )":                           true,
		"!all()":                           false,
		"a == 'b'":                         true,
		`a=="b"`:                           true,
		"a == 'c'":                         false,
		"c == 'b'":                         false,
		"a != 'b'":                         false,
		"c != 'b'":                         true, // absent
		"! a == 'b'":                       false,
		"!!a == 'b'":                       true,
		"a in {'b','c'}":                   true,
		"a in{'b',}":                       true,
		"a in {}":                          false,
		"a not in {}":                      true,
		"a notin {'b'}":                    false,
		"a not \t in{'c'}":                 true,
		"c not in {'b'}":                   true, // absent
		"app contains 'b-'":                true,
		"app contains''":                   true,
		"c contains ''":                    false,
		"!c contains 'x'":                  true, // absent
		"app starts with 'web'":            true,
		"app startswith 'eb'":              false,
		"app ends  with '-1'":              true,
		"empty ends with ''":               true,
		"has(empty)":                       true,
		"has( c )":                         false,
		"example.com/x == 'y'":             true,
		"a == 'b' || c == 'c' && !all()":   true, // && binds closer
		"(a == 'b' || c == 'c') && !all()": false,
		"has == 'x'":                       false, // a label
		"!has(in) && contains != 'x' && all != 'x'": true,
		"a == '\"'":  false,
		"a == 'b\n'": false,
	} {
		s, err := Parse(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if got := s.Matches(labels); got != want {
			t.Errorf("%q, that is %s, says %v, want %v", text, s, got, want)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for text, want := range map[string]string{
		"a":              `has the end at position 2: want ==`,
		"a == b":         `has "b" at position 6: want a string in quotes`,
		"a == 'b":        `has "'b" at position 6: want a string that ends with the quote`,
		"a == 'b' &&":    `has the end at position 12: want a label's name`,
		"a == 'b' & c":   `has "& c" at position 10: want &&, || or the end`,
		"a starts 'b'":   `has "'b'" at position 10: want starts with`,
		"a not 'b'":      `has "'b'" at position 7: want not in`,
		"a in {'b' 'c'}": `has "'c'}" at position 11: want , or }`,
		"a in {,}":       `has ",}" at position 7: want a string`,
		"a in 'b'":       `has "'b'" at position 6: want { and strings`,
		"(a == 'b'":      `has the end at position 10: want &&, || or )`,
		"a == 'b')":      `has ")" at position 9: want &&, || or the end`,
		"has(a":          `has the end at position 6: want ) after`,
		"has (a)":        `has "(a)" at position 5: want ==`,
		"has()":          `has ")" at position 5: want a label's name`,
		"all(x)":         `has "x)" at position 5: want )`,
		"a == 'b'\n":     `at position 9: want &&, || or the end`,
		"!= 'x'":         `at position 1: want a label's name`,
		"global()":       `has "global()" at position 1: want labels: global() is for a rule's namespaceSelector`,
		"é == 'b'":       `at position 1: want a label's name`,
		strings.Repeat("(", 513) + "a == 'b'" + strings.Repeat(")", 513): "nested 512 deep",
	} {
		_, err := Parse(text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %q", text, err, want)
		}
	}
	if _, err := Parse(strings.Repeat("(", 512) + "a == 'b'" + strings.Repeat(")", 512)); err != nil {
		t.Error(err)
	}
}

// Selectors that are equivalent in these ways have equal Strings.
func TestCanonical(t *testing.T) {
	for want, texts := range map[string][]string{
		"all()":                            {"", "!!all()", "a == 'b' || all()", "a == 'b' || a != 'b'", "a not in {}", "has(a) || !has(a)", "(a == 'b' || c == 'd') || (a != 'b' && c != 'd')"},
		"!all()":                           {"a in {}", "a == 'b' && a == 'c'", "a == 'b' && !has(a)", "(a == 'b' || c == 'd') && a != 'b' && c != 'd'", "a starts with 'x' && !a starts with 'x'", "a == 'xy' && a starts with 'y'"},
		`a == "b"`:                         {"a in {'b'}", "!(a != 'b')", "has(a) && a == 'b'", "a in {'b', 'c'} && a != 'c'", "a in {'b', 'c'} && a ends with 'b'", "a == 'b' && (a == 'b' || c == 'd')", "!a not in {'b'}"},
		`a in {"b", "c"}`:                  {"a == 'c' || a == 'b'", "a in {'c','b','c'}"},
		`a not in {"b", "c"}`:              {"a != 'c' && a != 'b'", "!(a == 'b' || a == 'c')"},
		`!has(a)`:                          {"!has(a) && a != 'x'", "!a contains ''"},
		`has(a)`:                           {"a starts with ''"},
		`a == "b" || (c == "d" && has(e))`: {"has(e) && c == 'd' || a == 'b'", "!(a != 'b' && (c != 'd' || !has(e)))"},
		`a == 'x"'`:                        {`a == 'x"'`},
		`!a contains "x"`:                  {"!a contains 'x'", "!(a contains 'x')"},
	} {
		for _, text := range texts {
			s, err := Parse(text)
			if err != nil {
				t.Errorf("%q: %v", text, err)
			} else if s.String() != want {
				t.Errorf("%q is %s, want %s", text, s, want)
			}
		}
	}
}

func TestParseNamespaces(t *testing.T) {
	for _, c := range []struct {
		text, namespaces string
		global           bool
	}{
		{"", "all()", true},
		{" ", "all()", false},
		{"all()", "all()", false},
		{"global()", "!all()", true},
		{"!global()", "all()", false},
		{"global() || a == 'b'", `a == "b"`, true},
		{"all() || global()", "all()", true},
		{"!has(a)", "!has(a)", true},
		{"all() && !has(a)", "!has(a)", false},
		{"a != 'b'", `a != "b"`, true},
		{"projectcalico.org/name == 'x'", `projectcalico.org/name == "x"`, false},
	} {
		s, global, err := ParseNamespaces(c.text)
		if err != nil {
			t.Errorf("%q: %v", c.text, err)
		} else if s.String() != c.namespaces || global != c.global {
			t.Errorf("%q selects namespaces with %s, and what has none: %v; want %s, %v", c.text, s, global, c.namespaces, c.global)
		}
	}
	var e *Error
	if _, _, err := ParseNamespaces("global("); !errors.As(err, &e) || e.Offset != 7 {
		t.Errorf("error %v", err)
	}
}

func TestFromKubernetes(t *testing.T) {
	s, err := FromKubernetes(&metav1.LabelSelector{
		MatchLabels: map[string]string{"app": "web"},
		MatchExpressions: []metav1.LabelSelectorRequirement{
			{Key: "tier", Operator: metav1.LabelSelectorOpNotIn, Values: []string{"b", "a"}},
			{Key: "env", Operator: metav1.LabelSelectorOpIn, Values: []string{"test"}},
			{Key: "x", Operator: metav1.LabelSelectorOpExists},
			{Key: "y", Operator: metav1.LabelSelectorOpDoesNotExist},
		},
	}, "spec.podSelector")
	if want := `!has(y) && app == "web" && env == "test" && has(x) && tier not in {"a", "b"}`; err != nil || s.String() != want {
		t.Errorf("%v, %v, want %s", s, err, want)
	}
	if s, err := FromKubernetes(&metav1.LabelSelector{}, ""); err != nil || !s.Always() {
		t.Errorf("the empty selector is %v, %v", s, err)
	}
	if s, err := FromKubernetes(nil, ""); err != nil || s != nil {
		t.Errorf("nil is %v, %v", s, err)
	}
	for _, bad := range []metav1.LabelSelector{
		{MatchLabels: map[string]string{"app": `"'`}},
		{MatchLabels: map[string]string{"a b": "c"}},
		{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Like", Values: []string{"b"}}}},
		{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: metav1.LabelSelectorOpIn}}},
	} {
		if s, err := FromKubernetes(&bad, "spec.podSelector"); err == nil || !strings.Contains(err.Error(), "spec.podSelector.match") {
			t.Errorf("%v is %v, %v", bad, s, err)
		}
	}
}

// A term is a selector as its author thinks of it, with a predicate of its own.
type term struct {
	text    string
	matches func(Map) bool
}

var (
	keys   = rapid.SampledFrom([]string{"a", "b", "c"})
	values = rapid.SampledFrom([]string{"", "x", "y", "xy", "yx", `"`, "'"})
	maps3  = rapid.MapOf(keys, values)
)

func quote(v string) string {
	if strings.Contains(v, "'") {
		return `"` + v + `"`
	}
	return "'" + v + "'"
}

func terms(deep int) *rapid.Generator[term] {
	return rapid.Custom(func(t *rapid.T) term {
		kinds := 9
		if deep > 0 {
			kinds = 12
		}
		key := keys.Draw(t, "key")
		v := values.Draw(t, "value")
		set := rapid.SliceOfN(values, 0, 3).Draw(t, "set")
		quoted := make([]string, len(set))
		for i, v := range set {
			quoted[i] = quote(v)
		}
		list := "{" + strings.Join(quoted, ", ") + "}"
		ask := func(text string, absent bool, f func(string) bool) term {
			return term{text, func(m Map) bool {
				v, ok := m[key]
				return !ok && absent || ok && f(v)
			}}
		}
		switch rapid.IntRange(0, kinds-1).Draw(t, "kind") {
		case 0:
			return ask("has("+key+")", false, func(string) bool { return true })
		case 1:
			return ask(key+" == "+quote(v), false, func(s string) bool { return s == v })
		case 2:
			return ask(key+" != "+quote(v), true, func(s string) bool { return s != v })
		case 3:
			return ask(key+" in "+list, false, func(s string) bool { return slices.Contains(set, s) })
		case 4:
			return ask(key+" not in "+list, true, func(s string) bool { return !slices.Contains(set, s) })
		case 5:
			return ask(key+" contains "+quote(v), false, func(s string) bool { return strings.Contains(s, v) })
		case 6:
			return ask(key+" starts with "+quote(v), false, func(s string) bool { return strings.HasPrefix(s, v) })
		case 7:
			return ask(key+" ends with "+quote(v), false, func(s string) bool { return strings.HasSuffix(s, v) })
		case 8:
			return term{"all()", func(Map) bool { return true }}
		case 9:
			x := terms(deep-1).Draw(t, "not")
			return term{"!(" + x.text + ")", func(m Map) bool { return !x.matches(m) }}
		case 10:
			x, y := terms(deep-1).Draw(t, "x"), terms(deep-1).Draw(t, "y")
			return term{"(" + x.text + ") && (" + y.text + ")", func(m Map) bool { return x.matches(m) && y.matches(m) }}
		default:
			x, y := terms(deep-1).Draw(t, "x"), terms(deep-1).Draw(t, "y")
			return term{"(" + x.text + ") || (" + y.text + ")", func(m Map) bool { return x.matches(m) || y.matches(m) }}
		}
	})
}

// Whatever the canonical form does to a selector, it goes on matching the same labels; and
// the form of the form is itself.
func TestCanonicalMatchesTheSame(t *testing.T) {
	seen := map[bool]int{}
	rapid.Check(t, func(t *rapid.T) {
		x := terms(4).Draw(t, "term")
		s, err := Parse(x.text)
		if err != nil {
			t.Fatalf("%q: %v", x.text, err)
		}
		again, err := Parse(s.String())
		if err != nil || again.String() != s.String() {
			t.Fatalf("%q is %s, and that is %v, %v", x.text, s, again, err)
		}
		if twice := Not(Not(s)); twice.String() != s.String() {
			t.Fatalf("the opposite's opposite of %s is %s", s, twice)
		}
		for range 20 {
			m := Map(maps3.Draw(t, "labels"))
			want := x.matches(m)
			seen[want]++
			if s.Matches(m) != want || again.Matches(m) != want || Not(s).Matches(m) == want {
				t.Fatalf("%q, that is %s, of %v: %v; its opposite %s: %v; want %v", x.text, s, m, s.Matches(m), Not(s), Not(s).Matches(m), want)
			}
			if !want && s.Always() || want && s.Never() {
				t.Fatalf("%s: always %v, never %v, but %v: %v", s, s.Always(), s.Never(), m, want)
			}
			for _, r := range s.Requires() {
				if v, ok := m[r.Key]; want && (!ok || r.Values != nil && !slices.Contains(r.Values, v)) {
					t.Fatalf("%s matches %v and requires %v", s, m, s.Requires())
				}
			}
		}
	})
	t.Logf("matched %d, did not match %d", seen[true], seen[false])
	if seen[true] == 0 || seen[false] == 0 {
		t.Error("the generator asks one thing only")
	}
}

func TestRequires(t *testing.T) {
	for text, want := range map[string]string{
		"a == 'b'":                                "[{a [b]}]",
		"a == 'b' && c in {'d', 'e'}":             "[{a [b]} {c [d e]}]",
		"a == 'b' || a == 'c' && has(d)":          "[{a [b c]}]",
		"a == 'b' || has(a)":                      "[{a []}]",
		"a == 'b' || c == 'd'":                    "[]",
		"a != 'b'":                                "[]",
		"a starts with 'b' && !has(c)":            "[{a []}]",
		"a in {'x', 'y'} && (has(b) || c == 'd')": "[{a [x y]}]",
	} {
		s, err := Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(s.Requires()); got != want {
			t.Errorf("%s requires %s, want %s", s, got, want)
		}
	}
}

// Selectors come from users: no text does more than be refused.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"", "a == 'b'", "!(has(a) || b not in {'x', \"y\",}) && global()", "a startswith ''", "((all()", "a in {", "! = \x00"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse(text)
		namespaces, _, nerr := ParseNamespaces(text)
		if err == nil && (nerr != nil || text != "" && namespaces.String() != s.String()) {
			t.Fatalf("%q is %s, and of namespaces %v, %v", text, s, namespaces, nerr)
		}
		if nerr != nil {
			var e *Error
			if !errors.As(nerr, &e) || e.Offset < 0 || e.Offset > len(text) || e.Want == "" {
				t.Fatalf("%q: %#v", text, nerr)
			}
			return
		}
		if again, err := Parse(namespaces.String()); err != nil || again.String() != namespaces.String() {
			t.Fatalf("%q is %s, and that is %v, %v", text, namespaces, again, err)
		}
	})
}
