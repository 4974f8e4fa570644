package tiers_test

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"terway.dev/terway/internal/controller/tiers"
)

// A kind's own APIService has no Service; that of another Calico's API server has one.
func TestCheckOwner(t *testing.T) {
	service := func(spec map[string]any) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": map[string]any{"name": "v3.projectcalico.org"}, "spec": spec,
		}}
	}
	check := func(objects ...runtime.Object) error {
		return tiers.CheckOwner(t.Context(), fake.NewClientBuilder().WithScheme(runtime.NewScheme()).WithRuntimeObjects(objects...).Build())
	}
	if err := check(); err != nil {
		t.Errorf("before the kinds are there: %v", err)
	}
	if err := check(service(map[string]any{"group": "projectcalico.org"})); err != nil {
		t.Errorf("with the chart's kinds: %v", err)
	}
	err := check(service(map[string]any{"service": map[string]any{"namespace": "calico-apiserver", "name": "calico-api", "port": int64(443)}}))
	if err == nil || !strings.Contains(err.Error(), "served by Service calico-apiserver/calico-api: another Calico owns it") {
		t.Errorf("beside another Calico: %v", err)
	}
}
