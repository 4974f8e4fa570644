package nodenetwork

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/config"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/vpcsim/faults"
)

// reconciles reconciles a node when it is due, and at each report of the agent, for a while.
func (g *rig) reconciles(name string, d time.Duration) {
	g.Helper()
	for end := g.Clock.Now().Add(d); g.Clock.Now().Before(end); {
		wait, _ := g.once(name)
		g.agent(name)
		if wait == 0 {
			wait = time.Minute
		}
		g.Clock.Pass(wait)
	}
}

// What fails is tried again with growing pauses, and at once when the node needs more.
func TestFailuresAreTriedMoreSlowly(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/24"})
	g.addNode("n1", "ecs.g6.2xlarge")
	g.settle("n1", minute)
	g.Fault(faults.Rule{Name: "away", Action: "AssignPrivateIpAddresses", Error: &faults.Error{Code: "ServiceUnavailable", Status: 503}})
	before := g.Calls("AssignPrivateIpAddresses")
	g.startPods("n1", 2)
	g.reconciles("n1", 10*minute)
	if n := (g.Calls("AssignPrivateIpAddresses") - before) / 2; n < 5 || n > 11 { // each is two attempts here
		t.Errorf("tried %d times in ten minutes", n)
	}
	if c := g.condition("n1"); c.Status != "False" || c.Reason != "CloudTrouble" {
		t.Errorf("condition %+v: the node must go on saying why", c)
	}
	before = g.Calls("AssignPrivateIpAddresses")
	g.startPods("n1", 1)
	if g.once("n1"); g.Calls("AssignPrivateIpAddresses") == before {
		t.Error("another pod waits, and the cloud is not called")
	}
	g.Sim.RemoveFault("away")
	g.settle("n1", 5*minute)
	if c := g.condition("n1"); c.Status != "True" || g.free("n1") < 2 {
		t.Errorf("%d free, condition %+v", g.free("n1"), c)
	}
}

// On a node whose demand changes every second, a failing action is retried as slowly as on others.
func TestFailuresWhileTheDemandMoves(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/24"})
	g.addNode("n1", "ecs.g6.2xlarge")
	g.settle("n1", minute)
	g.Fault(faults.Rule{Action: "AssignPrivateIpAddresses", Error: &faults.Error{Code: "ServiceUnavailable", Status: 503}})
	g.startPods("n1", 3)
	before := g.Calls("AssignPrivateIpAddresses")
	for i := range 600 {
		if i%2 == 0 {
			g.startPods("n1", 1)
		} else {
			waiting := slices.Sorted(maps.Keys(g.pods["n1"]))
			delete(g.pods["n1"], waiting[len(waiting)-1])
			g.agent("n1")
		}
		g.once("n1")
		g.Clock.Pass(time.Second)
	}
	if n := (g.Calls("AssignPrivateIpAddresses") - before) / 2; n < 5 || n > 20 { // each is two attempts here
		t.Errorf("tried %d times in ten minutes", n)
	}
}

// A pause ends early, but not before Retry, if the node needs more than when it began or a setting
// has changed.
func TestWhatEndsAPause(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*work)
		ends   bool
	}{
		"nothing":              {func(*work) {}, false},
		"more pods":            {func(w *work) { w.nn.Status.Demand++ }, true},
		"fewer pods":           {func(w *work) { w.nn.Status.Demand-- }, false},
		"more exclusive ENIs":  {func(w *work) { w.nn.Status.ENIDemand++ }, true},
		"fewer exclusive ENIs": {func(w *work) { w.nn.Status.ENIDemand-- }, false},
		"configuration":        {func(w *work) { w.cfg = &config.Config{} }, true},
		"labels":               {func(w *work) { w.node.Labels = map[string]string{"a": "b"} }, true},
		"instance":             {func(w *work) { w.node.Spec.ProviderID = "cn-hangzhou.i-2" }, true},
		"node is deleted":      {func(w *work) { w.node = nil }, true},
	} {
		t.Run(name, func(t *testing.T) {
			now := time.Now()
			w := &work{Reconciler: &Reconciler{Options: Options{Now: func() time.Time { return now }, Retry: 5 * time.Second}}, cfg: &config.Config{},
				mem: newMemory(now), nn: &v1alpha1.NodeNetwork{}, node: &corev1.Node{Spec: corev1.NodeSpec{ProviderID: "cn-hangzhou.i-1"}}}
			w.nn.Status.Demand, w.nn.Status.ENIDemand = 3, 2
			for range 4 {
				w.tried("assign", errors.New("away"))
			}
			now = now.Add(w.Retry - 1)
			c.change(w)
			if !w.paused("assign") || w.next > backoffMax || c.ends != (w.next == 1) {
				t.Errorf("before Retry has passed: the next reconcile is in %s", w.next)
			}
			now = now.Add(1)
			if got := !w.paused("assign"); got != c.ends {
				t.Errorf("after Retry it has ended: %t, want %t", got, c.ends)
			}
			w.tried("assign", errors.New("away"))
			if w.next = 0; !w.paused("assign") || w.next != 80*time.Second {
				t.Errorf("the next pause is %s, want the fifth", w.next)
			}
		})
	}
}

