package nodenetwork

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/vpcsim/faults"
	"terway.dev/terway/internal/vpcsim/state"
)

// lagging is a cache that does not have the Node, or not yet.
type lagging struct{ client.WithWatch }

func (c lagging) Get(ctx context.Context, key client.ObjectKey, obj client.Object, o ...client.GetOption) error {
	if _, ok := obj.(*corev1.Node); ok {
		return apierrors.NewNotFound(corev1.Resource("nodes"), key.Name)
	}
	return c.WithWatch.Get(ctx, key, obj, o...)
}

// running is a node with pods on two ENIs.
func running(t *testing.T) (g *rig, instance string) {
	g = newRig(t, []string{"192.168.32.0/24"})
	instance = g.addNode("n1", "ecs.g6.2xlarge")
	g.startPods("n1", 12)
	g.settle("n1", 3*minute)
	g.Clock.Pass(ListsLag)
	return g, instance
}

// turns runs the controller for a time, and the agent if there is one.
func (g *rig) turns(d time.Duration, agent bool) {
	g.Helper()
	for end := g.Clock.Now().Add(d); g.Clock.Now().Before(end); {
		wait, _ := g.once("n1")
		if agent {
			g.agent("n1")
		}
		g.hold("n1")
		g.Clock.Pass(max(time.Second, min(wait, end.Sub(g.Clock.Now()))))
	}
}

func (g *rig) register(instance string) {
	g.Must(g.kube.Create(context.Background(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Status: g.addresses(instance), Spec: corev1.NodeSpec{ProviderID: "cn-hangzhou." + instance}}))
}

func (g *rig) gone() *metav1.Condition {
	return meta.FindStatusCondition(g.nn("n1").Status.ControllerConditions, v1alpha1.ConditionNodeGone)
}

// A cache that lacks the Node takes nothing from it.
func TestCacheWithoutTheNode(t *testing.T) {
	g, _ := running(t)
	g.restart()
	g.r.Client = lagging{g.kube}
	g.turns(10*minute, true)
	if nn := g.nn("n1"); !nn.DeletionTimestamp.IsZero() || len(nn.Spec.ENIs) != 2 || g.gone() != nil {
		t.Errorf("NodeNetwork %+v", nn)
	}
}

// A Node that is deleted and registers again keeps its ENIs; no new ones are created.
func TestNodeRegistersAgain(t *testing.T) {
	for _, restart := range []bool{false, true} {
		g, instance := running(t)
		before, calls := g.enis("n1"), g.Calls("CreateNetworkInterface")
		g.Must(g.kube.Delete(context.Background(), g.node("n1")))
		g.turns(minute, true)
		if c := g.gone(); c == nil || !g.events.Has("NodeGone") {
			t.Fatalf("condition %+v, events %v", c, g.events.All())
		}
		if restart {
			g.restart()
		}
		g.turns(3*minute, true)
		g.register(instance)
		g.turns(10*minute, true)
		if nn := g.nn("n1"); !nn.DeletionTimestamp.IsZero() || g.gone() != nil {
			t.Fatalf("NodeNetwork %+v", nn)
		}
		if after := g.enis("n1"); len(after) != len(before) || g.Calls("CreateNetworkInterface") != calls {
			t.Errorf("ENIs %+v, before %+v", after, before)
		}
		g.startPods("n1", 3)
		g.rest("n1")
	}
}

