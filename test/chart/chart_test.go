// Package chart keeps the Helm chart, its schema and the controller's configuration
// in step. Whether the chart works is proven by the lab, which is installed from it.
package chart

import (
	"encoding/json"
	"maps"
	"os"
	"slices"
	"testing"

	"sigs.k8s.io/yaml"

	"terway.dev/terway/internal/config"
)

const dir = "../../deploy/chart/"

// schema is as much of JSON schema as the chart's uses for structure.
type schema struct {
	Properties map[string]schema `json:"properties"`
}

func TestSchemaHasExactlyTheValues(t *testing.T) {
	var s schema
	read(t, dir+"values.schema.json", json.Unmarshal, &s)
	var values map[string]any
	read(t, dir+"values.yaml", func(b []byte, v any) error { return yaml.Unmarshal(b, v) }, &values)
	delete(s.Properties, "global") // Helm's own
	if got, want := keys(s.Properties), keys(values); !slices.Equal(got, want) {
		t.Fatalf("sections of the schema %v, of values.yaml %v", got, want)
	}
	for section, v := range values {
		if got, want := keys(s.Properties[section].Properties), keys(v.(map[string]any)); !slices.Equal(got, want) {
			t.Errorf("%s: the schema has %v, values.yaml %v", section, got, want)
		}
	}
}

// The controller refuses keys that it does not know, so the chart must have no other.
func TestDefaultsAreAConfiguration(t *testing.T) {
	var values struct {
		ENIConfig map[string]any `json:"eniConfig"`
	}
	read(t, dir+"values.yaml", func(b []byte, v any) error { return yaml.Unmarshal(b, v) }, &values)
	for k, v := range map[string]any{
		"cluster_id": "c", "region": "cn-hangzhou", "service_cidr": "172.21.0.0/20",
		"vswitches": map[string][]string{"cn-hangzhou-i": {"vsw-1"}},
	} {
		values.ENIConfig[k] = v
	}
	b, err := yaml.Marshal(values.ENIConfig)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := config.Parse(b); err != nil {
		t.Error(err)
	}
}

func read(t *testing.T, path string, decode func([]byte, any) error, into any) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := decode(b, into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

func keys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
