package podroute

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"terway.dev/terway/internal/vpcsim/state"
)

// An instance that is gone loses its entry, though its Node still exists; an instance that is
// missing in one list does not.
func TestInstanceGone(t *testing.T) {
	g := newRig(t)
	a, b := g.join("n1", 1), g.join("n2", 2)
	g.run(minute)
	g.Clock.Pass(5 * minute)
	before := g.Calls("DescribeInstances")
	g.hidden[a], g.hidden[b] = true, true
	g.once()
	g.Clock.Pass(5 * time.Second)
	g.once()
	clear(g.hidden)
	g.run(minute)
	if g.Calls("DescribeInstances") < before+3 {
		t.Error("instances that were missing are not queried again")
	}
	if g.leads(blockN(1)) != a || g.leads(blockN(2)) != b || g.Calls("DeleteRouteEntries") != 0 {
		t.Fatal("an old list made entries go")
	}
	g.want("n1", corev1.ConditionFalse, "RouteCreated")
	g.hidden[a] = true
	g.run(12 * minute)
	if g.leads(blockN(1)) != "" || g.leads(blockN(2)) != b {
		t.Errorf("entries %+v", g.custom(0))
	}
	g.want("n1", corev1.ConditionTrue, "InstanceGone")
	g.want("n2", corev1.ConditionFalse, "RouteCreated")
}

// The first list that a controller reads lacks an instance for a moment: its node keeps its route.
func TestFirstListLacksAnInstance(t *testing.T) {
	g := newRig(t)
	g.join("n0", 0)
	id := g.join("n1", 1)
	g.run(minute)
	g.restart()
	g.hidden[id] = true
	g.run(5 * time.Second)
	g.want("n1", corev1.ConditionFalse, "RouteCreated")
	delete(g.hidden, id)
	g.run(minute)
	g.want("n1", corev1.ConditionFalse, "RouteCreated")
	if g.leads(blockN(1)) != id || g.Calls("DeleteRouteEntries") != 0 {
		t.Errorf("it leads to %q after %d deletions", g.leads(blockN(1)), g.Calls("DeleteRouteEntries"))
	}
}

// A missing instance is noticed because its entry cannot be created, before the next resync.
func TestInstanceGoneMeanwhile(t *testing.T) {
	g := newRig(t)
	g.join("n1", 1)
	id := g.instance()
	g.register("n2", id)
	g.run(minute)
	g.once() // has looked at everything just now
	g.Write(func(s state.API) error {
		return s.DeleteInstance(state.DeleteInstanceRequest{InstanceId: id, Force: true})
	})
	n := &corev1.Node{}
	g.Must(g.kube.Get(context.Background(), types.NamespacedName{Name: "n2"}, n))
	n.Spec.PodCIDR, n.Spec.PodCIDRs = blockN(2), []string{blockN(2)}
	g.Must(g.kube.Update(context.Background(), n))
	g.run(30 * time.Second)
	g.want("n2", corev1.ConditionTrue, "InstanceGone")
}

// A list that lacks instances whose kubelets are alive, for whatever reason, cuts off no pod; it is
// reported. Without a live kubelet the entry is deleted.
func TestInstanceGoneOfALiveNode(t *testing.T) {
	g := newRig(t)
	a, b := g.join("n1", 1), g.join("n2", 2)
	g.ready("n1", corev1.ConditionTrue)
	g.ready("n2", corev1.ConditionTrue)
	g.run(minute)
	g.hidden[a], g.hidden[b] = true, true
	g.run(20 * minute)
	if g.leads(blockN(1)) != a || g.leads(blockN(2)) != b || g.Calls("DeleteRouteEntries") != 0 {
		t.Fatalf("entries %+v", g.custom(0))
	}
	// It is reported, and keeps no pods away: the routes exist.
	g.want("n1", corev1.ConditionFalse, "InstanceGone")
	if n := g.Calls("DescribeInstances"); n > 12 {
		t.Errorf("%d lists of instances in 20 minutes", n)
	}
	delete(g.hidden, b)
	g.ready("n1", corev1.ConditionUnknown)
	g.run(6 * minute)
	if g.leads(blockN(1)) != "" || g.leads(blockN(2)) != b {
		t.Errorf("entries %+v", g.custom(0))
	}
	g.want("n1", corev1.ConditionTrue, "InstanceGone")
	g.want("n2", corev1.ConditionFalse, "RouteCreated")
}
