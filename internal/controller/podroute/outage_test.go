package podroute

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/controller/cloudtest"
	"terway.dev/terway/internal/vpcsim/faults"
)

// While the cloud cannot be read nothing is changed, new nodes take no pods and their conditions
// say why; an event is recorded once.
func TestCloudAway(t *testing.T) {
	g := newRig(t)
	g.join("n1", 1)
	g.run(minute)
	g.Fault(faults.Rule{Name: "away", Action: "*", Error: &faults.Error{Code: "Forbidden.RAM", Status: 403}})
	g.join("n2", 2)
	g.restart()
	g.run(10 * minute)
	g.want("n1", corev1.ConditionFalse, "RouteCreated")
	g.want("n2", corev1.ConditionTrue, "NoPermission")
	for _, object := range []string{"ConfigMap", "Node"} {
		if n := g.events.Count(object, "NoPermission"); n != 1 {
			t.Errorf("%d events of %s: %v", n, object, g.events.All())
		}
	}
	if n := g.Calls("DescribeInstances"); n > 40 {
		t.Errorf("%d calls in ten minutes", n)
	}
	g.Sim.RemoveFault("away")
	g.run(2 * minute)
	g.want("n2", corev1.ConditionFalse, "RouteCreated")
}

// away makes the cloud not answer an action.
func (g *rig) away(action string) {
	g.Helper()
	g.Fault(faults.Rule{Name: "away", Action: action, Error: &faults.Error{Code: "ServiceUnavailable", Status: 503}})
}

// atOnce returns by how much something rises when the controller is woken ten times in a row.
func (g *rig) atOnce(count func() int) int {
	g.Helper()
	g.once()
	before := count()
	for range 10 {
		g.once()
	}
	return count() - before
}

// give gives a node the nth block.
func (g *rig) give(name string, n int) {
	g.Helper()
	node := &corev1.Node{}
	g.Must(g.kube.Get(context.Background(), types.NamespacedName{Name: name}, node))
	node.Spec.PodCIDR, node.Spec.PodCIDRs = blockN(n), []string{blockN(n)}
	g.Must(g.kube.Update(context.Background(), node))
	g.configure(name, blockN(n))
}

// While the cloud does not say where instances are, its earlier answers are used, and the condition
// of a node without one says why it waits.
func TestInstancesAreNotListed(t *testing.T) {
	g := newRig(t)
	first, late := g.join("n1", 1), g.instance()
	g.join("n2", 2)
	g.register("n3", late)
	g.run(minute)
	g.away("DescribeInstances")
	g.run(6 * minute) // all answers are old
	g.leave("n2")
	g.give("n3", 3)
	unknown := g.join("n4", 4)
	g.run(minute)
	if g.leads(blockN(1)) != first || g.leads(blockN(2)) != "" || g.leads(blockN(3)) != late || g.leads(blockN(4)) != "" {
		t.Errorf("entries %+v", g.custom(0))
	}
	g.want("n1", corev1.ConditionFalse, "RouteCreated")
	g.want("n3", corev1.ConditionFalse, "RouteCreated")
	g.want("n4", corev1.ConditionTrue, "CloudTrouble")
	if c := g.condition("n4"); !strings.Contains(c.Message, unknown) {
		t.Errorf("message %q", c.Message)
	}
	if g.events.Count("n4", "CloudTrouble") != 1 || g.events.Count("ConfigMap", "CloudTrouble") != 1 {
		t.Errorf("events %v", g.events.All())
	}
	// Whatever wakes the controller, a query that has just failed is not repeated.
	if n := g.atOnce(func() int { return len(g.asked) }); n > 1 {
		t.Errorf("%d queries at once", n)
	}
	g.Sim.RemoveFault("away")
	g.run(2 * minute)
	g.want("n4", corev1.ConditionFalse, "RouteCreated")
}

// While the cloud does not list the VPC's tables, the earlier list is used. A controller without
// one changes nothing, and conditions say why.
func TestTablesAreNotListed(t *testing.T) {
	g := newRig(t)
	g.join("n1", 1)
	g.run(minute)
	g.away("DescribeRouteTableList")
	g.run(6 * minute)
	id := g.join("n2", 2)
	g.run(minute)
	if g.leads(blockN(2)) != id {
		t.Errorf("entries %+v", g.custom(0))
	}
	g.want("n2", corev1.ConditionFalse, "RouteCreated")
	if n := g.events.Count("ConfigMap", "CloudTrouble"); n != 1 {
		t.Errorf("events %v", g.events.All())
	}
	g.restart()
	g.join("n3", 3)
	g.run(10 * minute)
	g.want("n1", corev1.ConditionFalse, "RouteCreated")
	g.want("n3", corev1.ConditionTrue, "CloudTrouble")
	if n := g.Calls("DescribeRouteTableList"); n > 80 { // an ask is two attempts here
		t.Errorf("%d calls", n)
	}
	g.Sim.RemoveFault("away")
	g.run(2 * minute)
	g.want("n3", corev1.ConditionFalse, "RouteCreated")
}

