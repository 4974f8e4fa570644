package decode

import (
	"reflect"
	"strings"
	"testing"
)

func TestYAML(t *testing.T) {
	one := map[string]any{"a": 1.0}
	for text, want := range map[string]any{
		"a: 1":                        one,
		`{"a": 1}`:                    one,
		"# of a chart\n---\na: 1\n":   one,
		"a: 1\n---\n":                 one,
		"a: 1\n...\n# nothing more\n": one,
		"":                            nil,
		"[a, 2]":                      []any{"a", 2.0},
		"a: 1\n---\nb: 2\n":           "more than one YAML document",
		"---\n---\na: 1\n":            "more than one YAML document",
		"a: 1\n---\na: [\n":           "more than one YAML document",
		"a: 1\na: 2\n":                `key "a" already set`,
		"a: [":                        "not YAML",
	} {
		got, err := YAML([]byte(text))
		if wrong, ok := want.(string); ok {
			if err == nil || !strings.Contains(err.Error(), wrong) {
				t.Errorf("%q: %v, %v; want an error with %q", text, got, err, wrong)
			}
		} else if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %v, %v; want %v", text, got, err, want)
		}
	}
}
