package docs

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"
)

// TestLinks: relative links lead to files of the repository, and to headings that exist.
func TestLinks(t *testing.T) {
	all := pages(t)
	anchors := map[string]map[string]bool{}
	for i := range all {
		anchors[all[i].Path] = headings(&all[i])
	}
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	checked := 0
	for i := range all {
		p := &all[i]
		for n, line := range prose(p) {
			for _, m := range link.FindAllStringSubmatch(line, -1) {
				if strings.Contains(m[1], "://") {
					continue
				}
				checked++
				file, anchor, _ := strings.Cut(m[1], "#")
				target := p.Path
				if file != "" {
					target = path.Join(path.Dir(p.Path), file)
				}
				if _, err := os.Stat(filepath.Join(root, target)); err != nil {
					t.Errorf("%s:%d: %s: no such file", p.Path, n+1, m[1])
				} else if anchor != "" && !anchors[target][anchor] {
					t.Errorf("%s:%d: %s: %s has no such heading", p.Path, n+1, m[1], target)
				}
			}
		}
	}
	if checked < 100 {
		t.Errorf("only %d links were found", checked)
	}
}

// headings returns the anchors that GitHub makes of a page's headings.
func headings(p *Page) map[string]bool {
	found := map[string]bool{}
	for _, line := range prose(p) {
		level := len(line) - len(strings.TrimLeft(line, "#"))
		if level == 0 || !strings.HasPrefix(line[level:], " ") {
			continue
		}
		anchor := strings.Map(func(r rune) rune {
			switch {
			case unicode.IsLetter(r), unicode.IsDigit(r), r == '-', r == '_':
				return unicode.ToLower(r)
			case r == ' ':
				return '-'
			}
			return -1
		}, strings.TrimSpace(line[level:]))
		unique := anchor
		for i := 1; found[unique]; i++ {
			unique = fmt.Sprint(anchor, "-", i)
		}
		found[unique] = true
	}
	return found
}
