package nodenetwork

import (
	"context"
	"errors"
	"slices"
	"testing"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/datapath/claims"
)

// A spec is written only over the version that the process knows, whatever the agent reports
// meanwhile.
func TestSave(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/24"})
	g.addNode("n1", "ecs.g6.large")
	g.settle("n1", minute)
	known := g.nn("n1")
	save := func(change func(*v1alpha1.NodeNetwork)) error {
		w := &work{Reconciler: g.r, mem: newMemory(g.Clock.Now()), name: "n1", nn: known.DeepCopy(), saved: known.DeepCopy()}
		change(w.nn)
		return w.save(context.Background())
	}

	reported := g.nn("n1")
	reported.Status.Demand = 7
	g.Must(g.kube.Status().Update(context.Background(), reported))
	g.Must(save(func(nn *v1alpha1.NodeNetwork) { nn.Spec.ClusterID = "one" }))
	now := g.nn("n1")
	if now.Spec.ClusterID != "one" || now.Status.Demand != 7 || now.Generation != known.Generation+1 {
		t.Errorf("after a report: cluster %q, demand %d, generation %d after %d", now.Spec.ClusterID, now.Status.Demand, now.Generation, known.Generation)
	}
	if err := save(func(nn *v1alpha1.NodeNetwork) { nn.Spec.ClusterID = "two" }); !errors.Is(err, errMoved) {
		t.Errorf("over a spec that another leader has written: %v", err)
	}
	if g.nn("n1").Spec.ClusterID != "one" {
		t.Error("what another leader wrote is gone")
	}

	known = g.nn("n1")
	g.Must(save(func(nn *v1alpha1.NodeNetwork) { nn.Finalizers = append(nn.Finalizers, "example.com/more") }))
	if f := g.nn("n1").Finalizers; !slices.Contains(f, "example.com/more") || !slices.Contains(f, claims.FinalizerENIs) {
		t.Errorf("finalizers %v", f)
	}
}
