//go:build e2e

// Package api tests the CRDs of policies with a real API server: objects are stored as users
// write them, and invalid ones are rejected with an error that says what would be right.
package api

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	cnpv1 "sigs.k8s.io/network-policy-api/apis/v1beta1"
	"sigs.k8s.io/yaml"

	v3 "terway.dev/terway/api/calico/v3"
	"terway.dev/terway/internal/controller/tiers"
	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/policy/translate"
)

// kinds are the kinds that the chart installs with policy.enabled.
var kinds = map[string]client.Object{
	"NetworkPolicy":                 &v3.NetworkPolicy{},
	"GlobalNetworkPolicy":           &v3.GlobalNetworkPolicy{},
	"StagedNetworkPolicy":           &v3.StagedNetworkPolicy{},
	"StagedGlobalNetworkPolicy":     &v3.StagedGlobalNetworkPolicy{},
	"StagedKubernetesNetworkPolicy": &v3.StagedKubernetesNetworkPolicy{},
	"Tier":                          &v3.Tier{},
	"NetworkSet":                    &v3.NetworkSet{},
	"GlobalNetworkSet":              &v3.GlobalNetworkSet{},
	"HostEndpoint":                  &v3.HostEndpoint{},
	"ClusterInformation":            &v3.ClusterInformation{},
	"ClusterNetworkPolicy":          &cnpv1.ClusterNetworkPolicy{},
}

func TestPolicies(t *testing.T) {
	kube, kubeconfig := server(t)
	t.Run("the tiers that the controller makes", func(t *testing.T) { makesTiers(t, kube) })
	t.Run("old objects are moved", func(t *testing.T) { moves(t, kube, kubeconfig) })
	t.Run("every field survives", func(t *testing.T) { survives(t, kube) })
	t.Run("what is wrong is refused", func(t *testing.T) { refuses(t, kube) })
	t.Run("the hub serves what is there", func(t *testing.T) { serves(t, kube, kubeconfig) })
}

// makesTiers makes the controller create its tiers, twice, and deletes them.
func makesTiers(t *testing.T, kube client.Client) {
	for range 2 {
		if err := (&tiers.Keeper{Live: kube, Client: kube}).Keep(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for _, tier := range translate.Builtin() {
		if err := kube.Delete(t.Context(), tier); err != nil {
			t.Error(err)
		}
	}
}

// apiServer starts an API server, which ends with the test.
func apiServer(t *testing.T) (*lab.APIServer, *rest.Config) {
	t.Helper()
	api, err := lab.StartAPIServer(t.Context(), t.TempDir(), lab.NewProgress(os.Stdout, time.Now))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := api.Close(); err != nil {
			t.Error(err)
		}
	})
	cfg, err := api.RESTConfig()
	if err != nil {
		t.Fatal(err)
	}
	return api, cfg
}

