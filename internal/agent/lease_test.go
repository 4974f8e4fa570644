package agent

import (
	"errors"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"terway.dev/terway/internal/datapath/claims"
)

// The Lease means that the agent makes progress, not only that its process exists.
func TestOnlyAnAgentThatMakesProgressRenewsItsLease(t *testing.T) {
	e := newEnv(t, 1)
	want := e.a.desired
	e.kill()
	e.start()
	if e.a.progresses() {
		t.Error("an agent that has not checked its node yet renews its Lease")
	}
	e.setDesired(want)
	if !e.a.progresses() {
		t.Error("an agent that has checked its node does not renew its Lease")
	}
	e.sleep(stuck)
	if e.a.progresses() {
		t.Error("an agent whose repair loop hangs renews its Lease")
	}
	e.dp.failSync = errors.New("no such table")
	_ = e.a.Repair(t.Context())
	if !e.a.progresses() {
		t.Error("an agent that finds a problem is alive: it must renew its Lease")
	}
}

func TestLease(t *testing.T) {
	node, nn := unversioned(nodeObjects(1))
	node.UID = "uid-node"
	api, c := fakeCluster(t, interceptor.Funcs{}, node, nn)
	l := Lease{Client: c.Client, Namespace: "kube-system", Node: "node-1"}
	now := time.Unix(1_700_000_000, 0)
	for range 3 {
		now = now.Add(leaseRenewal)
		if err := l.renew(t.Context(), now); err != nil {
			t.Fatal(err)
		}
		got := &coordinationv1.Lease{}
		if err := api.Get(t.Context(), client.ObjectKey{Namespace: "kube-system", Name: "terwayd-node-1"}, got); err != nil {
			t.Fatal(err)
		}
		if _, ok := got.Labels[claims.LabelLease]; !ok || !got.Spec.RenewTime.Time.Equal(now) || len(got.OwnerReferences) != 1 || got.OwnerReferences[0].UID != "uid-node" {
			t.Fatalf("lease %+v, want one owned by the Node, renewed at %v", got, now)
		}
	}
}
