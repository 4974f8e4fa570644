package chartvalues

import (
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

const good = `
eniConfig: {cluster_id: c, region: cn-hangzhou, service_cidr: 172.21.0.0/20, vswitches: {cn-hangzhou-i: [vsw-1]}}
credentials: {existingSecret: terway}
`

// What Helm refuses is refused, by the name of the value.
func TestCheck(t *testing.T) {
	for more, want := range map[string][]string{
		"":                        nil,
		"policy: {enabled: true}": nil,
		"policy: null":            nil, // Helm takes it for the default's removal
		"foo: 1":                  {"the values: additional properties 'foo' not allowed"},
		"admission: {port: many}": {"admission.port: got string, want integer"},
		"image: {pullPolicy: Sometimes, tagg: x}": {
			"image.pullPolicy: value must be one of 'Always', 'IfNotPresent', 'Never'", "image: additional properties 'tagg' not allowed",
		},
	} {
		var values map[string]any
		if err := yaml.Unmarshal([]byte(good+more), &values); err != nil {
			t.Fatal(err)
		}
		got, err := Check(values)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("%s: %q, want %q", more, got, want)
		}
	}
}
