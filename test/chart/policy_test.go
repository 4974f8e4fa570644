package chart

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"

	v3 "terway.dev/terway/api/calico/v3"
	"terway.dev/terway/internal/controller/policyhub"
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

// Kinds are installed as generated, those of policies on request. They are templates, so that an upgrade updates them,
// and stay when the chart is uninstalled: deleting a kind deletes all its objects.
func TestKinds(t *testing.T) {
	for name := range objects(t, with("terway", nil)) {
		if strings.HasPrefix(name, "CustomResourceDefinition ") && !strings.HasSuffix(name, ".network.terway.dev") {
			t.Errorf("without policy.enabled there is %s", name)
		}
	}
	if _, err := os.Stat(dir + "crds"); err == nil {
		t.Error("Helm does not update what is in the folder crds")
	}
	got := objects(t, with("terway", map[string]any{"policy.enabled": true}))
	own, err := filepath.Glob(dir + "kinds/*.yaml")
	if err != nil || len(own) != 1 {
		t.Fatal(own, err)
	}
	files, err := filepath.Glob(dir + "policy/*.yaml")
	if err != nil || len(files) < 11 {
		t.Fatal(files, err)
	}
	for _, file := range append(files, own...) {
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

// may says whether rules allow all verbs on a resource.
func may(rules []rbacv1.PolicyRule, group, resource, name string, verbs ...string) bool {
	for _, v := range verbs {
		if !slices.ContainsFunc(rules, func(r rbacv1.PolicyRule) bool {
			return slices.Contains(r.APIGroups, group) && slices.Contains(r.Resources, resource) && slices.Contains(r.Verbs, v) && slices.Equal(r.ResourceNames, names(name))
		}) {
			return false
		}
	}
	return true
}

func names(name string) []string {
	if name == "" {
		return nil
	}
	return []string{name}
}

// The controller is told to run the policy hub and may do all that the hub and the tiers need, and no agent finds a
// hub, if policies are switched on; else there is none of that.
func TestPolicyHub(t *testing.T) {
	for _, on := range []bool{true, false} {
		got := objects(t, with("terway", map[string]any{"policy.enabled": on, "policy.port": 10377}))
		var cluster rbacv1.ClusterRole
		into(t, got["ClusterRole terway-controller"], &cluster)
		var role rbacv1.Role
		into(t, got["Role terway-controller"], &role)
		calico := v3.GroupVersion.Group
		for _, c := range []struct {
			rules                 []rbacv1.PolicyRule
			group, resource, name string
			verbs                 []string
		}{
			{cluster.Rules, "apiregistration.k8s.io", "apiservices", "v3.projectcalico.org", []string{"get"}},
			{cluster.Rules, calico, "tiers", "", []string{"list", "watch", "create"}},
			{cluster.Rules, calico, "tiers/status", "", []string{"patch"}},
			{cluster.Rules, calico, "networkpolicies", "", []string{"list", "watch"}},
			{cluster.Rules, calico, "networkpolicies/status", "", []string{"patch"}},
			{cluster.Rules, calico, "globalnetworkpolicies", "", []string{"list", "watch"}},
			{cluster.Rules, calico, "globalnetworkpolicies/status", "", []string{"patch"}},
			{cluster.Rules, calico, "networksets", "", []string{"list", "watch"}},
			{cluster.Rules, calico, "globalnetworksets", "", []string{"list", "watch"}},
			{cluster.Rules, calico, "hostendpoints", "", []string{"list", "watch"}},
			{cluster.Rules, "policy.networking.k8s.io", "clusternetworkpolicies", "", []string{"list", "watch"}},
			{cluster.Rules, "policy.networking.k8s.io", "clusternetworkpolicies/status", "", []string{"patch"}},
			{cluster.Rules, "networking.k8s.io", "networkpolicies", "", []string{"get", "list", "watch"}},
			{cluster.Rules, "", "namespaces", "", []string{"list", "watch"}},
			{cluster.Rules, "", "serviceaccounts", "", []string{"list", "watch"}},
			{role.Rules, "", "secrets", policyhub.Name, []string{"get", "update"}},
			{role.Rules, "", "configmaps", policyhub.Name, []string{"get", "patch"}},
		} {
			if got := may(c.rules, c.group, c.resource, c.name, c.verbs...); got != on {
				t.Errorf("policy.enabled: %v: the controller may %v %s.%s: %v", on, c.verbs, c.resource, c.group, got)
			}
		}
		if !may(cluster.Rules, "authentication.k8s.io", "tokenreviews", "", "create") {
			t.Errorf("policy.enabled: %v: the controller may not review tokens, which scrapers of metrics have too", on)
		}
		if !may(cluster.Rules, "", "pods", "", "list", "watch") {
			t.Errorf("policy.enabled: %v: the controller may not list and watch pods, which have bandwidth limits too", on)
		}
		var controller appsv1.Deployment
		into(t, got["Deployment terway-controller"], &controller)
		c := controller.Spec.Template.Spec.Containers[0]
		if told := slices.Contains(c.Args, "--policy-port=10377"); told != on {
			t.Errorf("policy.enabled: %v: the controller is told to run the hub: %v, by %v", on, told, c.Args)
		}
		limit := slices.ContainsFunc(c.Env, func(e corev1.EnvVar) bool {
			return e.Name == "MEMORY" && e.ValueFrom.ResourceFieldRef != nil && e.ValueFrom.ResourceFieldRef.Resource == "limits.memory"
		})
		if told := slices.Contains(c.Args, "--memory=$(MEMORY)"); told != on || limit != on {
			t.Errorf("policy.enabled: %v: the controller is told its limit of memory: %v, by %v and %v", on, told && limit, c.Args, c.Env)
		}
		for _, kind := range []string{"Service", "Secret", "ConfigMap"} {
			if there := got[kind+" "+policyhub.Name] != nil; there != on {
				t.Errorf("policy.enabled: %v: %s %s: %v", on, kind, policyhub.Name, there)
			}
		}
		if !on {
			continue
		}
		var s corev1.Service
		into(t, got["Service "+policyhub.Name], &s)
		if s.Spec.ClusterIP != corev1.ClusterIPNone || len(s.Spec.Ports) != 1 || s.Spec.Ports[0].Port != 10377 || s.Spec.Ports[0].Name != "policy" {
			t.Errorf("the Service is %+v: want a headless one with the hub's port", s.Spec)
		}
		if !slices.ContainsFunc(c.Ports, func(p corev1.ContainerPort) bool {
			return p.Name == s.Spec.Ports[0].TargetPort.StrVal && p.ContainerPort == 10377
		}) {
			t.Errorf("the controller has the ports %+v: want %s", c.Ports, s.Spec.Ports[0].TargetPort.StrVal)
		}
		for k, v := range s.Spec.Selector {
			if controller.Spec.Template.Labels[k] != v {
				t.Errorf("the Service selects %v, the controller has %v", s.Spec.Selector, controller.Spec.Template.Labels)
			}
		}
		if got["ServiceAccount "+policyhub.Agents] == nil {
			t.Errorf("there is no service account %s, whose tokens the hub takes", policyhub.Agents)
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
	// What renders the chart alone does not see what the cluster has: there a value says so.
	for _, install := range []bool{true, false} {
		got := keys(objects(t, with("terway", map[string]any{"policy.enabled": true, "policy.installClusterNetworkPolicy": install})))
		if there := slices.Contains(got, "CustomResourceDefinition "+cnp); there != install || !slices.Contains(got, "CustomResourceDefinition tiers.projectcalico.org") {
			t.Errorf("policy.installClusterNetworkPolicy: %v: of the kinds there are %v", install, got)
		}
	}
}
