package migrate

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"terway.dev/terway/internal/config"
)

// ConfigMaps that the existing Terway's repository publishes: a plan names what each loses, and what its configuration lacks.
func TestPublicConfigMaps(t *testing.T) {
	data, err := os.ReadFile("testdata/public-configmaps.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var all []map[string]any
	if err := yaml.Unmarshal(data, &all); err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		source, _ := m["source"].(string)
		lost, incomplete := words(m["lost"]), words(m["incomplete"])
		delete(m, "source")
		delete(m, "lost")
		delete(m, "incomplete")
		o := terway("", "")
		o.ConfigMaps[0].Data = map[string]string{}
		for key, value := range m {
			text, isText := value.(string)
			if !isText {
				b, err := json.MarshalIndent(value, "", "  ")
				if err != nil {
					t.Fatal(err)
				}
				text = string(b)
			}
			o.ConfigMaps[0].Data[key] = text
		}
		p := plan(t, o, Ask{})
		want := slices.Sorted(slices.Values(append(lost, lostENIs, lostLeftovers)))
		if !slices.Equal(p.names(), want) || len(p.Problems) > 0 {
			t.Errorf("%s: lost %q, want %q; problems %q", source, p.names(), want, p.Problems)
		}
		old, err := find(o)
		if err != nil {
			t.Fatal(err)
		}
		var lacks []string
		if old.conversion.Problem != nil {
			for line := range strings.Lines(old.conversion.Problem.Error()) {
				key, _, _ := strings.Cut(line, " ")
				lacks = append(lacks, strings.TrimSuffix(key, ":"))
			}
		}
		if slices.Sort(lacks); !slices.Equal(lacks, incomplete) {
			t.Errorf("%s: its configuration lacks %q, want %q: %v", source, lacks, incomplete, old.conversion.Problem)
		}
		// With what it lacks it is valid.
		for key, value := range map[string]any{"cluster_id": "c1", "region": "cn-hongkong", "service_cidr": "172.21.0.0/20", "vswitches": map[string]any{"cn-hongkong-b": []any{"vsw-1"}}} {
			if slices.Contains(incomplete, key) {
				old.conversion.Config[key] = value
			}
		}
		text, err := yaml.Marshal(old.conversion.Config)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := config.Parse(text); err != nil {
			t.Errorf("%s: with %q: %v in\n%s", source, incomplete, err, text)
		}
	}
	if len(all) < 8 {
		t.Errorf("%d ConfigMaps", len(all))
	}
}

func words(v any) (list []string) {
	items, _ := v.([]any)
	for _, item := range items {
		list = append(list, item.(string))
	}
	return list
}
