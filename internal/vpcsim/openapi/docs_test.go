package openapi

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Every action of the server is in a table of docs/vpcsim.md, and the tables have only these
// and those marked as missing.
func TestEveryActionIsInTheDocs(t *testing.T) {
	text, err := os.ReadFile("../../../docs/vpcsim.md")
	if err != nil {
		t.Fatal(err)
	}
	heading := regexp.MustCompile(`^### \w+ (\d{4}-\d\d-\d\d)$`)
	row := regexp.MustCompile(`^\| (\w+) \| (done|partly|not) \| (.*)\|$`)
	there, not := map[string]map[string]bool{}, map[string]map[string]bool{}
	version := ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		if m := heading.FindStringSubmatch(line); m != nil {
			version = m[1]
			there[version], not[version] = map[string]bool{}, map[string]bool{}
			continue
		}
		if version == "" || !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "| action") || strings.HasPrefix(line, "|---") {
			continue
		}
		m := row.FindStringSubmatch(line)
		if m == nil {
			t.Errorf("not a row of an action: %s", line)
			continue
		}
		name, is, missing := m[1], m[2], strings.TrimSpace(m[3])
		if there[version][name] || not[version][name] {
			t.Errorf("%s %s is there twice", version, name)
		}
		if (is == "partly") != (missing != "") {
			t.Errorf("%s %s is %s, missing is %q", version, name, is, missing)
		}
		if is == "not" {
			not[version][name] = true
		} else {
			there[version][name] = true
		}
	}
	// The ECS version has the actions of VPC too, which the docs describe in one sentence.
	const ecs, vpc = "2014-05-26", "2016-04-28"
	maps.Copy(there[ecs], there[vpc])
	for version, product := range byVersion(products()) {
		known := slices.Sorted(maps.Keys(product.actions))
		if want := slices.Sorted(maps.Keys(there[version])); !slices.Equal(known, want) {
			for _, name := range known {
				if !there[version][name] {
					t.Errorf("%s %s is known, and not in the docs", version, name)
				}
			}
			for _, name := range want {
				if _, ok := product.actions[name]; !ok {
					t.Errorf("%s %s is in the docs, and not known", version, name)
				}
			}
		}
		for name := range not[version] {
			if _, ok := product.actions[name]; ok {
				t.Errorf("%s %s is known, and the docs mark it as missing", version, name)
			}
		}
	}
	for version := range there {
		if _, ok := byVersion(products())[version]; !ok {
			t.Errorf("the docs have version %s, which is not known", version)
		}
	}
}
