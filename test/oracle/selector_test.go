// Package oracle compares the product with independent implementations: selectors, and what
// they select in rules, with Calico; NetworkPolicies with cyclonus.
package oracle

import (
	"strings"
	"testing"

	calico "github.com/projectcalico/calico/libcalico-go/lib/selector"
	"pgregory.net/rapid"

	"terway.dev/terway/internal/policy/selector"
)

// words are the tokens of selectors, and similar ones.
var words = rapid.SampledFrom([]string{
	"a", "b", "c", "has", "in", "all", "a-b", "x.y/z", "contains", "not",
	"'x'", `"x"`, "''", "'xy'", `'"'`, `"'"`, "'b'", "'", `"`,
	"==", "!=", "=", "!", "&&", "||", "&", "|", "(", ")", "{", "}", ",",
	"has(a)", "has( b )", "has(c", "has()", "all()", "all( )", "all(a)", "global()",
	" in ", "in", "not in", "notin", "not\tin", "contains", "starts with", "startswith", "ends with", "ends  with", "starts", "with",
	"a == 'x'", "b != 'x'", "a in {'x', 'y'}", "a not in {'x',}", "c contains 'x'", "b starts with 'x'", "a ends with 'y'",
	"é", "\n", "\x00", "1",
})

// texts are random tokens, and valid selectors with tokens removed or added.
var texts = rapid.Custom(func(t *rapid.T) string {
	blank := rapid.SampledFrom([]string{"", " ", "  ", "\t", " ", " "})
	if rapid.Bool().Draw(t, "soup") {
		var b strings.Builder
		for _, w := range rapid.SliceOfN(words, 0, 8).Draw(t, "words") {
			b.WriteString(w + blank.Draw(t, "blank"))
		}
		return b.String()
	}
	s := expression(3).Draw(t, "expression")
	if rapid.Bool().Draw(t, "whole") || s == "" {
		return s
	}
	at := rapid.IntRange(0, len(s)-1).Draw(t, "at")
	switch rapid.IntRange(0, 2).Draw(t, "hurt") {
	case 0:
		return s[:at] + s[at+1:]
	case 1:
		return s[:at] + words.Draw(t, "word") + s[at:]
	}
	return s[:at]
})

func expression(deep int) *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		key := rapid.SampledFrom([]string{"a", "b", "c", "has", "in"}).Draw(t, "key")
		value := rapid.SampledFrom([]string{"'x'", `"y"`, "'xy'", "''", `'"'`}).Draw
		blank := rapid.SampledFrom([]string{"", " ", "\t "}).Draw
		kinds := 7
		if deep > 0 {
			kinds = 11
		}
		switch rapid.IntRange(0, kinds-1).Draw(t, "kind") {
		case 0:
			return "has(" + blank(t, "") + key + blank(t, "") + ")"
		case 1:
			return key + blank(t, "") + rapid.SampledFrom([]string{"==", "!="}).Draw(t, "op") + blank(t, "") + value(t, "")
		case 2, 3:
			list := rapid.SliceOfN(rapid.SampledFrom([]string{"'x'", `"y"`, "'xy'"}), 0, 3).Draw(t, "list")
			return key + " " + rapid.SampledFrom([]string{"in", "not in", "notin"}).Draw(t, "op") + blank(t, "") + "{" + strings.Join(list, ","+blank(t, "")) + "}"
		case 4, 5:
			return key + " " + rapid.SampledFrom([]string{"contains", "starts with", "ends with", "startswith"}).Draw(t, "op") + blank(t, "") + value(t, "")
		case 6:
			return rapid.SampledFrom([]string{"all()", "global()"}).Draw(t, "word")
		case 7:
			return "!" + blank(t, "") + expression(deep-1).Draw(t, "x")
		case 8:
			return "(" + expression(deep-1).Draw(t, "x") + blank(t, "") + ")"
		default:
			op := rapid.SampledFrom([]string{"&&", "||"}).Draw(t, "op")
			return expression(deep-1).Draw(t, "x") + blank(t, "") + op + blank(t, "") + expression(deep-1).Draw(t, "y")
		}
	})
}

var labels = rapid.MapOf(rapid.SampledFrom([]string{"a", "b", "c", "has", "in", "a-b"}), rapid.SampledFrom([]string{"", "x", "y", "xy", "yx", `"`}))

// A text is a valid selector for both or for neither, and then both match the same labels.
func TestSelectorIsCalicos(t *testing.T) {
	right, wrong, matched := 0, 0, 0
	rapid.Check(t, func(t *rapid.T) {
		text := texts.Draw(t, "text")
		theirs, theirErr := calico.Parse(text)
		ours, global, err := selector.ParseNamespaces(text)
		if (err == nil) != (theirErr == nil) {
			t.Fatalf("%q: ours gives %v, Calico's %v", text, err, theirErr)
		}
		if err != nil {
			wrong++
			return
		}
		right++
		// Calico accepts global() as all() here; where it may not be used, ours refuses it.
		plain, err := selector.Parse(text)
		if err != nil {
			if !strings.Contains(text, "global(") {
				t.Fatalf("%q of labels: %v", text, err)
			}
		} else {
			for range 10 {
				m := labels.Draw(t, "labels")
				if theirs.Evaluate(m) != plain.Matches(selector.Map(m)) {
					t.Fatalf("%q, that is %s, of %v: Calico's gives %v", text, plain, m, theirs.Evaluate(m))
				}
				if theirs.Evaluate(m) {
					matched++
				}
			}
			again, err := calico.Parse(plain.String())
			if err != nil {
				t.Fatalf("%q is %s, which is invalid for Calico: %v", text, plain, err)
			}
			if m := labels.Draw(t, "labels"); again.Evaluate(m) != theirs.Evaluate(m) {
				t.Fatalf("%q is %s: not the same for Calico, of %v", text, plain, m)
			}
		}
		// For a namespace Calico uses a text in which all() and global() are replaced.
		if text == "" {
			return
		}
		asked := strings.ReplaceAll(strings.ReplaceAll(theirs.String(), "all()", "has(namespaced)"), "global()", "!has(namespaced)")
		of, err := calico.Parse(asked)
		if err != nil {
			t.Fatal(err)
		}
		if of.Evaluate(nil) != global {
			t.Fatalf("%q selects what has no namespace: ours gives %v, Calico's %v", text, global, !global)
		}
		for range 10 {
			m := labels.Draw(t, "labels")
			want := ours.Matches(selector.Map(m))
			m["namespaced"] = ""
			if of.Evaluate(m) != want {
				t.Fatalf("%q of a namespace with %v: ours gives %v", text, m, want)
			}
		}
	})
	t.Logf("%d selectors, of which %d answers were yes; %d texts that are none", right, matched, wrong)
	if right == 0 || wrong == 0 || matched == 0 {
		t.Error("the generator asks one thing only")
	}
}
