package podroute

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/vpcsim/faults"
	"terway.dev/terway/internal/vpcsim/state"
)

const minute = time.Minute

// The life of a cluster's routes: nodes come in a bunch, one goes, one is replaced.
func TestNodesComeAndGo(t *testing.T) {
	g := newRig(t)
	ids := map[string]string{}
	for i := range 60 { // more than one call takes
		name := fmt.Sprintf("n%d", i)
		ids[name] = g.join(name, i)
	}
	g.once()
	g.want("n0", corev1.ConditionTrue, "NoRouteCreated")
	g.run(30 * time.Second)
	for i := range 60 {
		name := fmt.Sprintf("n%d", i)
		if got := g.leads(blockN(i)); got != ids[name] {
			t.Fatalf("%s leads to %q, want %s of %s", blockN(i), got, ids[name], name)
		}
		g.want(name, corev1.ConditionFalse, "RouteCreated")
	}
	if n := g.Calls("CreateRouteEntries"); n != 2 {
		t.Errorf("%d calls for 60 nodes, want 2", n)
	}
	if e := g.custom(0)[0]; e.RouteEntryName != "terway-c1" || !strings.HasPrefix(e.Description, "pods of node n") || e.NextHopType != "Instance" {
		t.Errorf("entry %+v", e)
	}
	if n := g.events.Count("Normal RouteCreated"); n != 60 {
		t.Errorf("%d events RouteCreated for 60 nodes", n)
	}

	g.leave("n1")
	g.leave("n2")
	fresh := g.instance()
	g.register("n2", fresh, blockN(2)) // the same name and block, another instance
	g.run(30 * time.Second)
	if g.leads(blockN(1)) != "" || g.leads(blockN(2)) != fresh || len(g.custom(0)) != 59 {
		t.Errorf("n1: %q, n2: %q, %d entries", g.leads(blockN(1)), g.leads(blockN(2)), len(g.custom(0)))
	}
	g.want("n2", corev1.ConditionFalse, "RouteCreated")

	created, deleted, listed := g.Calls("CreateRouteEntries"), g.Calls("DeleteRouteEntries"), g.Calls("DescribeRouteEntryList")
	g.run(30 * minute)
	if g.Calls("CreateRouteEntries") != created || g.Calls("DeleteRouteEntries") != deleted {
		t.Error("calls although nothing has changed")
	}
	if n := g.Calls("DescribeRouteEntryList") - listed; n > 8 {
		t.Errorf("%d lists in half an hour of rest, want one in five minutes", n)
	}
}

// A node says what is wrong with it, and the others have their routes.
func TestNodesWithATrouble(t *testing.T) {
	g := newRig(t)
	good := g.join("good", 1)
	g.register("no-block", g.instance())
	g.register("outside", g.instance(), "10.9.0.0/24")
	g.register("twin", g.instance(), blockN(1))
	g.register("no-instance", "", blockN(3))
	g.register("no-such-instance", "i-none", blockN(4))
	other, vswitch, group := g.network("10.0.0.0/8", "10.0.0.0/20")
	_ = other
	g.vswitch, g.group = vswitch, group
	g.register("elsewhere", g.instance(), blockN(5))
	g.run(minute)
	if g.leads(blockN(1)) != good || len(g.custom(0)) != 1 {
		t.Errorf("entries %+v", g.custom(0))
	}
	g.want("good", corev1.ConditionFalse, "RouteCreated")
	for name, reason := range map[string]string{"no-block": "NoPodCIDR", "outside": "PodCIDROutside", "twin": "PodCIDRClaimed",
		"no-instance": "ProviderIDInvalid", "no-such-instance": "InstanceGone", "elsewhere": "InstanceInOtherVPC"} {
		g.want(name, corev1.ConditionTrue, reason)
		if n := g.events.Count(name, "Warning", reason); n != 1 {
			t.Errorf("%d events %s of node %s, want 1", n, reason, name)
		}
	}
	// What was wrong is put right.
	g.leave("good")
	n := &corev1.Node{}
	g.Must(g.kube.Get(context.Background(), types.NamespacedName{Name: "no-block"}, n))
	n.Spec.PodCIDR, n.Spec.PodCIDRs = blockN(6), []string{blockN(6)}
	g.Must(g.kube.Update(context.Background(), n))
	g.configure("no-block", blockN(6))
	g.run(minute)
	g.want("twin", corev1.ConditionFalse, "RouteCreated")
	g.want("no-block", corev1.ConditionFalse, "RouteCreated")
}