// The ENIs of a node that is gone are given back when its agent has confirmed, when its instance no
// longer runs, or after the delay.
func TestNodeGoesWithPods(t *testing.T) {
	for name, c := range map[string]struct {
		happens func(g *rig, instance string)
		within  time.Duration
		agent   bool
	}{
		"confirmed": {func(g *rig, _ string) { clear(g.pods["n1"]) }, time.Minute, true},
		"deleted": {func(g *rig, id string) {
			clear(g.pods["n1"])
			g.Write(func(s state.API) error {
				return s.DeleteInstance(state.DeleteInstanceRequest{InstanceId: id, Force: true})
			})
		}, 2 * time.Minute, false},
		"stopped": {func(g *rig, id string) {
			clear(g.pods["n1"])
			g.Write(func(s state.API) error { return s.StopInstance(state.StopInstanceRequest{InstanceId: id}) })
			g.Clock.Pass(time.Minute)
		}, 2 * time.Minute, false},
		"delay": {func(*rig, string) {}, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			g, instance := running(t)
			g.Must(g.kube.Delete(context.Background(), g.node("n1")))
			g.turns(minute, c.agent)
			if len(g.enis("n1")) != 2 {
				t.Fatal("they are gone before anything was known")
			}
			c.happens(g, instance)
			if c.within == 0 {
				g.turns(3*minute, false)
				if len(g.enis("n1")) != 2 {
					t.Fatal("they are gone before the delay has passed")
				}
				clear(g.pods["n1"]) // Kubernetes has deleted them long ago
				c.within = 2 * time.Minute
			}
			g.turns(c.within, c.agent)
			if nn := g.nn("n1"); nn != nil || len(g.enis("")) != 0 {
				t.Errorf("left: %+v, NodeNetwork %+v", g.enis(""), nn)
			}
		})
	}
}

// A label that makes Terway ignore a node takes nothing from its pods.
func TestIgnoreLabelOnARunningNode(t *testing.T) {
	g, _ := running(t)
	n := g.node("n1")
	n.Labels = map[string]string{"type": "virtual-kubelet"}
	g.Must(g.kube.Update(context.Background(), n))
	g.turns(20*minute, true)
	if c := g.gone(); c == nil || !g.events.Has("NodeIgnoredWithPods") {
		t.Fatalf("condition %+v, events %v", c, g.events.All())
	}
	clear(g.pods["n1"])
	g.turns(2*minute, true)
	if nn := g.nn("n1"); nn != nil || len(g.enis("")) != 0 {
		t.Errorf("left after the last pod: %+v, NodeNetwork %+v", g.enis(""), nn)
	}
}

// When somebody deletes the NodeNetwork of a running node, it continues to serve. If it is deleted
// by force, the new one adopts what exists.
func TestNodeNetworkDeleted(t *testing.T) {
	g, _ := running(t)
	ids := func() (out []string) {
		for _, e := range g.enis("n1") {
			out = append(out, e.ID)
		}
		return out
	}
	before := ids()
	g.Must(g.kube.Delete(context.Background(), g.nn("n1")))
	g.turns(minute, true)
	g.startPods("n1", 3)
	g.turns(10*minute, true)
	if g.nn("n1").Status.Demand > 0 || !g.events.Has("NodeNetworkDeleted") {
		t.Fatalf("status %+v, events %v", g.nn("n1").Status, g.events.All())
	}
	nn := g.nn("n1")
	nn.Finalizers = nil
	g.Must(g.kube.Update(context.Background(), nn))
	if g.nn("n1") != nil {
		t.Fatal("it is still there")
	}
	calls := g.Calls("CreateNetworkInterface")
	g.turns(5*minute, true)
	if after := ids(); !slices.Equal(after, before) || g.Calls("CreateNetworkInterface") != calls {
		t.Errorf("ENIs %v, before %v", after, before)
	}
	g.rest("n1")
}

