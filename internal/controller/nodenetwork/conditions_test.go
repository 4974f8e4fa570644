package nodenetwork

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/vpcsim/faults"
)

// The controller's conditions change no generation, so the node's confirmations stay valid, and the
// agent's conditions are kept.
func TestConditionsLeaveTheGeneration(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/24"})
	g.addNode("n1", "ecs.g6.large")
	g.settle("n1", minute)
	if c := g.condition("n1"); c.Status != metav1.ConditionTrue {
		t.Fatalf("at first: %+v", c)
	}
	g.addPods("n1", 8) // more than are free
	var said []string
	generations := map[int64]bool{}
	for _, code := range []string{"ServiceUnavailable", "Forbidden.RAM"} {
		g.Fault(faults.Rule{Name: "no", Action: "*", Error: &faults.Error{Code: code, Status: 403}})
		for range 5 {
			g.once("n1")
			g.agent("n1")
			g.Clock.Pass(time.Minute)
		}
		nn := g.nn("n1")
		said = append(said, g.condition("n1").Reason)
		generations[nn.Generation] = true
		if nn.Status.ObservedGeneration != nn.Generation || len(nn.Spec.Conditions) > 0 ||
			!meta.IsStatusConditionTrue(nn.Status.Conditions, v1alpha1.ConditionReady) || nn.Status.UsedCount == 0 {
			t.Errorf("%s: generation %d, observed %d; in the spec %+v; the agent's half %+v", code, nn.Generation, nn.Status.ObservedGeneration, nn.Spec.Conditions, nn.Status)
		}
	}
	if said[0] == said[1] || len(generations) != 1 {
		t.Errorf("reasons %v, in generations %v; want two reasons in one", said, generations)
	}
}

// A NodeNetwork of the previous version has the conditions in its spec. They are moved with their
// transition times.
func TestConditionsInTheSpecAreMoved(t *testing.T) {
	g, _ := running(t)
	g.Must(g.kube.Delete(context.Background(), g.node("n1")))
	g.turns(minute, false)
	nn := g.nn("n1")
	since := g.gone().LastTransitionTime
	nn.Spec.Conditions, nn.Status.ControllerConditions = nn.Status.ControllerConditions, nil
	status := nn.Status
	g.Must(g.kube.Update(context.Background(), nn))
	nn.Status = status
	g.Must(g.kube.Status().Update(context.Background(), nn))
	g.restart()
	g.turns(minute, false)
	nn = g.nn("n1")
	if c := g.gone(); len(nn.Spec.Conditions) > 0 || c == nil || !c.LastTransitionTime.Equal(&since) {
		t.Errorf("in the spec %+v, in the status %+v, want it since %s", nn.Spec.Conditions, c, since)
	}
}

// An agent of the previous version replaces the whole status with each report. The controller's
// conditions are written again, with their transition times.
func TestConditionsOutliveTheFormerAgent(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/24"})
	g.former = true
	g.addNode("n1", "ecs.g6.large")
	g.settle("n1", minute)
	first := g.condition("n1")
	g.Clock.Pass(minute)
	g.startPods("n1", 3)
	if len(g.nn("n1").Status.ControllerConditions) > 0 {
		t.Fatal("the report of the former version has left the controller's conditions")
	}
	g.settle("n1", minute)
	if c := g.condition("n1"); c.Status != metav1.ConditionTrue || !c.LastTransitionTime.Equal(&first.LastTransitionTime) {
		t.Errorf("after a report %+v, before %+v", c, first)
	}
	// The handshake of a release works with it.
	g.stopPods("n1", 3)
	g.settle("n1", 10*minute)
	g.rest("n1")
}

// Where the CRD is older than the controller, the controller works without the fields, and says
// what to do.
func TestConditionsWithoutTheField(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/24"})
	g.r.Client = fusedClient{WithWatch: interceptor.NewClient(g.kube, interceptor.Funcs{
		SubResourcePatch: func(context.Context, client.Client, string, client.Object, client.Patch, ...client.SubResourcePatchOption) error {
			return errors.New(`NodeNetwork "n1" is invalid: strict decoding error: unknown field "status.controllerConditions"`)
		},
	}), fuse: g.fuse}
	g.addNode("n1", "ecs.g6.large")
	g.settle("n1", minute)
	g.startPods("n1", 3)
	g.settle("n1", minute)
	if g.events.Count("CRDOutdated", "*v1alpha1.NodeNetwork") != 1 || !g.events.Has("kubectl apply") {
		t.Errorf("events %v", strings.Join(g.events.All(), "\n"))
	}
	g.rest("n1")
}
