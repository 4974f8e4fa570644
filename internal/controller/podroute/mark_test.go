package podroute

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"terway.dev/terway/internal/datapath/claims"
)

// A node takes pods when its plugins give them addresses of the block that is routed.
func TestNodeWhosePluginsHaveNoBlock(t *testing.T) {
	g := newRig(t)
	i := g.join("n1", 1)
	g.configure("n1") // nothing yet
	g.taint("n1", claims.TaintNotReady, "somebody-elses")
	g.run(minute)
	g.tainted("n1", claims.TaintNotReady, "somebody-elses")
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
	// A version of the chart without the annotation: a node that takes pods continues to.
	g.configure("n1")
	g.run(10 * minute)
	g.want("n1", corev1.ConditionFalse, "RouteCreated")
	// flanneld uses another block.
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

// A Node that is created while the condition of its predecessor is being written is a new one: it
// keeps its taint and gets its own condition.
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
		g.taint("n1", claims.TaintNotReady)
	}
	g.once()
	if c := g.condition("n1"); g.beforePatch != nil || c.Status == corev1.ConditionFalse {
		t.Errorf("a Node without a block has %s: %s", c.Reason, c.Message)
	}
	g.run(minute)
	g.tainted("n1", claims.TaintNotReady)
	g.want("n1", corev1.ConditionTrue, "NoPodCIDR")
}

// A taint that somebody adds to a node meanwhile stays.
func TestTaintsOfOthersStay(t *testing.T) {
	g := newRig(t)
	g.join("n1", 1)
	g.taint("n1", claims.TaintNotReady)
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

// A node whose condition cannot be written keeps no other node from its routes.
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
		t.Errorf("the next reconcile is in %s", wait)
	}
	g.mute = ""
	g.run(2 * minute)
	g.want("mute", corev1.ConditionFalse, "RouteCreated")
}