// Nodes leave and come back while the controller is killed repeatedly: no running pod loses its
// address (turns checks at each step), and in the end cloud and spec agree.
func TestKilledWhileNodesComeAndGo(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := newRig(t, []string{"192.168.32.0/24"})
		instance := g.addNode("n1", "ecs.g6.2xlarge")
		g.startPods("n1", 12)
		g.settle("n1", 3*minute)
		there := true
		for range rapid.IntRange(1, 8).Draw(t, "events") {
			g.fuse.Light(rapid.IntRange(0, 6).Draw(t, "calls until it is killed"), rapid.Bool().Draw(t, "the last call is carried out"))
			switch what := rapid.SampledFrom([]string{"node", "nodenetwork", "label", "pods"}).Draw(t, "what"); {
			case what == "node" && there:
				g.Must(g.kube.Delete(context.Background(), g.node("n1")))
				there = false
			case what == "node" || !there:
				g.register(instance)
				there = true
			case what == "nodenetwork":
				if nn := g.nn("n1"); nn != nil {
					g.Must(g.kube.Delete(context.Background(), nn))
				}
			case what == "label":
				n := g.node("n1")
				n.Labels = map[string]string{"network.terway.dev/ignore": fmt.Sprint(n.Labels["network.terway.dev/ignore"] != "true")}
				g.Must(g.kube.Update(context.Background(), n))
			case rapid.Bool().Draw(t, "more"):
				g.addPods("n1", 5)
			default:
				g.removePods("n1", rapid.IntRange(1, 20).Draw(t, "fewer"))
			}
			// Less than the delay in all, so that nothing may be taken from a pod.
			for range rapid.IntRange(1, 15).Draw(t, "steps") {
				if _, crashed := g.once("n1"); crashed {
					g.restart()
				}
				g.agent("n1")
				g.hold("n1")
				g.Clock.Pass(time.Second)
			}
		}
		g.restart()
		if !there {
			g.register(instance)
		}
		n := g.node("n1")
		n.Labels = nil
		g.Must(g.kube.Update(context.Background(), n))
		g.turns(5*minute, true)
		g.rest("n1")
	})
}

// The name is given to another instance. The old one's ENIs are given back when it is gone, or
// after the delay; the new one's agent cannot confirm for it.
func TestAnotherInstance(t *testing.T) {
	for _, runs := range []bool{false, true} {
		g, instance := running(t)
		old := g.enis("n1")
		held := maps.Clone(g.pods["n1"])
		g.Must(g.kube.Delete(context.Background(), g.node("n1")))
		now := g.addNode("n1", "ecs.g6.large")
		g.restart()
		if !runs {
			g.Write(func(s state.API) error {
				return s.DeleteInstance(state.DeleteInstanceRequest{InstanceId: instance, Force: true})
			})
		} else {
			g.turns(4*minute, true)
			g.pods["n1"] = held
			g.hold("n1") // those of the old instance
			g.pods["n1"] = map[string]string{}
		}
		g.turns(4*minute, true)
		if nn := g.nn("n1"); nn == nil || nn.Spec.InstanceID != now || g.free("n1") != 2 {
			t.Fatalf("NodeNetwork %+v", nn)
		}
		for _, e := range g.enis("n1") {
			if e.ID == old[0].ID || e.ID == old[1].ID {
				t.Error("an ENI of the old instance is still there")
			}
		}
	}
}

// asked is a cloud that counts the queries for instances, and changes the answers.
type asked struct {
	cloud.API
	ids    [][]string
	answer func(n int, list []cloud.Instance) []cloud.Instance
}

func (c *asked) DescribeInstances(ctx context.Context, ids []string) ([]cloud.Instance, error) {
	list, err := c.API.DescribeInstances(ctx, ids)
	c.ids = append(c.ids, ids)
	return c.answer(len(c.ids), list), err
}

// asks makes the queries for the instances of nodes that left use c.
func (g *rig) asks(c *asked, change ...func(*Options)) {
	o := g.r.Options
	c.API, o.Cloud = o.Cloud, c
	for _, f := range change {
		f(&o)
	}
	g.r.instanceAnswers = newInstanceAnswers(&o)
}