// Tables whose entries cannot be read are not changed; conditions of waiting nodes say why.
func TestTablesAreNotRead(t *testing.T) {
	g := newRig(t)
	g.join("n1", 1)
	g.run(minute)
	g.away("DescribeRouteEntryList")
	g.join("n2", 2)
	g.register("n3", g.instance(), blockN(1)) // n1 has it, by an entry that is not seen now
	g.run(10 * minute)
	g.want("n1", corev1.ConditionFalse, "RouteCreated")
	g.want("n2", corev1.ConditionTrue, "CloudTrouble")
	g.want("n3", corev1.ConditionTrue, "CloudTrouble")
	if n := g.atOnce(func() int { return g.Calls("DescribeRouteEntryList") }); n > 2 {
		t.Errorf("%d calls at once", n)
	}
	g.Sim.RemoveFault("away")
	g.run(2 * minute)
	g.want("n2", corev1.ConditionFalse, "RouteCreated")
	g.want("n3", corev1.ConditionTrue, "PodCIDRClaimed")
}

// An id that the cloud refuses affects only its node.
func TestMalformedInstance(t *testing.T) {
	g := newRig(t)
	g.register("bad", malformed, blockN(9))
	ids := map[string]int{g.join("n1", 1): 1, g.join("n2", 2): 2, g.join("n3", 3): 3}
	g.run(10 * minute)
	for id, n := range ids {
		if g.leads(blockN(n)) != id {
			t.Errorf("%s leads to %q, want %s", blockN(n), g.leads(blockN(n)), id)
		}
	}
	g.want("bad", corev1.ConditionTrue, "BadRequest")
	if n := g.events.Count("bad", "BadRequest"); n != 1 {
		t.Errorf("%d events: %v", n, g.events.All())
	}
	if len(g.asked) > 40 {
		t.Errorf("%d queries in ten minutes", len(g.asked))
	}
	if n := g.atOnce(func() int { return len(g.asked) }); n > 1 {
		t.Errorf("%d queries at once", n)
	}
}

// An instance no longer counts as gone while the cloud does not answer: its node may lose its
// kubelet for the same reason.
func TestInstanceGoneBeforeAnOutage(t *testing.T) {
	g := newRig(t)
	id := g.join("n1", 1)
	g.ready("n1", corev1.ConditionTrue)
	g.run(minute)
	g.hidden[id] = true
	g.run(12 * minute)
	g.want("n1", corev1.ConditionFalse, "InstanceGone")
	g.away("DescribeInstances")
	g.run(6 * minute)
	g.ready("n1", corev1.ConditionUnknown)
	g.run(10 * minute)
	if g.leads(blockN(1)) != id {
		t.Error("an entry was deleted because of an old answer")
	}
	g.want("n1", corev1.ConditionFalse, "InstanceGone")
	g.Sim.RemoveFault("away")
	g.run(2 * minute)
	if g.leads(blockN(1)) != "" {
		t.Error("the entry stays, though the cloud says again that the instance is gone")
	}
}

// The cluster's VPC is not guessed from the nodes that happen to be known.
func TestHomeIsNotGuessed(t *testing.T) {
	g := newRig(t)
	old := &node{object: &corev1.Node{}, instance: "i-old"}
	old.object.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionFalse}}
	nodes := []*node{old, {object: &corev1.Node{}, instance: "i-elsewhere"}}
	for _, x := range []struct {
		vpc  string
		err  error
		want string
	}{
		{vpc: "vpc-1", want: "vpc-1"},
		{vpc: "vpc-1", err: errors.New("away"), want: "vpc-1"},
		{err: errors.New("away")},
		{err: &cloud.Error{Class: cloud.Invalid}, want: "vpc-2"},
	} {
		g.r.instances.known = map[string]*instance{"i-old": {vpc: x.vpc, err: x.err}, "i-elsewhere": {vpc: "vpc-2"}}
		if got := g.r.clusterVPC(nodes); got != x.want {
			t.Errorf("%+v: clusterVPC is %q", x, got)
		}
	}
}

// slowCloud takes long for its first answer, and lists nothing.
type slowCloud struct {
	Cloud
	clock *cloudtest.Clock
	took  time.Duration
}

func (c *slowCloud) DescribeInstances(context.Context, []string) ([]cloud.Instance, error) {
	c.clock.Pass(c.took)
	c.took = time.Second
	return nil, nil
}

// An answer is as old as its call, however long the call waited: two calls shortly after each other
// are one answer.
func TestAgeOfAnAnswer(t *testing.T) {
	g := newRig(t)
	s := g.r.instances
	s.cloud = &slowCloud{clock: g.Clock, took: 20 * time.Second}
	s.learn(t.Context(), []string{"i-1"})
	s.learn(t.Context(), []string{"i-1"})
	if s.gone("i-1") {
		t.Error("gone, because of two answers of the same moment")
	}
	g.Clock.Pass(s.settle)
	s.learn(t.Context(), []string{"i-1"})
	if !s.gone("i-1") {
		t.Error("still there")
	}
}