// A node takes pods when its plugins give them addresses of the block that is routed.
func TestNodeWhosePluginsHaveNoBlock(t *testing.T) {
	g := newRig(t)
	i := g.join("n1", 1)
	g.configure("n1") // nothing yet
	g.taint("n1", v1alpha1.TaintNotReady, "somebody-elses")
	g.run(minute)
	g.tainted("n1", v1alpha1.TaintNotReady, "somebody-elses")
	if g.leads(blockN(1)) != i {
		t.Error("no route while the node's pod of kube-flannel starts")
	}
	g.want("n1", corev1.ConditionTrue, "CNINotConfigured")
	if n := g.events.Count("Warning", "CNINotConfigured"); n != 0 {
		t.Errorf("%d warnings of a node that starts", n)
	}
	g.configure("n1", blockN(1))
	g.run(minute)
	g.want("n1", corev1.ConditionFalse, "RouteCreated")
	g.tainted("n1", "somebody-elses")
	// A version of the chart that says nothing: what takes pods goes on taking them.
	g.configure("n1")
	g.run(10 * minute)
	g.want("n1", corev1.ConditionFalse, "RouteCreated")
	// flanneld works with another block.
	g.configure("n1", blockN(9), "fd00:20:0:1::/64")
	g.run(10 * minute)
	g.want("n1", corev1.ConditionTrue, "CNINotConfigured")
	if c := g.condition("n1"); !strings.Contains(c.Message, blockN(1)) || !strings.Contains(c.Message, blockN(9)) {
		t.Errorf("message %q", c.Message)
	}
	if n := g.events.Count("Warning", "CNINotConfigured"); n != 1 {
		t.Errorf("%d warnings of a node whose pods get addresses that nothing leads to, want 1", n)
	}
	g.configure("n1", blockN(1), "fd00:20:0:1::/64")
	g.run(10 * minute)
	g.want("n1", corev1.ConditionFalse, "RouteCreated")
}

// A Node that is made again while its predecessor is told is a new one: it keeps its taint
// and is told for itself.
func TestNodeMadeAnewMeanwhile(t *testing.T) {
	g := newRig(t)
	i := g.join("n1", 1)
	g.configure("n1")
	g.run(minute)
	g.configure("n1", blockN(1))
	g.beforePatch = func() {
		g.beforePatch = nil
		g.leave("n1")
		g.register("n1", i)
		g.taint("n1", v1alpha1.TaintNotReady)
	}
	g.once()
	if c := g.condition("n1"); g.beforePatch != nil || c.Status == corev1.ConditionFalse {
		t.Errorf("a Node without a block is told %s: %s", c.Reason, c.Message)
	}
	g.run(minute)
	g.tainted("n1", v1alpha1.TaintNotReady)
	g.want("n1", corev1.ConditionTrue, "NoPodCIDR")
}

// A taint that somebody gives a node meanwhile stays.
func TestTaintsOfOthersStay(t *testing.T) {
	g := newRig(t)
	g.join("n1", 1)
	g.taint("n1", v1alpha1.TaintNotReady)
	g.afterPatch = func() {
		if g.condition("n1").Status == corev1.ConditionFalse {
			g.afterPatch = nil
			g.taint("n1", "somebody-elses")
		}
	}
	g.run(minute)
	if g.afterPatch != nil {
		t.Fatal("n1 never was ready")
	}
	g.tainted("n1", "somebody-elses")
}

// A node of another VPC that outlives all older ones is still not the cluster, whichever
// controller looks.
func TestNodeOfAnotherVPCGrowsOld(t *testing.T) {
	g := newRig(t)
	g.join("first", 1)
	home, group := g.vswitch, g.group
	_, g.vswitch, g.group = g.network("10.0.0.0/8", "10.0.0.0/20")
	g.join("elsewhere", 2)
	g.vswitch, g.group = home, group
	id := g.join("last", 3)
	g.run(minute)
	g.leave("first")
	g.run(minute)
	g.restart()
	g.run(minute)
	g.want("last", corev1.ConditionFalse, "RouteCreated")
	g.want("elsewhere", corev1.ConditionTrue, "InstanceInOtherVPC")
	if all := g.custom(0); len(all) != 1 || all[0].NextHopId != id {
		t.Errorf("entries %+v, want one to %s", all, id)
	}
}

