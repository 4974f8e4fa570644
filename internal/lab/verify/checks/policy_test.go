package checks

import (
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/instruments"
	"terway.dev/terway/internal/lab/verify"
)

// Of checks that run side by side each removes its own objects that no namespace has. Undo removes those of all checks, and no user's.
func TestPoliciesOfOneCheck(t *testing.T) {
	tier := func(name, check string) *unstructured.Unstructured {
		o := &unstructured.Unstructured{}
		o.SetAPIVersion("projectcalico.org/v3")
		o.SetKind("Tier")
		o.SetName(name)
		if check != "" {
			o.SetLabels(map[string]string{ofCheck: check})
		}
		return o
	}
	c := fake.NewClientBuilder().WithObjects(tier("own", "verify-a"), tier("other", "verify-b"), tier("user", "")).Build()
	e := &env{&verify.Env{Cluster: instruments.Cluster{Objects: c, Lab: &lab.State{Options: lab.Options{Policy: true}}, Namespace: "verify-a"}}}
	left := func() (names []string) {
		t.Helper()
		list := &unstructured.UnstructuredList{}
		list.SetAPIVersion("projectcalico.org/v3")
		list.SetKind("TierList")
		if err := c.List(t.Context(), list); err != nil {
			t.Fatal(err)
		}
		for _, o := range list.Items {
			names = append(names, o.GetName())
		}
		slices.Sort(names)
		return names
	}
	for _, step := range []struct {
		of   client.ListOption
		want []string
	}{{e.ownPolicies(), []string{"other", "user"}}, {client.HasLabels{ofCheck}, []string{"user"}}} {
		if err := e.removePolicies(t.Context(), step.of); err != nil {
			t.Fatal(err)
		}
		if got := left(); !slices.Equal(got, step.want) {
			t.Errorf("left: %q, want %q", got, step.want)
		}
	}
}
