package podroute

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"terway.dev/terway/internal/vpcsim/faults"
)

// The cloud cannot be read: nothing is changed, new nodes take no pods, it is said once.
func TestCloudAway(t *testing.T) {
	g := newRig(t)
	g.join("n1", 1)
	g.run(minute)
	g.Fault(faults.Rule{Name: "away", Action: "*", Error: &faults.Error{Code: "Forbidden.RAM", Status: 403}})
	g.join("n2", 2)
	g.restart()
	g.run(10 * minute)
	g.want("n1", corev1.ConditionFalse, "RouteCreated")
	g.want("n2", corev1.ConditionTrue, "NoRouteCreated")
	if n := g.events.Count("ConfigMap", "NoPermission"); n != 1 {
		t.Errorf("events %v", g.events.All())
	}
	if n := g.Calls("DescribeInstances"); n > 40 {
		t.Errorf("%d calls in ten minutes", n)
	}
	g.Sim.RemoveFault("away")
	g.run(2 * minute)
	g.want("n2", corev1.ConditionFalse, "RouteCreated")
}