// Without anything known of the VPC nodes are told why, and nothing is done.
func TestNoInstanceIsKnown(t *testing.T) {
	g := newRig(t)
	g.register("n1", "", blockN(1))
	g.run(minute)
	g.want("n1", corev1.ConditionTrue, "ProviderIDInvalid")
	if g.Calls("DescribeRouteTableList")+g.Calls("CreateRouteEntries") != 0 {
		t.Error("asked for tables of no VPC")
	}
}

// An instance that is gone loses its entry, though its Node is still there; one
// that a list forgot for a moment does not.
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
		t.Error("instances that were missing are not asked for again")
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

// The first list that a controller reads lacks an instance for a moment: its node goes on.
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

// That an instance is gone is found out by the entry that cannot lead to it, not at the
// next look at everything.
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

// A list that lacks instances whose kubelets report, for whatever reason, cuts off
// nobody; it is told. Without the kubelet's word the entry goes.
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
	// It was said, and keeps no pods away: the routes are there.
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

// A node is deleted and registered again while lists still show the entry that has gone
// meanwhile: the table is looked at once more, and soon.
func TestListIsOldAfterAChange(t *testing.T) {
	g := newRig(t)
	id := g.join("n1", 1)
	g.run(minute)
	g.Fault(faults.Rule{Name: "old", Action: "DescribeRouteEntryList", Stale: faults.Duration(4 * time.Second), For: faults.Duration(10 * time.Second)})
	g.Write(func(state.API) error { return nil }) // what is old in a moment
	g.Clock.Pass(5 * time.Second)
	g.stale = true
	g.leave("n1")
	g.once()
	g.Clock.Pass(500 * time.Millisecond)
	if g.Calls("DeleteRouteEntries") != 1 {
		t.Fatal("the entry was not deleted")
	}
	g.register("n1", id, blockN(1))
	g.run(30 * time.Second)
	if g.leads(blockN(1)) != id {
		t.Errorf("entries %+v", g.custom(0))
	}
	g.want("n1", corev1.ConditionFalse, "RouteCreated")
}

// What is not the cluster's stays, and is reported.
func TestForeignEntries(t *testing.T) {
	g := newRig(t)
	other := g.instance()
	good := g.join("good", 2)
	g.register("taken", g.instance(), blockN(1))
	g.foreign(blockN(1), other, "theirs")
	g.foreign(blockN(2), good, "ccm")
	g.foreign("172.20.200.0/28", other, "terway-c10")
	g.foreign("10.1.0.0/16", other, "terway-c1")
	g.foreign("0.0.0.0/0", other, "")
	g.run(10 * minute)
	if len(g.custom(0)) != 5 || g.leads(blockN(1)) != other || g.leads("172.20.200.0/28") != other {
		t.Errorf("entries %+v", g.custom(0))
	}
	g.want("taken", corev1.ConditionTrue, "RouteInTheWay")
	g.want("good", corev1.ConditionFalse, "RouteCreated")
	if c := g.condition("good"); !strings.Contains(c.Message, "not this cluster's") {
		t.Errorf("message %q", c.Message)
	}
	if n := g.events.Count("ConfigMap", "RouteInTheWay", "3 entries"); n != 1 {
		t.Errorf("events %v", g.events.All())
	}
	g.leave("good")
	g.leave("taken")
	g.run(10 * minute)
	if n := g.Calls("DeleteRouteEntries"); n != 0 || len(g.custom(0)) != 5 {
		t.Errorf("%d deletions, %d entries", n, len(g.custom(0)))
	}
}

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

// Several tables get the same entries, and a node is ready when all have them.
func TestSeveralTables(t *testing.T) {
	g := newRig(t)
	g.Write(func(s state.API) error {
		_, err := s.CreateRouteTable(state.CreateRouteTableRequest{VpcId: g.vpc})
		return err
	})
	g.Clock.Pass(5 * time.Second)
	for _, table := range g.tables() {
		g.cfg.RouteTables = append(g.cfg.RouteTables, table.RouteTableId)
	}
	g.restart()
	g.join("n1", 1)
	for g.condition("n1").Status != corev1.ConditionFalse {
		wait, _ := g.once()
		g.Clock.Pass(wait)
	}
	if len(g.custom(0)) != 1 || len(g.custom(1)) != 1 {
		t.Errorf("%d and %d entries when the node is ready", len(g.custom(0)), len(g.custom(1)))
	}
	g.cfg.RouteTables = append(g.cfg.RouteTables, "vtb-none")
	g.restart()
	g.run(minute)
	if g.events.Count("ConfigMap", "RouteNotFound", "vtb-none") != 1 {
		t.Errorf("events %v", g.events.All())
	}
	g.want("n1", corev1.ConditionFalse, "RouteCreated")
}

