//go:build e2e

package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v3 "terway.dev/terway/api/calico/v3"
	"terway.dev/terway/internal/cli/policy"
	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/policy/migrate"
)

// run is what a user sees of "terwayctl policy migrate": standard output, standard error, and the
// error.
func run(t *testing.T, kubeconfig string, args ...string) (string, string, error) {
	t.Helper()
	var out, said bytes.Buffer
	cmd := policy.NewCommand()
	cmd.SetArgs(append([]string{"migrate", "--kubeconfig", kubeconfig}, args...))
	cmd.SetOut(&out)
	cmd.SetErr(&said)
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	err := cmd.ExecuteContext(t.Context())
	return out.String(), said.String(), err
}

// oldCRD is a kind of Calico's private group, as the existing Terway's chart installs it: any spec is
// stored.
func oldCRD(kind, plural string, namespaced bool) *unstructured.Unstructured {
	scope := "Cluster"
	if namespaced {
		scope = "Namespaced"
	}
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": map[string]any{"name": plural + ".crd.projectcalico.org"},
		"spec": map[string]any{
			"group": "crd.projectcalico.org", "scope": scope,
			"names": map[string]any{"kind": kind, "plural": plural, "singular": strings.ToLower(kind)},
			"versions": []any{map[string]any{
				"name": "v1", "served": true, "storage": true,
				"schema": map[string]any{"openAPIV3Schema": map[string]any{
					"type":       "object",
					"properties": map[string]any{"spec": map[string]any{"x-kubernetes-preserve-unknown-fields": true}},
				}},
			}},
		},
	}}
}

// oldOf is how Calico stores an object of projectcalico.org/v3.
func oldOf(t *testing.T, o *unstructured.Unstructured) *unstructured.Unstructured {
	old := o.DeepCopy()
	old.SetAPIVersion(migrate.OldAPI)
	unstructured.RemoveNestedField(old.Object, "status")
	stored, err := json.Marshal(map[string]any{"uid": "7f0c", "creationTimestamp": "2020-01-01T00:00:00Z", "labels": o.GetLabels(), "annotations": o.GetAnnotations()})
	if err != nil {
		t.Fatal(err)
	}
	old.SetLabels(nil)
	old.SetAnnotations(map[string]string{"projectcalico.org/metadata": string(stored)})
	if tier, there, _ := unstructured.NestedString(o.Object, "spec", "tier"); strings.HasSuffix(o.GetKind(), "NetworkPolicy") &&
		o.GetKind() != "StagedKubernetesNetworkPolicy" && (!there || tier == "default") {
		old.SetName("default." + o.GetName())
	}
	return old
}

