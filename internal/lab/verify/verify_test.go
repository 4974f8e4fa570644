package verify

import (
	"context"
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"terway.dev/terway/internal/lab/instruments"
)

// What a killed check has left is removed: the framework deletes its namespace, and the suite's
// Undo, whose error sweep returns, reverts the rest.
func TestSweepUndoes(t *testing.T) {
	c := fake.NewClientset(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "verify-dns-x", Labels: map[string]string{namespaceLabel: "dns"}}},
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}})
	e := &Env{Cluster: instruments.Cluster{Client: c}}
	e.suite.Undo = func(_ context.Context, got *Env) error {
		if got != e {
			t.Errorf("the suite was given %p, want %p", got, e)
		}
		return errors.New("not undone")
	}
	if err := e.sweep(t.Context()); err == nil || !strings.Contains(err.Error(), "not undone") {
		t.Errorf("%v, want the error of the suite", err)
	}
	left, err := c.CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{})
	if err != nil || len(left.Items) != 1 || left.Items[0].Name != "shop" {
		t.Errorf("namespaces that are left: %v, %v", left, err)
	}
}