// A table that is deleted while the controller runs is missed at once, and said once.
func TestTableDeleted(t *testing.T) {
	g := newRig(t)
	var table string
	g.Write(func(s state.API) (err error) {
		table, err = s.CreateRouteTable(state.CreateRouteTableRequest{VpcId: g.vpc})
		return err
	})
	g.Clock.Pass(5 * time.Second)
	g.cfg.RouteTables = []string{table}
	g.restart()
	g.join("n1", 1)
	g.run(minute)
	g.Write(func(s state.API) error { return s.DeleteRouteTable(state.DeleteRouteTableRequest{RouteTableId: table}) })
	g.run(minute)
	if g.events.Count("ConfigMap", "RouteNotFound", table) != 1 {
		t.Errorf("events %v", g.events.All())
	}
}

// A vSwitch that uses a table without entries: its nodes' pods reach nobody, and say so.
func TestTableOfAVSwitch(t *testing.T) {
	g := newRig(t)
	g.join("n1", 1)
	var table string
	g.Write(func(s state.API) (err error) {
		table, err = s.CreateRouteTable(state.CreateRouteTableRequest{VpcId: g.vpc})
		return err
	})
	g.Clock.Pass(5 * time.Second)
	g.Write(func(s state.API) (err error) {
		g.vswitch, err = s.CreateVSwitch(state.CreateVSwitchRequest{VpcId: g.vpc, ZoneId: zone, CidrBlock: "192.168.16.0/20"})
		return err
	})
	g.Clock.Pass(10 * time.Second)
	g.Write(func(s state.API) error {
		return s.AssociateRouteTable(state.AssociateRouteTableRequest{RouteTableId: table, VSwitchId: g.vswitch})
	})
	g.Clock.Pass(5 * time.Second)
	id := g.join("n2", 2)
	g.run(minute)
	g.want("n1", corev1.ConditionFalse, "RouteCreated")
	g.want("n2", corev1.ConditionTrue, "RouteTableLeftOut")
	if c := g.condition("n2"); !strings.Contains(c.Message, table) || !strings.Contains(c.Message, g.vswitch) {
		t.Errorf("message %q", c.Message)
	}
	if g.leads(blockN(2)) != id {
		t.Error("others do not reach it")
	}
	for _, x := range g.tables() {
		g.cfg.RouteTables = append(g.cfg.RouteTables, x.RouteTableId)
	}
	g.restart()
	g.run(minute)
	g.want("n2", corev1.ConditionFalse, "RouteCreated")
	// Only the table that one vSwitch uses: the other's node says so.
	g.cfg.RouteTables = []string{table}
	g.restart()
	g.run(minute)
	g.want("n1", corev1.ConditionTrue, "RouteTableLeftOut")
	g.want("n2", corev1.ConditionFalse, "RouteCreated")
}

// A table that the configuration gets while the controller runs has the entries soon,
// not at the next look at everything.
func TestTableAdded(t *testing.T) {
	g := newRig(t)
	g.Write(func(s state.API) error {
		_, err := s.CreateRouteTable(state.CreateRouteTableRequest{VpcId: g.vpc})
		return err
	})
	g.Clock.Pass(5 * time.Second)
	g.join("n1", 1)
	g.run(minute)
	if len(g.custom(0)) != 1 || len(g.custom(1)) != 0 {
		t.Fatalf("%d and %d entries at first", len(g.custom(0)), len(g.custom(1)))
	}
	g.once() // has looked at everything just now
	next := *g.r.Config.Get()
	for _, table := range g.tables() {
		next.RouteTables = append(next.RouteTables, table.RouteTableId)
	}
	g.r.Config.Set(&next)
	if len(g.r.changed) != 1 {
		t.Error("nothing starts the work")
	}
	for range 5 {
		g.once()
		g.Clock.Pass(time.Second)
	}
	if len(g.custom(0)) != 1 || len(g.custom(1)) != 1 {
		t.Errorf("%d and %d entries", len(g.custom(0)), len(g.custom(1)))
	}
}