// A single answer that the instance of a deleted Node does not run takes nothing from its pods.
func TestInstanceIsAwayOnce(t *testing.T) {
	for what, change := range map[string]func([]cloud.Instance) []cloud.Instance{
		"missing": func([]cloud.Instance) []cloud.Instance { return nil },
		"stopped": func(list []cloud.Instance) []cloud.Instance {
			list[0].Status = instanceStopped
			return list
		},
	} {
		t.Run(what, func(t *testing.T) {
			g, instance := running(t)
			c := &asked{answer: func(n int, list []cloud.Instance) []cloud.Instance {
				if n%2 == 1 {
					return change(list)
				}
				return list
			}}
			g.asks(c)
			g.Must(g.kube.Delete(context.Background(), g.node("n1")))
			g.turns(3*minute, true)
			if len(c.ids) < 3 || !g.nn("n1").DeletionTimestamp.IsZero() {
				t.Fatalf("%d queries, NodeNetwork %+v", len(c.ids), g.nn("n1"))
			}
			g.register(instance)
			g.turns(minute, true)
			g.rest("n1")
		})
	}
}

// Many deleted Nodes are few calls, and no worker waits for an answer. The answer to an earlier
// query does not count.
func TestManyNodesGo(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/24"})
	var names []string
	for i := range 5 {
		names = append(names, fmt.Sprint("n", i))
		instance := g.addNode(names[i], "ecs.g6.2xlarge")
		g.startPods(names[i], 1)
		g.settle(names[i], minute)
		g.Must(g.kube.Delete(context.Background(), g.node(names[i])))
		clear(g.pods[names[i]])
		g.Write(func(s state.API) error {
			return s.DeleteInstance(state.DeleteInstanceRequest{InstanceId: instance, Force: true})
		})
	}
	var flights []func()
	c := &asked{answer: func(_ int, list []cloud.Instance) []cloud.Instance { return list }}
	g.asks(c, func(o *Options) { o.Go = func(f func()) { flights = append(flights, f) } })
	for ask := range 2 {
		for range 3 {
			for _, name := range names {
				if g.once(name); !g.nn(name).DeletionTimestamp.IsZero() {
					t.Fatalf("%s goes after %d answers", name, ask)
				}
			}
			if ask == 1 && len(flights) == 0 { // not due yet
				g.Clock.Pass(g.r.Retry)
			}
		}
		if len(flights) != 1 {
			t.Fatalf("%d calls are under way, want 1", len(flights))
		}
		flights[0]()
		flights = nil
		if n := len(c.ids); n != ask+1 || len(c.ids[ask]) != len(names) {
			t.Errorf("queried %v", c.ids)
		}
	}
	for _, name := range names {
		for range 60 {
			g.once(name)
			g.Clock.Pass(time.Second)
		}
		if nn := g.nn(name); nn != nil {
			t.Errorf("NodeNetwork %+v", nn)
		}
	}
	if len(flights) > 0 || len(c.ids) > 2 {
		t.Errorf("queried %v", c.ids)
	}
}

// A Node that registers again while its instance is being queried keeps its ENIs, even after the
// delay.
func TestNodeRegistersAgainAtTheLastMoment(t *testing.T) {
	g, instance := running(t)
	g.Must(g.kube.Delete(context.Background(), g.node("n1")))
	g.turns(minute, true)
	back := false
	g.asks(&asked{answer: func(_ int, list []cloud.Instance) []cloud.Instance {
		if !back {
			back = true
			g.register(instance)
		}
		return list
	}})
	g.Clock.Pass(10 * time.Minute)
	g.turns(2*minute, true)
	if nn := g.nn("n1"); !back || !nn.DeletionTimestamp.IsZero() || g.gone() != nil || len(g.enis("n1")) != 2 {
		t.Fatalf("registered %v, NodeNetwork %+v", back, nn)
	}
	g.rest("n1")
}

// A label on a node with pods, which may stay for days, causes no work.
func TestIgnoredNodeIsLookedAtRarely(t *testing.T) {
	g, _ := running(t)
	n := g.node("n1")
	n.Labels = map[string]string{"type": "virtual-kubelet"}
	g.Must(g.kube.Update(context.Background(), n))
	g.once("n1")
	if wait, _ := g.once("n1"); wait < g.r.Park {
		t.Errorf("it is reconciled every %s", wait)
	}
}

