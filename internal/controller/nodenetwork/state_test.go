package nodenetwork

import (
	"net/netip"
	"testing"
	"time"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/config"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/ipam"
)

// A confirmation belongs to the spec that the node has seen. An address that was marked, confirmed,
// kept, given to a pod and marked again must not be unassigned because of the first confirmation.
func TestOldConfirmation(t *testing.T) {
	w := &work{Reconciler: &Reconciler{Options: Options{Now: time.Now}}, cfg: &config.Config{}, mem: newMemory(time.Now()), nn: &v1alpha1.NodeNetwork{}}
	w.nn.Spec.ENIs = []v1alpha1.ENI{{Token: "t", ID: "eni-1", Phase: v1alpha1.ENIReady, PrimaryAddress: "10.0.0.1",
		Addresses: []v1alpha1.Address{{Address: "10.0.0.1"}, {Address: "10.0.0.2", Releasing: true}}}}
	w.nn.Status.Released = []string{"10.0.0.2"}
	w.nn.Generation = 7
	for observed, want := range map[int64]ipam.Use{5: ipam.Free, 6: ipam.Free, 7: ipam.Released} {
		w.nn.Status.ObservedGeneration = observed
		if got := w.state(nil).ENIs[0].Addresses[1].Use; got != want {
			t.Errorf("confirmed at generation %d of 7: use %v, want %v", observed, got, want)
		}
	}
	// A pod has it: nothing else counts.
	w.nn.Status.Used = []v1alpha1.UsedAddress{{Address: "10.0.0.2"}}
	w.nn.Spec.ENIs[0].Addresses[1].Unassigning = true
	if got := w.state(nil).ENIs[0].Addresses[1].Use; got != ipam.Used {
		t.Errorf("use %v of an address that a pod has", got)
	}
}

// The cloud may reassign an address as soon as it is free: the record of the ENI that had it before
// must drop it.
func TestClaim(t *testing.T) {
	s := &v1alpha1.NodeNetworkSpec{ENIs: []v1alpha1.ENI{
		{Token: "a", Addresses: []v1alpha1.Address{{Address: "10.0.0.1"}, {Address: "10.0.0.2", Releasing: true, Unassigning: true}}},
		{Token: "b", Addresses: []v1alpha1.Address{{Address: "10.0.0.3"}}},
	}}
	claim(s, &s.ENIs[1], []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3")})
	if len(s.ENIs[0].Addresses) != 1 || len(s.ENIs[1].Addresses) != 2 || s.ENIs[1].Addresses[1] != (v1alpha1.Address{Address: "10.0.0.2"}) {
		t.Errorf("%+v", s.ENIs)
	}
}

// The comparison of a node finds each kind of difference.
func TestDifferences(t *testing.T) {
	a := netip.MustParseAddr
	s := &v1alpha1.NodeNetworkSpec{InstanceID: "i-1", ENIs: []v1alpha1.ENI{
		{Token: "t0", Phase: v1alpha1.ENICreating},
		{Token: "t1", ID: "eni-1", Phase: v1alpha1.ENIReady, Addresses: []v1alpha1.Address{{Address: "10.0.0.1"}, {Address: "10.0.0.2"}}},
		{Token: "t2", ID: "eni-2", Phase: v1alpha1.ENIReady},
		{Token: "t3", ID: "eni-3", Phase: v1alpha1.ENIReady},
		{Token: "t4", ID: "eni-4", Phase: v1alpha1.ENIDetaching},
	}}
	ours := map[string]cloud.ENI{
		"eni-0": {ID: "eni-0", Status: cloud.ENIAvailable, Tags: map[string]string{claims.TagToken: "t0"}}, // found by repeating the call
		"eni-1": {ID: "eni-1", Status: cloud.ENIInUse, InstanceID: "i-1", Tags: map[string]string{claims.TagToken: "t1"}, Addresses: []netip.Addr{a("10.0.0.1"), a("10.0.0.3")}},
		"eni-3": {ID: "eni-3", Status: cloud.ENIAvailable, Tags: map[string]string{claims.TagToken: "t3"}},
		"eni-5": {ID: "eni-5", Status: cloud.ENIInUse, InstanceID: "i-1", Tags: map[string]string{claims.TagToken: "t5"}},
		"eni-6": {ID: "eni-6", Status: cloud.ENIInUse, InstanceID: "i-2", Tags: map[string]string{claims.TagToken: "t6"}}, // elsewhere
		"eni-7": {ID: "eni-7", Status: cloud.ENIDeleting, Tags: map[string]string{claims.TagToken: "t7"}},
	}
	want := []string{"detached eni-3", "gone eni-1 10.0.0.2", "gone eni-2", "new eni-1 10.0.0.3", "new eni-5"}
	var got []string
	w := &work{nn: &v1alpha1.NodeNetwork{Spec: *s}}
	for _, d := range w.differences(ours, map[string]segment{}, time.Now()) {
		got = append(got, d.key)
	}
	if len(got) != len(want) {
		t.Fatalf("%q, want %q", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