// Ignored nodes get no route and no condition, and heartbeats make no work.
func TestIgnoredNodes(t *testing.T) {
	g := newRig(t)
	g.join("virtual", 1)
	n := &corev1.Node{}
	g.Must(g.kube.Get(context.Background(), types.NamespacedName{Name: "virtual"}, n))
	n.Labels = map[string]string{"type": "virtual-kubelet"}
	g.Must(g.kube.Update(context.Background(), n))
	g.run(minute)
	if g.condition("virtual").Type != "" || len(g.custom(0)) != 0 {
		t.Errorf("condition %+v, entries %v", g.condition("virtual"), g.custom(0))
	}
	same := n.DeepCopy()
	same.Status.Conditions = append(same.Status.Conditions, corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionTrue})
	if matters(n, same) {
		t.Error("a heartbeat makes work")
	}
	gone := same.DeepCopy()
	gone.Status.Conditions = append(gone.Status.Conditions, corev1.NodeCondition{Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionTrue, Reason: "InstanceGone"})
	silent := gone.DeepCopy()
	silent.Status.Conditions[len(silent.Status.Conditions)-2].Status = corev1.ConditionUnknown
	if matters(gone, gone.DeepCopy()) || !matters(gone, silent) {
		t.Error("the last word of a kubelet whose instance is gone makes no work, or a heartbeat of it does")
	}
	plugins := same.DeepCopy()
	plugins.Annotations = map[string]string{v1alpha1.AnnotationPodCIDR: blockN(2)}
	if !matters(n, plugins) {
		t.Error("plugins that have been configured make no work")
	}
	same.Spec.ProviderID = "cn-hangzhou.i-other"
	if !matters(n, same) {
		t.Error("another instance makes no work")
	}
}

// A label that says that a node is to be ignored does not cut off the pods that it has.
func TestIgnoredNodeWithRoutes(t *testing.T) {
	g := newRig(t)
	instance := g.join("n1", 1)
	g.run(minute)
	n := &corev1.Node{}
	g.Must(g.kube.Get(context.Background(), types.NamespacedName{Name: "n1"}, n))
	n.Labels = map[string]string{"network.terway.dev/ignore": "true"}
	g.Must(g.kube.Update(context.Background(), n))
	g.run(10 * minute)
	if g.leads(blockN(1)) != instance || g.events.Count("NodeIgnored", "n1") != 1 {
		t.Errorf("entries %+v, events %v", g.custom(0), g.events.All())
	}
	g.leave("n1")
	g.run(minute)
	if len(g.custom(0)) != 0 {
		t.Errorf("entries %+v of a node that is gone", g.custom(0))
	}
}

// lagging is a cache that lacks a Node.
type lagging struct {
	client.Client
	without string
}

func (c lagging) List(ctx context.Context, list client.ObjectList, opts ...client.ListOption) error {
	if err := c.Client.List(ctx, list, opts...); err != nil {
		return err
	}
	if nodes, ok := list.(*corev1.NodeList); ok {
		nodes.Items = slices.DeleteFunc(nodes.Items, func(n corev1.Node) bool { return n.Name == c.without })
	}
	return nil
}

// Entries are not deleted on the word of a cache.
func TestCacheWithoutANode(t *testing.T) {
	g := newRig(t)
	ids := []string{g.join("n1", 1), g.join("n2", 2)}
	g.run(minute)
	g.restart()
	whole := g.r.Client
	g.r.Client = lagging{whole, "n2"}
	g.run(10 * minute)
	if g.leads(blockN(1)) != ids[0] || g.leads(blockN(2)) != ids[1] || g.Calls("DeleteRouteEntries") != 0 {
		t.Fatalf("entries %+v", g.custom(0))
	}
	g.r.Client = whole
	g.leave("n2")
	g.run(minute)
	if g.leads(blockN(1)) != ids[0] || g.leads(blockN(2)) != "" {
		t.Errorf("entries %+v", g.custom(0))
	}
}

// A node whose condition cannot be written keeps no other from its routes.
func TestNodeThatCannotBeTold(t *testing.T) {
	g := newRig(t)
	g.join("mute", 1)
	id := g.join("n2", 2)
	g.mute = "mute"
	g.run(10 * minute)
	if g.leads(blockN(2)) != id {
		t.Errorf("n2 has no route: %+v", g.custom(0))
	}
	g.want("n2", corev1.ConditionFalse, "RouteCreated")
	if n := g.Calls("DescribeRouteEntryList"); n > 40 {
		t.Errorf("%d lists in ten minutes", n)
	}
	if wait, _ := g.once(); wait > minute {
		t.Errorf("it is told again in %s", wait)
	}
	g.mute = ""
	g.run(2 * minute)
	g.want("mute", corev1.ConditionFalse, "RouteCreated")
}
