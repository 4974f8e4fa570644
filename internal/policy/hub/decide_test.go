package hub_test

import (
	"reflect"
	"testing"

	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/naive"
)

// The hub answers as the model does, for each pod that policies concern.
func TestDecide(t *testing.T) {
	if _, ok := newHub("a").Decide(policy.Connection{}); ok {
		t.Error("a hub that knows nothing decides")
	}
	denied := 0
	for seed := range uint64(20) {
		c, h := newCluster(t, seed), newHub("a")
		if err := h.Apply(c.all()); err != nil {
			t.Fatal(err)
		}
		if _, ok := h.Decide(policy.Connection{Pod: policy.NamespacedName{Namespace: "no", Name: "such"}}); ok {
			t.Error("it decides about a pod that is not there")
		}
		for range 50 {
			conn, ok := c.Connection(c.cluster)
			if !ok {
				break
			}
			want, _ := naive.Decide(c.set, c.cluster, conn)
			got, ok := h.Decide(conn)
			if !ok || !reflect.DeepEqual(got, want) {
				t.Fatalf("seed %d: %+v: %+v (%v), want %+v", seed, conn, got, ok, want)
			}
			if got.Action == policy.Deny {
				denied++
			}
		}
	}
	if denied == 0 {
		t.Error("nothing was denied: this test sees little")
	}
}