func server(t *testing.T) (client.Client, string) {
	api, cfg := apiServer(t)
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v3.AddToScheme, cnpv1.Install} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	kube, err := client.New(cfg, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("../../deploy/chart/policy/*.yaml")
	if err != nil || len(files) != len(kinds) {
		t.Fatalf("%d files of CRDs, want %d: %v", len(files), len(kinds), err)
	}
	for _, file := range files {
		crd := &unstructured.Unstructured{}
		for _, o := range documents(t, file) {
			crd = o
		}
		if err := kube.Create(t.Context(), crd); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if err := lab.Poll(t.Context(), 50*time.Millisecond, func() (bool, error) {
			if err := kube.Get(t.Context(), client.ObjectKeyFromObject(crd), crd); err != nil {
				return false, err
			}
			return established(t, crd), nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	return kube, api.Kubeconfig
}

// established reports whether a CRD is served, and fails if its schema has an error that the
// API server accepted nevertheless.
func established(t *testing.T, crd *unstructured.Unstructured) bool {
	conditions, _, _ := unstructured.NestedSlice(crd.Object, "status", "conditions")
	done := false
	for _, c := range conditions {
		c := c.(map[string]any)
		if c["type"] == "NonStructuralSchema" && c["status"] == "True" {
			t.Fatalf("%s: %v", crd.GetName(), c["message"])
		}
		done = done || c["type"] == "Established" && c["status"] == "True"
	}
	return done
}

func documents(t *testing.T, file string) (list []*unstructured.Unstructured) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for doc := range strings.SplitSeq("\n"+string(text), "\n---") {
		var o map[string]any
		if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
			t.Fatalf("%s: %v\n%s", file, err, doc)
		}
		if len(o) > 0 {
			list = append(list, &unstructured.Unstructured{Object: o})
		}
	}
	return list
}

// survives creates the objects of testdata/all.yaml and reads them again. Together they have
// every field of the types.
func survives(t *testing.T, kube client.Client) {
	has := map[string]map[string]bool{}
	for _, o := range documents(t, "testdata/all.yaml") {
		want := o.DeepCopy()
		if err := kube.Create(t.Context(), o); err != nil {
			t.Errorf("%s %s: %v", want.GetKind(), want.GetName(), err)
			continue
		}
		got := &unstructured.Unstructured{}
		got.SetGroupVersionKind(o.GroupVersionKind())
		if err := kube.Get(t.Context(), client.ObjectKeyFromObject(o), got); err != nil {
			t.Fatal(err)
		}
		for _, lost := range missing("", want.Object, got.Object) {
			t.Errorf("%s %s: %s", want.GetKind(), want.GetName(), lost)
		}
		// The Go types have all fields too.
		typed := reflect.New(reflect.TypeOf(kinds[want.GetKind()]).Elem()).Interface()
		if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(got.Object, typed, true); err != nil {
			t.Errorf("%s %s: %v", want.GetKind(), want.GetName(), err)
		}
		if has[want.GetKind()] == nil {
			has[want.GetKind()] = map[string]bool{}
		}
		gather("", want.Object, has[want.GetKind()])
	}
	for kind, object := range kinds {
		spec, _ := reflect.TypeOf(object).Elem().FieldByName("Spec")
		for _, field := range fields("spec", spec.Type) {
			if !has[kind][field] {
				t.Errorf("testdata/all.yaml has no %s with %s", kind, field)
			}
		}
	}
}

// fields returns the paths of a type's fields, with elements of lists as "[]".
func fields(at string, of reflect.Type) []string {
	out := []string{at}
	switch of {
	case reflect.TypeFor[intstr.IntOrString](), reflect.TypeFor[metav1.LabelSelector]():
		return out
	}
	switch of.Kind() {
	case reflect.Pointer:
		return fields(at, of.Elem())
	case reflect.Slice:
		return append(out, fields(at+"[]", of.Elem())...)
	case reflect.Struct:
		for i := range of.NumField() {
			f := of.Field(i)
			name, rest, _ := strings.Cut(f.Tag.Get("json"), ",")
			if strings.Contains(rest, "inline") {
				out = append(out, fields(at, f.Type)[1:]...)
			} else {
				out = append(out, fields(at+"."+name, f.Type)...)
			}
		}
	}
	return out
}

func gather(at string, v any, into map[string]bool) {
	into[strings.TrimPrefix(at, ".")] = true
	switch v := v.(type) {
	case map[string]any:
		for k, x := range v {
			gather(at+"."+k, x, into)
		}
	case []any:
		for _, x := range v {
			gather(at+"[]", x, into)
		}
	}
}

// missing lists the fields of want that differ in got.
func missing(at string, want, got any) (lost []string) {
	switch want := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok {
			return []string{at + " is lost"}
		}
		for _, k := range slices.Sorted(maps.Keys(want)) {
			lost = append(lost, missing(at+"."+k, want[k], g[k])...)
		}
	case []any:
		g, ok := got.([]any)
		if !ok || len(g) != len(want) {
			return []string{at + " is lost"}
		}
		for i := range want {
			lost = append(lost, missing(fmt.Sprintf("%s[%d]", at, i), want[i], g[i])...)
		}
	default:
		// One side may have read a number as a float.
		if text := fmt.Sprintf("%v", want); text != fmt.Sprint(got) && text != fmt.Sprint(number(got)) {
			return []string{fmt.Sprintf("%s is %v, was %v", at, got, want)}
		}
	}
	return lost
}

