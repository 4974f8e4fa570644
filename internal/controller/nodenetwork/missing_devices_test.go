package nodenetwork

import (
	"context"
	"testing"
	"time"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/vpcsim/state"
)

// A detached ENI is attached again when the agent reports that its device is missing, without a
// sweep and without waiting for a second list.
func TestAMissingDeviceHasTheNodeComparedAtOnce(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/24"})
	instance := g.addNode("n1", "ecs.g6.2xlarge")
	g.startPods("n1", 2)
	g.settle("n1", 2*minute)
	eni := g.nn("n1").Spec.ENIs[0].ID
	g.Clock.Pass(5 * time.Minute) // the controller has not done anything to it for long
	g.Write(func(s state.API) error {
		return s.DetachNetworkInterface(state.DetachNetworkInterfaceRequest{NetworkInterfaceId: eni, InstanceId: instance})
	})
	g.Clock.Pass(3 * time.Second)
	if g.once("n1"); g.nn("n1").Spec.ENIs[0].Phase != v1alpha1.ENIReady {
		t.Fatal("no device is missing yet")
	}
	nn := g.nn("n1")
	nn.Status.MissingENIs = []string{eni}
	g.Must(g.kube.Status().Update(context.Background(), nn))
	wait, _ := g.once("n1")
	if p := g.nn("n1").Spec.ENIs[0].Phase; p != v1alpha1.ENIAttaching {
		t.Fatalf("the ENI is %s, want it to be attached again", p)
	}
	if wait >= g.r.Poll {
		t.Errorf("the next reconcile is after %s, although pods are cut off", wait)
	}
	g.settle("n1", minute)
	g.agree("n1")
	if p := g.nn("n1").Spec.ENIs[0].Phase; p != v1alpha1.ENIReady {
		t.Errorf("the ENI is %s", p)
	}
}

// ENIs of pods that the scheduler does not count must not be offered.
func TestUncountedENIsAreNotOffered(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/24"}, withExclusive(3, 1))
	g.addNode("n1", "ecs.g6.2xlarge")
	g.startExclusive("n1", 2)
	g.settle("n1", 2*minute)
	for uncounted, want := range map[int]int{0: 3, 1: 2, 2: 1, 9: 1} {
		nn := g.nn("n1")
		nn.Status.UncountedENIs = uncounted
		g.Must(g.kube.Status().Update(context.Background(), nn))
		g.once("n1")
		if n := g.offered("n1"); n != want {
			t.Errorf("%d ENIs are offered when 2 are held, %d of them uncounted; want %d", n, uncounted, want)
		}
	}
}
