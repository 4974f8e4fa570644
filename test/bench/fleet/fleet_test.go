package fleet

import (
	"slices"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"terway.dev/terway/api/v1alpha1"
)

func one(t *testing.T) *Node {
	t.Helper()
	f, err := New(&rest.Config{Host: "http://127.0.0.1:1"}, []string{"n1"})
	if err != nil {
		t.Fatal(err)
	}
	return f.Node("n1")
}

// word returns a NodeNetwork from the controller: an ENI with these addresses.
func word(generation int64, phase v1alpha1.ENIPhase, addresses ...v1alpha1.Address) *v1alpha1.NodeNetwork {
	nn := &v1alpha1.NodeNetwork{Spec: v1alpha1.NodeNetworkSpec{
		Datapath: "auto", Pool: v1alpha1.Pool{Min: 1, Max: 8, CoolingSeconds: 60},
		ENIs: []v1alpha1.ENI{{Token: "t", ID: "eni-1", MAC: "00:16:3e:00:00:01", Phase: phase, Addresses: addresses}},
	}}
	nn.Name, nn.UID, nn.Generation = "n1", "uid", generation
	return nn
}

func TestAPodWaitsForAnAddress(t *testing.T) {
	n := one(t)
	got := 0
	n.Add(func(d time.Duration) {
		if d == 0 {
			t.Error("a pod that waited is counted as one that did not")
		}
		got++
	}, "a/b")
	if st := n.status(); st.Demand != 1 {
		t.Errorf("demand %d while one waits", st.Demand)
	}
	n.take(word(1, v1alpha1.ENIAttaching, v1alpha1.Address{Address: "10.0.0.1"}))
	if got != 0 {
		t.Error("an address of an ENI that is being attached was given out")
	}
	n.take(word(2, v1alpha1.ENIReady, v1alpha1.Address{Address: "10.0.0.1"}))
	st := n.status()
	if got != 1 || st.Demand != 0 || st.ObservedGeneration != 2 || len(st.Used) != 1 || st.Used[0].Pod != "a/b" {
		t.Errorf("got %d, status %+v", got, st)
	}
	n.Delete("a/b")
	if st = n.status(); len(st.Used) != 0 || !slices.Equal(st.Cooling, []string{"10.0.0.1"}) {
		t.Errorf("after DEL: %+v", st)
	}
}

func TestAnAddressIsConfirmedOnlyWhenNoPodHasIt(t *testing.T) {
	n := one(t)
	n.take(word(1, v1alpha1.ENIReady, v1alpha1.Address{Address: "10.0.0.1"}, v1alpha1.Address{Address: "10.0.0.2"}))
	n.Add(func(time.Duration) {}, "a/b")
	n.take(word(2, v1alpha1.ENIReady, v1alpha1.Address{Address: "10.0.0.1", Releasing: true}, v1alpha1.Address{Address: "10.0.0.2", Releasing: true}))
	if st := n.status(); !slices.Equal(st.Released, []string{"10.0.0.2"}) {
		t.Errorf("released %v", st.Released)
	}
	// An older version changes nothing.
	n.take(word(1, v1alpha1.ENIReady, v1alpha1.Address{Address: "10.0.0.2"}))
	if st := n.status(); st.ObservedGeneration != 2 || n.Count().Free != 0 {
		t.Errorf("an older version was accepted: %+v, %+v", st, n.Count())
	}
}