func number(v any) any {
	if n, ok := v.(int64); ok {
		return float64(n)
	}
	return v
}

// refuses creates invalid objects. Each object of testdata/refused.yaml has the expected error
// in an annotation.
func refuses(t *testing.T, kube client.Client) {
	for _, o := range documents(t, "testdata/refused.yaml") {
		want := o.GetAnnotations()["answer"]
		if o.GetName() == "" {
			o.SetName("bad")
		}
		if err := kube.Create(t.Context(), o); err == nil || want == "" || !strings.Contains(err.Error(), want) {
			t.Errorf("%s %v: the answer is %v, want %q", o.GetKind(), o.Object["spec"], err, want)
		}
	}
	many := func(n int) []string {
		list := make([]string, n)
		for i := range list {
			list[i] = fmt.Sprintf("10.%d.%d.0/24", i/256, i%256)
		}
		return list
	}
	ports := make([]intstr.IntOrString, 51)
	for i := range ports {
		ports[i] = intstr.FromInt(i + 1)
	}
	tcp := intstr.FromString("TCP")
	for want, spec := range map[string]v3.PolicySpec{
		"must have at most 1024 items":                    {Ingress: slices.Repeat([]v3.Rule{{Action: v3.Allow}}, 1025)},
		"spec.egress: Too many: 1025":                     {Egress: slices.Repeat([]v3.Rule{{Action: v3.Allow}}, 1025)},
		"spec.ingress[0].source.nets: Too many":           {Ingress: []v3.Rule{{Action: v3.Allow, Source: v3.EntityRule{Nets: many(257)}}}},
		"spec.ingress[0].destination.notNets: Too many":   {Ingress: []v3.Rule{{Action: v3.Allow, Destination: v3.EntityRule{NotNets: many(257)}}}},
		"spec.ingress[0].destination.ports: Too many":     {Ingress: []v3.Rule{{Action: v3.Allow, Protocol: &tcp, Destination: v3.EntityRule{Ports: ports}}}},
		"spec.selector: Too long":                         {Selector: "has(" + strings.Repeat("a", 1020) + ")"},
		"spec.ingress[0].source.namespaceSelector: Too l": {Ingress: []v3.Rule{{Action: v3.Allow, Source: v3.EntityRule{NamespaceSelector: strings.Repeat(" ", 1025)}}}},
	} {
		o := &v3.GlobalNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "long"}, Spec: v3.GlobalNetworkPolicySpec{PolicySpec: spec}}
		if err := kube.Create(t.Context(), o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the answer is %.300v, want %q", err, want)
			if err == nil {
				kube.Delete(t.Context(), o)
			}
		}
	}
	// The maximum.
	o := &v3.GlobalNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "full"}, Spec: v3.GlobalNetworkPolicySpec{PolicySpec: v3.PolicySpec{
		Selector: "has(" + strings.Repeat("a", 512) + ")",
		Ingress:  slices.Repeat([]v3.Rule{{Action: v3.Allow, Protocol: &tcp, Source: v3.EntityRule{Selector: strings.Repeat("(", 500) + "all()" + strings.Repeat(")", 500), Nets: many(10)}, Destination: v3.EntityRule{Ports: ports[:50]}}}, 256),
		Egress:   slices.Repeat([]v3.Rule{{Action: v3.Deny}}, 1024),
	}}}
	if err := kube.Create(t.Context(), o); err != nil {
		t.Errorf("%.300v", err)
	}
}