// A Node whose instance does not exist costs few calls.
func TestNodeWithoutAnInstance(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/24"})
	g.addNode("n1", "ecs.g6.2xlarge")
	n := g.node("n1")
	g.Must(g.kube.Delete(context.Background(), n))
	n.ResourceVersion, n.Spec.ProviderID = "", "cn-hangzhou.i-bp00000000000000000"
	g.Must(g.kube.Create(context.Background(), n))
	g.reconciles("n1", 10*minute)
	if n := g.Calls("DescribeInstances"); n < 2 || n > 15 {
		t.Errorf("%d calls in ten minutes", n)
	}
}

// lists counts lists of the whole cluster's ENIs and of one node's.
type lists struct {
	cloud.API
	cluster, node int
}

func (l *lists) DescribeENIs(ctx context.Context, f cloud.ENIFilter) ([]cloud.ENI, error) {
	switch {
	case len(f.IDs) > 0 || f.InstanceID != "":
	case f.Tags[claims.TagNode] == "":
		l.cluster++
	default:
		l.node++
	}
	return l.API.DescribeENIs(ctx, f)
}

// A comparison of one node lists that node's ENIs.
func TestOneBadNodeDoesNotListTheCluster(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/24"})
	for i := range 3 {
		g.addNode(fmt.Sprintf("n%d", i), "ecs.g6.2xlarge")
		g.settle(fmt.Sprintf("n%d", i), minute)
	}
	l := &lists{API: g.r.list.api}
	g.r.list.api = l
	g.Fault(faults.Rule{Action: "AssignPrivateIpAddresses", Error: &faults.Error{Code: "ServiceUnavailable", Status: 503}})
	g.startPods("n0", 2)
	g.reconciles("n0", 10*minute)
	if l.cluster > 0 || l.node == 0 {
		t.Errorf("%d lists of the cluster's ENIs, %d of the node's", l.cluster, l.node)
	}
}

// A new leader compares all nodes with one list.
func TestNewLeaderListsOnce(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/24"})
	for i := range 5 {
		g.addNode(fmt.Sprintf("n%d", i), "ecs.g6.2xlarge")
		g.settle(fmt.Sprintf("n%d", i), minute)
	}
	g.restart()
	l := &lists{API: g.r.list.api}
	g.r.list.api = l
	before := g.Calls("DescribeInstances")
	for i := range 5 {
		g.once(fmt.Sprintf("n%d", i))
	}
	if l.cluster != 1 || l.node != 0 {
		t.Errorf("%d lists of the cluster's ENIs, %d of a node's", l.cluster, l.node)
	}
	if n := g.Calls("DescribeInstances") - before; n > 5 {
		t.Errorf("%d calls for 5 instances", n)
	}
}

// busy is a cloud that defers all calls that change something, as behind a long queue.
type busy struct{ cloud.API }

func (busy) CreateENI(ctx context.Context, _ cloud.CreateENIRequest) (*cloud.ENI, error) {
	if !cloud.MayDefer(ctx) {
		return nil, fmt.Errorf("a worker waits for its turn")
	}
	return nil, &cloud.Error{Action: "CreateNetworkInterface", Class: cloud.Throttled, After: 7 * time.Second}
}

// A deferred call is made when it is due, and is no failure; if pods wait for it, the condition
// says so after a while.
func TestDeferredCalls(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/24"})
	g.addNode("n1", "ecs.g6.2xlarge")
	api := g.r.Cloud
	g.r.Cloud = busy{api}
	for range 5 {
		if wait, _ := g.once("n1"); wait > 7*time.Second {
			t.Errorf("the next reconcile is in %v", wait)
		}
		g.Clock.Pass(7 * time.Second)
	}
	if e := g.nn("n1").Spec.ENIs; len(e) != 1 || e[0].Phase != v1alpha1.ENICreating {
		t.Errorf("ENIs %+v: want the one that is intended", e)
	}
	if c := g.condition("n1"); c.Status == "False" || len(g.r.memories.get("n1").pauses) > 0 {
		t.Errorf("condition %+v", c)
	}
	g.startPods("n1", 1)
	for _, says := range []string{"", "", "RateLimited", "RateLimited"} {
		if wait, _ := g.once("n1"); wait != 7*time.Second {
			t.Errorf("the next reconcile is in %v, not when the call is due", wait)
		}
		if c := g.condition("n1"); c.Reason != says {
			t.Errorf("condition %+v, want the reason %q", c, says)
		}
		g.Clock.Pass(7 * time.Second)
	}
	if c := g.condition("n1"); !strings.Contains(c.Message, "CreateNetworkInterface") || !strings.Contains(c.Message, "controller.cloudLimits") {
		t.Errorf("the message %q does not name the action and what helps", c.Message)
	}
	g.r.Cloud = api
	g.settle("n1", minute)
	if c := g.condition("n1"); g.free("n1") != 2 || c.Status != "True" {
		t.Errorf("%d free, condition %+v", g.free("n1"), c)
	}
}

