//go:build e2e

package api

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/internal/agent"
	"terway.dev/terway/internal/lab"
)

// An agent finds the replicas of the hub by their Service's EndpointSlices, hears when they change, and reads whom to trust; what
// is another Service's, or in another namespace, is not for it.
func TestAgentsFindTheHub(t *testing.T) {
	_, rest := apiServer(t)
	kube, err := client.New(rest, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	create := func(o client.Object) {
		t.Helper()
		if err := kube.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	slice := func(namespace, service, address string) *discoveryv1.EndpointSlice {
		name, port := "policy", int32(10366)
		return &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Namespace: namespace, GenerateName: service + "-", Labels: map[string]string{discoveryv1.LabelServiceName: service}},
			AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{address}}},
			Ports: []discoveryv1.EndpointPort{{Name: &name, Port: &port}},
		}
	}
	const namespace, service = "hubs", "terway-policy"
	for _, n := range []string{namespace, "others"} {
		create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: n}})
	}
	create(slice(namespace, "another", "10.0.0.8"))
	create(slice("others", service, "10.0.0.9"))

	hub, err := agent.NewPolicyHub(rest, namespace, service)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- hub.Run(ctx) }()
	finds := func(want ...string) {
		t.Helper()
		var got []string
		var failure error
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := lab.Poll(ctx, 50*time.Millisecond, func() (bool, error) {
			got, failure = hub.Replicas(ctx)
			return failure == nil && slices.Equal(got, want), nil
		}); err != nil {
			t.Fatalf("%v: found %v, %v, want %v", err, got, failure, want)
		}
	}
	finds()
	one := slice(namespace, service, "10.0.0.1")
	create(one)
	finds("10.0.0.1:10366")
	create(slice(namespace, service, "10.0.0.2"))
	finds("10.0.0.1:10366", "10.0.0.2:10366")
	if err := kube.Delete(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	finds("10.0.0.2:10366")

	if _, err := hub.Trust(); err == nil || !strings.Contains(err.Error(), "ConfigMap hubs/terway-policy") {
		t.Errorf("without a ConfigMap: %v", err)
	}
	trust := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: service}}
	create(trust)
	if _, err := hub.Trust(); err == nil || !strings.Contains(err.Error(), "has no ca.crt yet") {
		t.Errorf("with an empty ConfigMap: %v", err)
	}
	trust.Data = map[string]string{"ca.crt": "certificates"}
	if err := kube.Update(t.Context(), trust); err != nil {
		t.Fatal(err)
	}
	if pem, err := hub.Trust(); err != nil || string(pem) != "certificates" {
		t.Errorf("%q, %v", pem, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
