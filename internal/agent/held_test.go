package agent

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"terway.dev/terway/api/v1alpha1"
)

// isHeld reports whether the desired state has an address, in the form of an ADD's answer, as held.
func (e *env) isHeld(prefix string) bool {
	a := netip.MustParsePrefix(prefix).Addr()
	return slices.ContainsFunc(e.a.desired.ENIs, func(eni DesiredENI) bool {
		return slices.ContainsFunc(eni.Addresses, func(d DesiredAddress) bool { return d.Address == a && d.Held })
	})
}

// An address that a load balancer still has goes to no pod, also when the agent was restarted and no API
// server answers, and the waiting pod's event says so.
func TestHeldAddressGoesToNoPod(t *testing.T) {
	e := newEnv(t, 0)
	node, nn := unversioned(nodeObjects(1, "192.168.32.1"))
	nn.Spec.Datapath, nn.Spec.ENIs[0].Addresses[0].Held = "auto", true
	api, c := fakeCluster(t, interceptor.Funcs{}, node, nn)
	s := NewNodeSync(e.a, c, "node-1")
	if err := s.receive(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	e.repair()
	const why = "1 that load balancers still have as backends"
	if got, err := e.add("a"); !says(err, types.ErrTryAgainLater, why) {
		t.Errorf("%s, %+v, want an error with %q", got, err, why)
	}

	e.kill()
	e.start()
	s = NewNodeSync(e.a, c, "node-1")
	if err := s.restoreSaved(); err != nil {
		t.Fatal(err)
	}
	e.repair()
	if got, err := e.add("a"); !says(err, types.ErrTryAgainLater, why) {
		t.Errorf("after a restart: %s, %+v, want an error with %q", got, err, why)
	}

	got := &v1alpha1.NodeNetwork{}
	if err := api.Get(t.Context(), client.ObjectKeyFromObject(nn), got); err != nil {
		t.Fatal(err)
	}
	got.Generation, got.Spec.ENIs[0].Addresses[0].Held = 2, false
	if err := api.Update(t.Context(), got); err != nil {
		t.Fatal(err)
	}
	if err := s.receive(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if a := e.mustAdd("a"); a != "192.168.32.1/32" {
		t.Errorf("address %s", a)
	}
}