// moves has the objects of testdata/all.yaml stored as the existing Terway's chart would, and moves
// them: every field survives, and what is done once is not done again.
func moves(t *testing.T, kube client.Client, kubeconfig string) {
	// A run in a cluster that never had any.
	if out, said, err := run(t, kubeconfig); err != nil || out != "" || said != "nothing of crd.projectcalico.org/v1 is to be moved\n" {
		t.Fatalf("%v\n%s%s", err, out, said)
	}

	var wants []*unstructured.Unstructured
	for _, o := range documents(t, "testdata/all.yaml") {
		if o.GroupVersionKind().Group == v3.GroupVersion.Group && migrate.Moves(o.GetKind()) {
			wants = append(wants, o)
		}
	}
	// A policy that nobody named with its tier, one that kubectl stored, and what cannot be moved.
	for _, text := range []string{"web", "plain"} {
		o := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"selector": "a == '" + text + "'", "types": []any{"Ingress"}, "order": int64(7)}}}
		o.SetAPIVersion(v3.GroupVersion.String())
		o.SetKind("NetworkPolicy")
		o.SetNamespace("default")
		o.SetName(text)
		o.SetLabels(map[string]string{"team": text})
		wants = append(wants, o)
	}
	plurals := map[string]string{"IPPool": "ippools"}
	for _, o := range wants {
		plurals[o.GetKind()] = strings.ToLower(strings.TrimSuffix(o.GetKind(), "y")) + "s"
		if strings.HasSuffix(o.GetKind(), "y") {
			plurals[o.GetKind()] = strings.ToLower(strings.TrimSuffix(o.GetKind(), "y")) + "ies"
		}
	}
	for kind, plural := range plurals {
		crd := oldCRD(kind, plural, migrate.Namespaced(kind))
		if err := kube.Create(t.Context(), crd); err != nil {
			t.Fatal(err)
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
	create := func(o *unstructured.Unstructured) {
		t.Helper()
		// A kind is served a moment after it is established.
		if err := lab.Poll(t.Context(), 50*time.Millisecond, func() (bool, error) {
			err := kube.Create(t.Context(), o.DeepCopy())
			if apierrors.IsNotFound(err) || meta.IsNoMatchError(err) {
				return false, nil
			}
			return true, err
		}); err != nil {
			t.Fatalf("%s %s: %v", o.GetKind(), o.GetName(), err)
		}
	}
	for _, o := range wants {
		if o.GetName() == "plain" {
			plain := o.DeepCopy()
			plain.SetAPIVersion(migrate.OldAPI)
			create(plain)
			continue
		}
		create(oldOf(t, o))
	}
	for _, name := range []string{"a", "b"} {
		pool := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"cidr": "10.0.0.0/8"}}}
		pool.SetAPIVersion(migrate.OldAPI)
		pool.SetKind("IPPool")
		pool.SetName(name)
		create(pool)
	}

	counts := func(said string) string {
		n := map[string]int{}
		for line := range strings.Lines(said) {
			if f := strings.Fields(line); len(f) >= 5 && f[0] != "KIND" && plurals[f[0]] != "" {
				n[f[3]]++
			}
		}
		return fmt.Sprint(n)
	}
	all := len(wants)

	// It says what it would do, and does nothing. What it prints is what kubectl takes.
	out, said, err := run(t, kubeconfig)
	if got, want := counts(said), fmt.Sprint(map[string]int{"new": all}); err != nil || got != want || !strings.Contains(said, "\nnot about policies, and not moved: 2 IPPool\n") {
		t.Fatalf("%s, want %s: %v\n%s", got, want, err, said)
	}
	if n := strings.Count(out, "---\n"); n != all {
		t.Errorf("%d manifests, want %d", n, all)
	}
	tiers := &v3.TierList{}
	if err := kube.List(t.Context(), tiers); err != nil || len(tiers.Items) > 0 {
		t.Errorf("a run without --apply made tiers: %v %v", tiers.Items, err)
	}
	// Nothing is deleted whose equal is not there.
	if _, said, err := run(t, kubeconfig, "--delete-old"); err != nil || counts(said) != fmt.Sprint(map[string]int{"new": all}) {
		t.Fatalf("%v\n%s", err, said)
	}

	// One is there, and another.
	other := wants[all-2].DeepCopy()
	if err := unstructured.SetNestedField(other.Object, int64(8), "spec", "order"); err != nil {
		t.Fatal(err)
	}
	create(other)
	out, said, err = run(t, kubeconfig, "--apply")
	if got, want := counts(said), fmt.Sprint(map[string]int{"created": all - 1, "differs": 1}); got != want || out != "" || !errors.As(err, new(*policy.UnmovedError)) ||
		!strings.Contains(said, "spec.order is 8 there, and 7 in the old one") {
		t.Fatalf("%s, want %s: %v\n%s", got, want, err, said)
	}
	left := &v3.NetworkPolicy{}
	if err := kube.Get(t.Context(), client.ObjectKeyFromObject(other), left); err != nil || left.Spec.Order == nil || *left.Spec.Order != 8 {
		t.Errorf("what was there is %+v now: %v", left.Spec, err)
	}
	if err := kube.Delete(t.Context(), left); err != nil {
		t.Fatal(err)
	}
	if _, said, err = run(t, kubeconfig, "--apply"); err != nil || counts(said) != fmt.Sprint(map[string]int{"created": 1, "same": all - 1}) {
		t.Fatalf("%v\n%s", err, said)
	}

	// Every field survived.
	versions := map[string]string{}
	for _, want := range wants {
		got := &unstructured.Unstructured{}
		got.SetGroupVersionKind(want.GroupVersionKind())
		if err := kube.Get(t.Context(), client.ObjectKeyFromObject(want), got); err != nil {
			t.Errorf("%s %s: %v", want.GetKind(), want.GetName(), err)
			continue
		}
		for _, lost := range missing("", want.Object, got.Object) {
			t.Errorf("%s %s: %s", want.GetKind(), want.GetName(), lost)
		}
		versions[want.GetKind()+" "+want.GetName()] = got.GetResourceVersion()
	}
	// The second run changes nothing.
	if out, said, err = run(t, kubeconfig, "--apply"); err != nil || out != "" || counts(said) != fmt.Sprint(map[string]int{"same": all}) {
		t.Fatalf("%v\n%s%s", err, out, said)
	}

	// Old ones are deleted whose equal is there; one whose equal was changed is not.
	plain := &v3.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "plain"}}
	if err := kube.Get(t.Context(), client.ObjectKeyFromObject(plain), plain); err != nil {
		t.Fatal(err)
	}
	was := plain.Spec.Selector
	plain.Spec.Selector = "all()"
	if err := kube.Update(t.Context(), plain); err != nil {
		t.Fatal(err)
	}
	if _, said, err = run(t, kubeconfig, "--delete-old"); !errors.As(err, new(*policy.UnmovedError)) || counts(said) != fmt.Sprint(map[string]int{"deleted": all - 1, "differs": 1}) {
		t.Fatalf("%v\n%s", err, said)
	}
	plain.Spec.Selector = was
	if err := kube.Update(t.Context(), plain); err != nil {
		t.Fatal(err)
	}
	versions["NetworkPolicy plain"] = plain.ResourceVersion
	if _, said, err = run(t, kubeconfig, "--apply", "--delete-old"); err != nil || counts(said) != fmt.Sprint(map[string]int{"deleted": 1}) {
		t.Fatalf("%v\n%s", err, said)
	}
	if out, said, err = run(t, kubeconfig, "--apply", "--delete-old"); err != nil || out != "" || said != "not about policies, and not moved: 2 IPPool\nnothing of crd.projectcalico.org/v1 is to be moved\n" {
		t.Fatalf("%v\n%s%s", err, out, said)
	}

	// The new ones are as they were, and go.
	for _, want := range wants {
		got := &unstructured.Unstructured{}
		got.SetGroupVersionKind(want.GroupVersionKind())
		if err := kube.Get(t.Context(), client.ObjectKeyFromObject(want), got); err != nil {
			t.Errorf("%s %s: %v", want.GetKind(), want.GetName(), err)
		} else if was := versions[want.GetKind()+" "+want.GetName()]; got.GetResourceVersion() != was {
			t.Errorf("%s %s: resource version %s, was %s", want.GetKind(), want.GetName(), got.GetResourceVersion(), was)
		} else if err := kube.Delete(t.Context(), got); err != nil {
			t.Error(err)
		}
	}

	refusedByServer(t, kube, kubeconfig, create)
	ownedByAnother(t, kube, kubeconfig)
}

