// Package chart keeps the Helm chart, its schema and the controller's configuration
// in step. Whether the chart works is proven by the lab, which is installed from it.
package chart

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/config"
	"terway.dev/terway/internal/controller/admit"
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
		want := keys(v.(map[string]any))
		if section == "eniConfig" {
			want = keys(documented(t))
		}
		if got := keys(s.Properties[section].Properties); !slices.Equal(got, want) {
			t.Errorf("%s: the schema has %v, values.yaml %v", section, got, want)
		}
	}
}

// documented are the values of eniConfig with those that stand in comments, as
// "# key: default".
func documented(t *testing.T) map[string]any {
	t.Helper()
	var text []byte
	read(t, dir+"values.yaml", func(b []byte, _ any) error { text = b; return nil }, nil)
	_, section, _ := strings.Cut(string(text), "\neniConfig:\n")
	section, _, _ = strings.Cut(section, "\n\n")
	out := map[string]any{}
	for _, line := range regexp.MustCompile(`(?m)^  (?:# )?([a-z_]+: .*)$`).FindAllStringSubmatch(section, -1) {
		var one map[string]any
		if err := yaml.Unmarshal([]byte(line[1]), &one); err != nil {
			continue // a sentence
		}
		for k, v := range one {
			if k != "flannel" { // a sentence that begins with the network it is about
				out[k] = v
			}
		}
	}
	return out
}

// The controller refuses keys that it does not know, so the chart must have no other;
// and the defaults in the comments must be the controller's.
func TestDefaultsAreTheControllers(t *testing.T) {
	required := map[string]any{
		"cluster_id": "c", "region": "cn-hangzhou", "service_cidr": "172.21.0.0/20",
		"vswitches": map[string][]string{"cn-hangzhou-i": {"vsw-1"}},
	}
	written := documented(t)
	delete(written, "pod_cidr") // of Flannel, and without a default
	maps.Copy(written, required)
	if d := config.Diff(parse(t, required), parse(t, written)); len(d) > 0 {
		t.Errorf("values.yaml shows other defaults: %v", d)
	}
	var values struct {
		ENIConfig map[string]any `json:"eniConfig"`
	}
	read(t, dir+"values.yaml", func(b []byte, v any) error { return yaml.Unmarshal(b, v) }, &values)
	maps.Copy(values.ENIConfig, required)
	parse(t, values.ENIConfig)
	// Nothing that is set by default stands in Flannel's way.
	delete(values.ENIConfig, "vswitches")
	values.ENIConfig["network"], values.ENIConfig["pod_cidr"] = "flannel", "172.20.0.0/16"
	parse(t, values.ENIConfig)
}

// A value that no template reads would be accepted and ignored. With Flannel no agent runs:
// its templates read what values.yaml says that they do.
func TestValuesAreUsed(t *testing.T) {
	paths, err := filepath.Glob(dir + "templates/*")
	if err != nil || len(paths) == 0 {
		t.Fatal(paths, err)
	}
	var all, flannel string
	for _, path := range paths {
		read(t, path, func(b []byte, _ any) error {
			all += string(b)
			if filepath.Base(path) == "flannel.yaml" {
				flannel = string(b)
			}
			return nil
		}, nil)
	}
	var values map[string]map[string]any
	read(t, dir+"values.yaml", func(b []byte, v any) error { return yaml.Unmarshal(b, v) }, &values)
	uses := func(template, value string) bool {
		return regexp.MustCompile(`\.Values\.` + regexp.QuoteMeta(value) + `\b`).MatchString(template)
	}
	for section, v := range values {
		for key := range v {
			if name := section + "." + key; section != "eniConfig" && !uses(all, name) {
				t.Errorf("no template reads %s", name)
			}
		}
	}
	for _, name := range []string{"agent.cniConfDir", "agent.cniBinDir", "agent.extraArgs"} {
		if !uses(flannel, name) {
			t.Errorf("templates/flannel.yaml does not read %s", name)
		}
	}
}

// The names by which the API server finds the webhook, and the webhook its objects.
func TestAdmissionHasTheControllersNames(t *testing.T) {
	var text string
	read(t, dir+"templates/admission.yaml", func(b []byte, _ any) error { text = string(b); return nil }, nil)
	for _, want := range []string{
		"kind: Secret\nmetadata:\n  name: " + admit.Name + "\n",
		"kind: Service\nmetadata:\n  name: " + admit.Name + "\n",
		"kind: MutatingWebhookConfiguration\nmetadata:\n  name: " + admit.Name + "\n",
		"service: {name: " + admit.Name + ", namespace: {{ .Release.Namespace }}, path: " + admit.Path + "}",
		`$annotation := "` + v1alpha1.AnnotationExclusiveENI + `"`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("templates/admission.yaml lacks %q", want)
		}
	}
	var values string
	read(t, dir+"values.yaml", func(b []byte, _ any) error { values = string(b); return nil }, nil)
	if !strings.Contains(values, "annotation "+v1alpha1.AnnotationExclusiveENI+": ") {
		t.Errorf("values.yaml does not say what the annotation %s is for", v1alpha1.AnnotationExclusiveENI)
	}
}

// With network_policy: false, all that there is, nobody watches NetworkPolicies: the
// programs on a cluster may not even read them.
func TestNobodyMayReadNetworkPolicies(t *testing.T) {
	templates, err := filepath.Glob(dir + "templates/*.yaml")
	if err != nil || len(templates) == 0 {
		t.Fatal(templates, err)
	}
	roles := 0
	for _, path := range templates {
		read(t, path, func(b []byte, _ any) error {
			roles += strings.Count(string(b), "kind: ClusterRole\n") + strings.Count(string(b), "kind: Role\n")
			for _, grant := range []string{"networkpolicies", "networking.k8s.io", `"*"`, `'*'`, "cluster-admin"} {
				if strings.Contains(string(b), grant) {
					t.Errorf("%s: %s", path, grant)
				}
			}
			return nil
		}, nil)
	}
	if roles < 3 {
		t.Errorf("%d roles: this test does not see them", roles)
	}
	if slices.Contains(config.Choices("network_policy"), "true") {
		t.Error("network_policy: true is there: this test is to be about false")
	}
}

func parse(t *testing.T, values map[string]any) *config.Config {
	t.Helper()
	b, err := yaml.Marshal(values)
	if err != nil {
		t.Fatal(err)
	}
	c, err := config.Parse(b)
	if err != nil {
		t.Fatalf("%s\n%v", b, err)
	}
	return c
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
