package chart

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

//go:generate go test -run TestReadme -update .

var update = flag.Bool("update", false, "write the tables of the chart's README instead of comparing them")

// TestReadme: the tables of the chart's README have what Chart.yaml says, and every value that the schema knows, with the default and the comment
// of values.yaml.
func TestReadme(t *testing.T) {
	readme, values, schema := dir+"README.md", map[string]any{}, struct {
		Properties map[string]struct{ Properties map[string]any }
	}{}
	text, err := os.ReadFile(dir + "values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	read(t, dir+"values.yaml", func(b []byte, v any) error { return yaml.Unmarshal(b, v) }, &values)
	read(t, dir+"values.schema.json", json.Unmarshal, &schema)

	var about struct {
		KubeVersion string
		Keywords    []string
		Maintainers []struct{ Name string }
		Annotations map[string]string
	}
	read(t, dir+"Chart.yaml", func(b []byte, v any) error { return yaml.Unmarshal(b, v) }, &about)
	var tables strings.Builder
	fmt.Fprintf(&tables, "\n| `Chart.yaml` | |\n|---|---|\n| Kubernetes | `%s` |\n| license | %s |\n| maintainers |", about.KubeVersion, about.Annotations["artifacthub.io/license"])
	for _, m := range about.Maintainers {
		tables.WriteString(" " + m.Name)
	}
	fmt.Fprintf(&tables, " |\n| keywords | %s |\n", strings.Join(about.Keywords, ", "))
	section, comment, rows := "", []string{}, map[string]bool{}
	row := func(key, def string) {
		if len(rows) == 0 || !slices.ContainsFunc(keys(rows), func(k string) bool { return strings.HasPrefix(k, section+".") }) {
			tables.WriteString("| value | default | meaning |\n|---|---|---|\n")
		}
		fmt.Fprintf(&tables, "| `%s.%s` | `%s` | %s |\n", section, key, def, strings.ReplaceAll(strings.Join(comment, " "), "|", `\|`))
		rows[section+"."+key] = true
		comment = nil
	}
	top, unset, key := regexp.MustCompile(`^([a-zA-Z]+):`), regexp.MustCompile(`^  # ([a-z_]+): (.*)$`), regexp.MustCompile(`^  ([a-zA-Z_]+):`)
	for _, line := range strings.Split(string(text), "\n") {
		known := func(m []string) bool {
			if m == nil {
				return false
			}
			_, ok := schema.Properties[section].Properties[m[1]]
			return ok
		}
		if m := top.FindStringSubmatch(line); m != nil {
			section = m[1]
			fmt.Fprintf(&tables, "\n## %s\n\n", section)
			if len(comment) > 0 {
				fmt.Fprintf(&tables, "%s\n\n", strings.Join(comment, "\n"))
			}
			comment = nil
		} else if m := unset.FindStringSubmatch(line); known(m) {
			row(m[1], m[2])
		} else if m := key.FindStringSubmatch(line); m != nil {
			def, err := json.Marshal(values[section].(map[string]any)[m[1]])
			if err != nil {
				t.Fatal(err)
			}
			if plain, err := strconv.Unquote(string(def)); err == nil && plain != "" {
				def = []byte(plain)
			}
			row(m[1], string(def))
		} else if trimmed := strings.TrimPrefix(line, "  "); strings.HasPrefix(trimmed, "# ") {
			comment = append(comment, strings.TrimPrefix(trimmed, "# "))
		} else if line == "" {
			comment = nil
		}
	}
	for name, s := range schema.Properties {
		for key := range s.Properties {
			if !rows[name+"."+key] {
				t.Errorf("values.yaml does not show %s.%s, which the schema knows", name, key)
			}
		}
	}

	const begin = "<!-- values -->\n"
	old, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	own, _, ok := strings.Cut(string(old), begin)
	if !ok {
		t.Fatalf("README.md has no line %q", begin)
	}
	want := own + begin + tables.String()
	if *update {
		if err := os.WriteFile(readme, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if want != string(old) {
		t.Error("README.md of the chart does not say what values.yaml says: go generate ./test/chart")
	}
}