// refusedByServer: what the API server alone knows to be wrong is said of the object, and the others
// are moved.
func refusedByServer(t *testing.T, kube client.Client, kubeconfig string, create func(*unstructured.Unstructured)) {
	for name, spec := range map[string]map[string]any{
		"bad":  {"interfaceName": "eth0"},
		"good": {"interfaceName": "eth0", "node": "n1"},
	} {
		o := &unstructured.Unstructured{Object: map[string]any{"spec": spec}}
		o.SetAPIVersion(migrate.OldAPI)
		o.SetKind("HostEndpoint")
		o.SetName(name)
		create(o)
	}
	_, said, err := run(t, kubeconfig, "--apply", "--delete-old")
	if !errors.As(err, new(*policy.UnmovedError)) || !strings.Contains(said, "node is required") || !strings.Contains(said, "deleted") {
		t.Errorf("%v\n%s", err, said)
	}
	good := &v3.HostEndpoint{ObjectMeta: metav1.ObjectMeta{Name: "good"}}
	if err := kube.Delete(t.Context(), good); err != nil {
		t.Error(err)
	}
}

// ownedByAnother: where another API server serves projectcalico.org/v3, old and new objects are the
// same, and nothing is touched.
func ownedByAnother(t *testing.T, kube client.Client, kubeconfig string) {
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "calico-api"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 443}}}}
	if err := kube.Create(t.Context(), service); err != nil {
		t.Fatal(err)
	}
	api := &unstructured.Unstructured{}
	api.SetAPIVersion("apiregistration.k8s.io/v1")
	api.SetKind("APIService")
	if err := kube.Get(t.Context(), client.ObjectKey{Name: "v3.projectcalico.org"}, api); err != nil {
		t.Fatal(err)
	}
	api.SetLabels(nil) // which says that the API server keeps it
	for field, v := range map[string]any{"service": map[string]any{"namespace": "default", "name": "calico-api"}, "insecureSkipTLSVerify": true} {
		if err := unstructured.SetNestedField(api.Object, v, "spec", field); err != nil {
			t.Fatal(err)
		}
	}
	if err := kube.Update(t.Context(), api); err != nil {
		t.Fatal(err)
	}
	for _, flag := range []string{"--apply", "--delete-old"} {
		if out, _, err := run(t, kubeconfig, flag); err == nil || out != "" || !strings.Contains(err.Error(), "is served by Service default/calico-api") {
			t.Errorf("%s: %v\n%s", flag, err, out)
		}
	}
	if err := kube.Delete(t.Context(), api); err != nil {
		t.Fatal(err)
	}
	// The API server makes its own again.
	if err := lab.Poll(t.Context(), 50*time.Millisecond, func() (bool, error) {
		api = &unstructured.Unstructured{}
		api.SetAPIVersion("apiregistration.k8s.io/v1")
		api.SetKind("APIService")
		if err := kube.Get(t.Context(), client.ObjectKey{Name: "v3.projectcalico.org"}, api); err != nil {
			return false, client.IgnoreNotFound(err)
		}
		return true, client.IgnoreNotFound(kube.List(t.Context(), &v3.TierList{}))
	}); err != nil {
		t.Fatal(err)
	}
}
