package docs

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestTranslations: a translated page has the English page's headings, tables and blocks; what is in a block differs at most in
// comments.
func TestTranslations(t *testing.T) {
	byPath := map[string]*Page{}
	all := pages(t)
	for i := range all {
		byPath[all[i].Path] = &all[i]
	}
	compared := 0
	for _, p := range all {
		if !p.Translated() {
			continue
		}
		compared++
		english := byPath[strings.Replace(strings.Replace(p.Path, "docs/zh/", "docs/", 1), ".zh-CN.md", ".md", 1)]
		if english == nil {
			t.Errorf("%s translates no page", p.Path)
			continue
		}
		wantNames, gotNames := named(english), named(&p)
		for i := range max(len(wantNames), len(gotNames)) {
			if w, g := at(wantNames, i), at(gotNames, i); w.text != g.text {
				t.Errorf("the section at %s:%d names %s, and that at %s:%d names %s", p.Path, g.line, g.text, english.Path, w.line, w.text)
				break
			}
		}
		want, got := outline(english), outline(&p)
		for i := range max(len(want), len(got)) {
			w, g := at(want, i), at(got, i)
			if w.text != g.text {
				t.Errorf("%s:%d has %q where %s:%d has %q", p.Path, g.line, g.text, english.Path, w.line, w.text)
				break
			}
		}
	}
	if compared < 3 {
		t.Errorf("only %d translated pages were found", compared)
	}
}

// names are those that are the same in both languages: what one needs, or meets.
var names = regexp.MustCompile(`\b(Helm|helm|kubectl|kubeadm|aliyun|Go|Debian|RRSA|Flannel|Calico|NAT|SNAT|CoreDNS|kube-proxy|Lease|RAM|ECS|NLB|CLB)\b`)

// named returns the names in each section of a page.
func named(p *Page) []part {
	parts, seen := []part{{line: 1}}, []string{}
	for i, line := range append(prose(p), "#") {
		if strings.HasPrefix(line, "#") {
			slices.Sort(seen)
			parts[len(parts)-1].text = fmt.Sprint(slices.Compact(seen))
			parts, seen = append(parts, part{line: i + 1}), nil
		}
		seen = append(seen, names.FindAllString(line, -1)...)
	}
	return parts
}

// part is what a translation has in common with its page.
type part struct {
	line int
	text string
}

func at(parts []part, i int) part {
	if i < len(parts) {
		return parts[i]
	}
	return part{}
}

// outline returns a page's headings (their levels), rows of tables (their number of columns), and blocks without comments.
func outline(p *Page) []part {
	var parts []part
	code := map[int]string{}
	for _, b := range p.Blocks {
		for i, line := range b.Code {
			line, _, _ = strings.Cut(line, " #")
			code[b.Line+i] = b.Info + ": " + strings.TrimRight(line, " ")
		}
	}
	for i, line := range prose(p) {
		if text, ok := code[i+1]; ok {
			parts = append(parts, part{i + 1, text})
		} else if level := len(line) - len(strings.TrimLeft(line, "#")); level > 0 {
			parts = append(parts, part{i + 1, line[:level]})
		} else if strings.HasPrefix(line, "|") {
			parts = append(parts, part{i + 1, fmt.Sprint("row of ", strings.Count(line, "|"))})
		}
	}
	return parts
}
