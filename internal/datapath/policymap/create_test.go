package policymap

import (
	"testing"

	"terway.dev/terway/internal/datapath/policymap/policymaptest"
	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/testutil"
)

// The maps that Create makes are those of the programs, which find what was written before they were there.
func TestCreate(t *testing.T) {
	t.Parallel()
	testutil.RequireRoot(t)
	made, err := Create()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := Close(made); err != nil {
			t.Error(err)
		}
	})
	w, err := New(made, DefaultLimits)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	set, cluster := rules(10)
	if err := w.Write(compiled(t, set, cluster)); err != nil {
		t.Fatal(err)
	}
	k := &kernel{policymaptest.Load(t, made), w}
	if got := k.action(t, from(1)); got != policy.Allow {
		t.Errorf("the programs say %s of what is allowed", got)
	}
	if n, err := k.Programs.Endpoint(addr("10.1.0.0")); err != nil || n == 0 {
		t.Errorf("the pod is endpoint %d, %v", n, err)
	}
}
