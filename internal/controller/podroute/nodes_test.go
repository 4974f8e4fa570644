package podroute

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/internal/datapath/claims"
)

// The life of a cluster's routes: several nodes join at once, one leaves, one is replaced.
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

// A node's condition says what is wrong with it, and the others have their routes.
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
	// What was wrong is corrected.
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

// A node of another VPC that outlives all older ones does not determine the cluster's VPC, for any
// controller.
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

// While nothing is known of the VPC the conditions say so, and nothing is done.
func TestNoInstanceIsKnown(t *testing.T) {
	g := newRig(t)
	g.register("n1", "", blockN(1))
	g.run(minute)
	g.want("n1", corev1.ConditionTrue, "ProviderIDInvalid")
	if g.Calls("DescribeRouteTableList")+g.Calls("CreateRouteEntries") != 0 {
		t.Error("listed the tables of no VPC")
	}
}

// Ignored nodes get no route and no condition, and heartbeats cause no work.
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
		t.Error("a heartbeat causes a reconcile")
	}
	gone := same.DeepCopy()
	gone.Status.Conditions = append(gone.Status.Conditions, corev1.NodeCondition{Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionTrue, Reason: "InstanceGone"})
	silent := gone.DeepCopy()
	silent.Status.Conditions[len(silent.Status.Conditions)-2].Status = corev1.ConditionUnknown
	if matters(gone, gone.DeepCopy()) || !matters(gone, silent) {
		t.Error("the end of a kubelet whose instance is gone causes no reconcile, or its heartbeat does")
	}
	plugins := same.DeepCopy()
	plugins.Annotations = map[string]string{claims.AnnotationPodCIDR: blockN(2)}
	if !matters(n, plugins) {
		t.Error("plugins that have been configured make no work")
	}
	same.Spec.ProviderID = "cn-hangzhou.i-other"
	if !matters(n, same) {
		t.Error("another instance makes no work")
	}
}

// A label that makes Terway ignore a node does not cut off its pods.
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

// paged is an API server that returns one Node for each page.
type paged struct{ client.Reader }

func (p paged) List(ctx context.Context, list client.ObjectList, opts ...client.ListOption) error {
	var o client.ListOptions
	o.ApplyOptions(opts)
	if err := p.Reader.List(ctx, list); err != nil || o.Limit == 0 {
		return cmp.Or(err, errors.New("a list of any size is asked for at once"))
	}
	nodes := list.(*corev1.NodeList)
	at := len(o.Continue)
	if at+1 < len(nodes.Items) {
		nodes.Continue = strings.Repeat("x", at+1)
	}
	nodes.Items = nodes.Items[min(at, len(nodes.Items)):min(at+1, len(nodes.Items))]
	return nil
}

// Entries are not deleted because of a cache.
func TestCacheWithoutANode(t *testing.T) {
	g := newRig(t)
	ids := []string{g.join("n1", 1), g.join("n2", 2)}
	g.run(minute)
	g.restart()
	whole := g.r.Client
	g.r.Live = paged{g.r.Live}
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
