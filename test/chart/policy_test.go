package chart

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"

	v3 "terway.dev/terway/api/calico/v3"
)

func init() {
	for _, err := range []error{apiextensionsv1.AddToScheme(scheme.Scheme), v3.AddToScheme(scheme.Scheme)} {
		if err != nil {
			panic(err)
		}
	}
}

func crd(name, release string) map[string]any {
	return map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": map[string]any{"name": name, "annotations": map[string]any{"meta.helm.sh/release-name": release}},
	}
}

// The kinds of policies are installed on request, as generated, and stay when the chart is
// uninstalled: deleting a kind deletes all its objects.
func TestPolicyKinds(t *testing.T) {
	for name := range objects(t, with("terway", nil)) {
		if strings.HasPrefix(name, "CustomResourceDefinition ") {
			t.Errorf("without policy.enabled there is %s", name)
		}
	}
	on := with("terway", map[string]any{"policy.enabled": true})
	got := objects(t, on)
	files, err := filepath.Glob(dir + "policy/*.yaml")
	if err != nil || len(files) < 11 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var want apiextensionsv1.CustomResourceDefinition
		if err := yaml.UnmarshalStrict(text, &want); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		var have apiextensionsv1.CustomResourceDefinition
		into(t, got["CustomResourceDefinition "+want.Name], &have)
		if have.Annotations["helm.sh/resource-policy"] != "keep" {
			t.Errorf("%s is deleted with the chart", want.Name)
		}
		delete(have.Annotations, "helm.sh/resource-policy")
		a, err := yaml.Marshal(have)
		if err != nil {
			t.Fatal(err)
		}
		b, err := yaml.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		if string(a) != string(b) {
			t.Errorf("%s is not what is in %s", want.Name, file)
		}
		if strings.HasPrefix(want.Spec.Group, "crd.") {
			t.Errorf("%s: clients that find Calico's private group do not use the other", want.Name)
		}
	}
}

// The controller may create the tiers, which Helm cannot, and does so, if their kind is
// installed.
func TestPolicyTiers(t *testing.T) {
	for _, on := range []bool{true, false} {
		got := objects(t, with("terway", map[string]any{"policy.enabled": on}))
		var role rbacv1.ClusterRole
		into(t, got["ClusterRole terway-controller"], &role)
		may := slices.ContainsFunc(role.Rules, func(r rbacv1.PolicyRule) bool {
			return slices.Equal(r.APIGroups, []string{v3.GroupVersion.Group}) && slices.Equal(r.Resources, []string{"tiers"}) && slices.Equal(r.Verbs, []string{"list", "create"})
		})
		var controller appsv1.Deployment
		into(t, got["Deployment terway-controller"], &controller)
		told := slices.Contains(controller.Spec.Template.Spec.Containers[0].Args, "--policy")
		if may != on || told != on {
			t.Errorf("policy.enabled: %v: the controller may make tiers: %v, is told to: %v", on, may, told)
		}
	}
}

// If another Calico serves the API the chart fails, and does not touch the other kind.
func TestPolicyOfOthers(t *testing.T) {
	on := with("terway", map[string]any{"policy.enabled": true})
	service := func(s map[string]any) map[string]any {
		spec := map[string]any{"group": "projectcalico.org", "version": "v3"}
		if s != nil {
			spec["service"] = s
		}
		return map[string]any{"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": map[string]any{"name": "v3.projectcalico.org"}, "spec": spec}
	}
	if _, problem := helm.renderIn(t, on, service(map[string]any{"namespace": "calico-apiserver", "name": "calico-api"})); !strings.Contains(problem, "is served by Service calico-apiserver/calico-api: another Calico owns it") {
		t.Errorf("beside Calico's API server the chart gives %q", problem)
	}
	if _, problem := helm.renderIn(t, with("terway", nil), service(map[string]any{"namespace": "calico-apiserver", "name": "calico-api"})); problem != "" {
		t.Errorf("without policies the chart gives %q", problem)
	}
	const cnp = "clusternetworkpolicies.policy.networking.k8s.io"
	for release, installed := range map[string]bool{"terway": true, "": false, "other": false} {
		// For a kind, the API server makes an APIService without a Service.
		texts, problem := helm.renderIn(t, on, service(nil), crd(cnp, release), crd("tiers.projectcalico.org", release))
		if problem != "" {
			t.Errorf("beside kinds of release %q the chart gives %q", release, problem)
			continue
		}
		got := parsed(t, texts)
		if there := got["CustomResourceDefinition "+cnp] != nil; there != installed {
			t.Errorf("ClusterNetworkPolicy of release %q: in the chart %v, want %v", release, there, installed)
		}
		// Helm itself refuses to take over objects of another release.
		if got["CustomResourceDefinition tiers.projectcalico.org"] == nil {
			t.Errorf("the kind Tier of release %q is left out", release)
		}
	}
	if !slices.Contains(keys(objects(t, on)), "CustomResourceDefinition "+cnp) {
		t.Errorf("there is no %s", cnp)
	}
}