// lateCache is a cache that does not have the NodeNetworks yet.
type lateCache struct{ client.Client }

func (c lateCache) List(ctx context.Context, list client.ObjectList, o ...client.ListOption) error {
	if _, ok := list.(*v1alpha1.NodeNetworkList); ok {
		return nil
	}
	return c.Client.List(ctx, list, o...)
}

// The sweep reads the cache, but does not delete because of it.
func TestSweepBelievesNoCache(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/24"})
	g.addNode("n1", "ecs.g6.2xlarge")
	g.once("n1") // an ENI is made, not yet attached
	g.Clock.Pass(2 * time.Second)
	live := g.r.Client
	sweeper := &Sweeper{Reconciler: g.r, Age: time.Minute}
	sweep := func() {
		for range 3 {
			g.Must(sweeper.Sweep(context.Background()))
			g.Clock.Pass(time.Minute)
		}
	}
	g.r.Client = lateCache{live}
	if sweep(); len(g.enis("n1")) != 1 {
		t.Fatal("an ENI is deleted that a cache does not know")
	}
	g.r.Client = live
	g.Must(g.kube.Delete(context.Background(), g.node("n1")))
	nn := g.nn("n1")
	nn.Finalizers = nil
	g.Must(g.kube.Update(context.Background(), nn))
	g.Must(g.kube.Delete(context.Background(), nn))
	if sweep(); len(g.enis("n1")) != 0 {
		t.Errorf("an ENI that no node has is left: %+v", g.enis("n1"))
	}
}

// Calls for which pods wait come first in the cloud client's queue, calls that give something back
// come last.
func TestPrioritiesOfCalls(t *testing.T) {
	w := &work{nn: &v1alpha1.NodeNetwork{}}
	if p := cloud.PriorityOf(w.wanted(t.Context())); p != cloud.Refill {
		t.Errorf("a pool's refill has priority %d", p)
	}
	for _, st := range []v1alpha1.NodeNetworkStatus{{Demand: 1}, {ENIDemand: 1}} {
		w.nn.Status = st
		if p := cloud.PriorityOf(w.wanted(t.Context())); p != cloud.PodsWait {
			t.Errorf("a waiting pod's call has priority %d", p)
		}
	}
	if p := cloud.PriorityOf(unwanted(t.Context())); p != cloud.GiveBack {
		t.Errorf("what is given back has priority %d", p)
	}
}

// namingCloud records for which sandboxes calls are made.
type namingCloud struct {
	cloud.API
	create, attach, remove []string
}

func (c *namingCloud) CreateENI(ctx context.Context, r cloud.CreateENIRequest) (*cloud.ENI, error) {
	c.create = append(c.create, cloud.SandboxesOf(ctx)...)
	return c.API.CreateENI(ctx, r)
}

func (c *namingCloud) AttachENI(ctx context.Context, eni, instance string) error {
	c.attach = append(c.attach, cloud.SandboxesOf(ctx)...)
	return c.API.AttachENI(ctx, eni, instance)
}

func (c *namingCloud) DeleteENI(ctx context.Context, eni string) error {
	c.remove = append(c.remove, cloud.SandboxesOf(ctx)...)
	return c.API.DeleteENI(ctx, eni)
}

// The calls by which a waiting pod gets its address name its sandbox.
func TestCallsNameTheSandboxesOfWaitingPods(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/24"})
	calls := &namingCloud{API: g.r.Cloud}
	g.r.Cloud = calls
	g.addNode("n1", "ecs.g6.2xlarge")
	g.settle("n1", minute)
	if calls.create = nil; len(calls.attach) != 0 {
		t.Errorf("calls for a node's pool name sandboxes %v", calls.attach)
	}
	g.startPods("n1", 12)
	g.settle("n1", 5*minute)
	if len(calls.create) == 0 || len(calls.attach) == 0 {
		t.Fatalf("calls for waiting pods name no sandbox: create %v, attach %v", calls.create, calls.attach)
	}
	for _, s := range append(calls.create, calls.attach...) {
		if !strings.HasPrefix(s, "sandbox-of-") {
			t.Errorf("sandbox %q", s)
		}
	}
	g.stopPods("n1", 12)
	g.settle("n1", 60*minute)
	if len(calls.remove) != 0 {
		t.Errorf("calls that give back name sandboxes %v", calls.remove)
	}
}
