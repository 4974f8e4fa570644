// Package chart checks that the Helm chart, its schema and the controller's configuration
// agree. The lab, which is installed from the chart, proves that it works.
package chart

import (
	"encoding/json"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"terway.dev/terway/internal/bandwidth"
	"terway.dev/terway/internal/config"
	"terway.dev/terway/internal/controller/admit"
	"terway.dev/terway/internal/datapath/claims"
)

const dir = "../../deploy/chart/"

// schema is the part of JSON schema that the chart's schema uses for structure.
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

// documented returns the values of eniConfig, including those in comments of the form "# key:
// default".
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
			if k != "flannel" { // a sentence that starts with the network it is about
				out[k] = v
			}
		}
	}
	return out
}

// The controller refuses unknown keys, so the chart must have no others; and the defaults in
// the comments must be the controller's.
func TestDefaultsAreTheControllers(t *testing.T) {
	required := map[string]any{
		"cluster_id": "c", "region": "cn-hangzhou", "service_cidr": "172.21.0.0/20",
		"vswitches": map[string][]string{"cn-hangzhou-i": {"vsw-1"}},
	}
	written := documented(t)
	delete(written, "pod_cidr") // only for Flannel, and without a default
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
	// No default value conflicts with Flannel.
	delete(values.ENIConfig, "vswitches")
	values.ENIConfig["network"], values.ENIConfig["pod_cidr"] = "flannel", "172.20.0.0/16"
	parse(t, values.ENIConfig)
}

// The API server finds the webhook, and the webhook its objects, by the same names.
func TestAdmissionHasTheControllersNames(t *testing.T) {
	all := objects(t, with("terway", nil))
	for _, kind := range []string{"Secret", "Service", "MutatingWebhookConfiguration"} {
		if all[kind+" "+admit.Name] == nil {
			t.Errorf("there is no %s %s", kind, admit.Name)
		}
	}
	var webhook admissionv1.MutatingWebhookConfiguration
	into(t, all["MutatingWebhookConfiguration "+admit.Name], &webhook)
	annotations := map[string][]string{admit.PathExclusiveENI: {claims.AnnotationExclusiveENI}, admit.PathBandwidth: append([]string{bandwidth.NetworkPriority}, bandwidth.Annotations...)}
	for _, w := range webhook.Webhooks {
		s := w.ClientConfig.Service
		if w.NamespaceSelector != nil {
			continue // TestAdmissionForLoadBalancers
		}
		if s == nil || s.Name != admit.Name || s.Namespace != "kube-system" || s.Path == nil || annotations[*s.Path] == nil {
			t.Errorf("%s is sent to %+v, want a path of Service %s", w.Name, s, admit.Name)
			continue
		}
		for _, key := range annotations[*s.Path] {
			if len(w.MatchConditions) == 0 || !strings.Contains(w.MatchConditions[0].Expression, "'"+key+"'") {
				t.Errorf("%s is not for pods with %s alone: %v", w.Name, key, w.MatchConditions)
			}
		}
		delete(annotations, *s.Path)
	}
	if len(annotations) > 0 {
		t.Errorf("there is no webhook for %v", annotations)
	}
	var values string
	read(t, dir+"values.yaml", func(b []byte, _ any) error { values = string(b); return nil }, nil)
	if !strings.Contains(values, "annotation "+claims.AnnotationExclusiveENI+": ") {
		t.Errorf("values.yaml does not say what the annotation %s is for", claims.AnnotationExclusiveENI)
	}
}

// Pods get what load balancers need in namespaces with the label alone. If no controller answers, the label's value says whether
// they are created without.
func TestAdmissionForLoadBalancers(t *testing.T) {
	var webhook admissionv1.MutatingWebhookConfiguration
	into(t, objects(t, with("terway", nil))["MutatingWebhookConfiguration "+admit.Name], &webhook)
	want := map[string]string{claims.GatesEnabled: "Ignore " + admit.PathLoadBalancers, claims.GatesRequired: "Fail " + admit.PathGatesRequired}
	for _, w := range webhook.Webhooks {
		s, of := w.ClientConfig.Service, w.NamespaceSelector
		if of == nil {
			continue
		}
		value := of.MatchLabels[claims.LabelInjectGates]
		if len(of.MatchExpressions) > 0 || len(of.MatchLabels) != 1 || s == nil || s.Name != admit.Name || s.Namespace != "kube-system" || s.Path == nil || w.FailurePolicy == nil {
			t.Errorf("%s: %+v for namespaces %+v", w.Name, s, of)
		} else if got := string(*w.FailurePolicy) + " " + *s.Path; got != want[value] {
			t.Errorf("%s for namespaces %s=%s: %s, want %s", w.Name, claims.LabelInjectGates, value, got, want[value])
		}
		delete(want, value)
		if w.ReinvocationPolicy == nil || *w.ReinvocationPolicy != admissionv1.IfNeededReinvocationPolicy {
			t.Errorf("%s: reinvocationPolicy %v: containers of other webhooks would not sleep", w.Name, w.ReinvocationPolicy)
		}
	}
	for value := range want {
		t.Errorf("there is no webhook for namespaces %s=%s", claims.LabelInjectGates, value)
	}
}

// Without policy.enabled, the default, nobody watches NetworkPolicies: the programs on a cluster may not
// even read them.
func TestNobodyMayReadNetworkPolicies(t *testing.T) {
	for _, network := range []string{"terway", "flannel"} {
		roles := 0
		all := objects(t, with(network, nil))
		for name, o := range all {
			var rules []rbacv1.PolicyRule
			switch o.GetKind() {
			case "ClusterRole":
				var r rbacv1.ClusterRole
				into(t, o, &r)
				rules = r.Rules
			case "Role":
				var r rbacv1.Role
				into(t, o, &r)
				rules = r.Rules
			case "ClusterRoleBinding", "RoleBinding":
				// Roles of others may grant anything: only this one is known.
				role, _, _ := unstructured.NestedString(o.Object, "roleRef", "name")
				kind, _, _ := unstructured.NestedString(o.Object, "roleRef", "kind")
				if all[kind+" "+role] == nil && role != "extension-apiserver-authentication-reader" {
					t.Errorf("%s: %s binds the %s %s, which the chart does not have", network, name, kind, role)
				}
				continue
			default:
				continue
			}
			roles++
			for _, r := range rules {
				for _, word := range slices.Concat(r.APIGroups, r.Resources, r.Verbs) {
					if word == "*" || word == "networking.k8s.io" || word == "networkpolicies" {
						t.Errorf("%s: %s: %v", network, name, r)
					}
				}
			}
		}
		if roles < 2 {
			t.Errorf("%s: %d roles: this test does not see them", network, roles)
		}
	}
}

func into(t *testing.T, o *unstructured.Unstructured, typed any) {
	t.Helper()
	if o == nil {
		t.Fatal("the object is not there")
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, typed); err != nil {
		t.Fatal(err)
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
