package chart

import (
	"maps"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"terway.dev/terway/test/docs"
)

// TestValuesOfInstallation: the chart takes the values that the installation page gives, each block on its own.
func TestValuesOfInstallation(t *testing.T) {
	pages, err := docs.Pages("../..")
	if err != nil {
		t.Fatal(err)
	}
	tried := 0
	for _, p := range pages {
		if p.Path != "docs/install.md" {
			continue
		}
		for _, b := range p.Blocks {
			if b.Info != "yaml" {
				continue
			}
			tried++
			var block map[string]any
			// The reader puts in his image's digest.
			code := strings.ReplaceAll(strings.Join(b.Code, "\n"), "sha256:…", "sha256:"+strings.Repeat("0", 64))
			if err := yaml.Unmarshal([]byte(code), &block); err != nil {
				t.Fatalf("line %d: %v", b.Line, err)
			}
			values := map[string]any{
				"eniConfig": map[string]any{"cluster_id": "c", "region": "cn-hangzhou", "service_cidr": "172.21.0.0/20",
					"vswitches": map[string]any{"cn-hangzhou-i": []any{"vsw-1"}}},
				"credentials": map[string]any{"existingSecret": "s"},
			}
			maps.Copy(values, block)
			if _, problem := helm.render(t, values); problem != "" {
				t.Errorf("line %d: %s", b.Line, problem)
			}
		}
	}
	if tried < 4 {
		t.Errorf("only %d blocks of values were found", tried)
	}
}