// A Node that is back is never offered an address that was found to be gone in the cloud, also
// while the cloud does not answer and by a new leader; it gets the others back.
func TestNodeIsBackWithoutAnAddress(t *testing.T) {
	for _, restart := range []bool{false, true} {
		g, instance := running(t)
		lost, on := "", ""
		for _, e := range g.nn("n1").Spec.ENIs {
			for _, a := range e.Addresses {
				if a.Address != e.PrimaryAddress && !slices.Contains(slices.Collect(maps.Values(g.pods["n1"])), a.Address) {
					lost, on = a.Address, e.ID
				}
			}
		}
		g.Write(func(s state.API) error {
			return s.UnassignPrivateIpAddresses(state.UnassignPrivateIpAddressesRequest{NetworkInterfaceId: on, PrivateIpAddress: []string{lost}})
		})
		offered := func() bool {
			for _, e := range g.nn("n1").Spec.ENIs {
				for _, a := range e.Addresses {
					if a.Address == lost {
						return !a.Releasing
					}
				}
			}
			return false
		}
		g.r.Wake("n1")
		if g.once("n1"); offered() {
			t.Fatal("nobody has seen that the address is gone")
		}
		enis, free := len(g.enis("n1")), g.free("n1")
		g.Must(g.kube.Delete(context.Background(), g.node("n1")))
		g.once("n1")
		if restart {
			g.restart()
		}
		g.register(instance)
		g.Fault(faults.Rule{Name: "away", Action: "DescribeNetworkInterfaces", Error: &faults.Error{Code: "ServiceUnavailable", Status: 503}})
		if g.once("n1"); offered() {
			t.Errorf("new leader %t: %s is offered, and is not in the cloud", restart, lost)
		}
		if n := g.free("n1"); !restart && n != free {
			t.Errorf("%d free while the cloud is away, want %d", n, free)
		}
		g.Sim.RemoveFault("away")
		for range 100 {
			if g.once("n1"); offered() {
				t.Fatalf("new leader %t: %s is offered, and is not in the cloud", restart, lost)
			}
			g.agent("n1")
			g.Clock.Pass(time.Second)
		}
		if len(g.enis("n1")) != enis || g.free("n1") != free {
			t.Errorf("new leader %t: %d ENIs, %d free; want %d, %d", restart, len(g.enis("n1")), g.free("n1"), enis, free)
		}
		g.rest("n1")
	}
}

// While the cloud does not answer, removal of a departed node's ENIs is retried with this package's
// own short pauses, and each message is recorded once.
func TestNodeGoesWhileTheCloudIsAway(t *testing.T) {
	g, _ := running(t)
	clear(g.pods["n1"])
	g.agent("n1")
	g.Must(g.kube.Delete(context.Background(), g.node("n1")))
	g.Fault(faults.Rule{Name: "away", Action: "DescribeNetworkInterfaces", Error: &faults.Error{Code: "ServiceUnavailable", Status: 503}})
	for end := g.Clock.Now().Add(time.Hour); g.Clock.Now().Before(end); {
		wait, _ := g.once("n1") // an error would leave the time to the work queue
		if g.agent("n1"); wait > backoffMax {
			t.Fatalf("the next reconcile is after %s", wait)
		}
		g.Clock.Pass(max(wait, time.Second))
	}
	if !g.events.Has("ENIsNotReleased") || len(g.enis("n1")) != 2 {
		t.Errorf("%d ENIs, events %v", len(g.enis("n1")), g.events.All())
	}
	g.Sim.RemoveFault("away")
	g.turns(backoffMax+minute, true)
	if nn := g.nn("n1"); nn != nil || len(g.enis("")) != 0 {
		t.Errorf("left: %+v, NodeNetwork %+v", g.enis(""), nn)
	}
}
