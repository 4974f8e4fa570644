package config

import (
	"os"
	"strings"
	"testing"
)

// The page has a row for every key, and no other rows.
func TestPageHasEveryKey(t *testing.T) {
	page, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]bool{}
	table, _, _ := strings.Cut(string(page), "## How many")
	for _, line := range strings.Split(table, "\n") {
		if rest, ok := strings.CutPrefix(line, "| `"); ok {
			name, _, _ := strings.Cut(rest, "`")
			rows[name] = true
			if k := find(name); k != nil && (k.fixed != "") != strings.Contains(line, "| cannot change:") {
				t.Errorf("docs/configuration.md: the row of %s and the program disagree on whether it can change", name)
			}
		}
	}
	for _, k := range names() {
		if !rows[k] {
			t.Errorf("docs/configuration.md has no row for %s", k)
		}
		delete(rows, k)
	}
	for k := range rows {
		t.Errorf("docs/configuration.md has a row for %s, which is not a key", k)
	}
}
