package nodenetwork

import (
	"context"
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/internal/cloud"
)

// An instance belongs to the Node that has its address, and to the oldest of several.
func TestInstanceOfAnotherNode(t *testing.T) {
	for reason, status := range map[string]func(g *rig, instance, other string) corev1.NodeStatus{
		"InstanceNotOfNode": func(g *rig, _, other string) corev1.NodeStatus { return g.addresses(other) },
		"InstanceClaimed":   func(g *rig, instance, _ string) corev1.NodeStatus { return g.addresses(instance) },
		"NoInternalIP":      func(*rig, string, string) corev1.NodeStatus { return corev1.NodeStatus{} },
	} {
		t.Run(reason, func(t *testing.T) {
			g := newRig(t, []string{"192.168.32.0/24"})
			instance, other := g.addNode("n1", "ecs.g6.2xlarge"), g.addNode("n2", "ecs.g6.2xlarge")
			g.settle("n1", minute)
			g.Must(g.kube.Create(context.Background(), &corev1.Node{
				// No older name: the time decides.
				ObjectMeta: metav1.ObjectMeta{Name: "a", CreationTimestamp: metav1.NewTime(time.Now().Add(time.Hour))},
				Spec:       corev1.NodeSpec{ProviderID: "cn-hangzhou." + instance}, Status: status(g, instance, other),
			}))
			g.pods["a"] = map[string]string{}
			g.once("a")
			g.addPods("a", 20)
			g.settle("a", minute)
			if c := g.condition("a"); c.Status != "False" || c.Reason != reason || !g.events.Has("*v1.Node Warning "+reason) {
				t.Errorf("condition %+v, events %v", c, g.events.All())
			}
			if n := len(g.enis("a")); n > 0 {
				t.Errorf("%d ENIs are attached for it", n)
			}
			g.startPods("n1", 20)
			g.settle("n1", 3*minute)
			if n := g.nn("n1").Status.Demand; n > 0 {
				t.Errorf("%d pods of the instance's node wait", n)
			}
			// Once it is deleted nothing is left.
			g.pods["a"] = map[string]string{}
			g.Must(g.kube.Delete(context.Background(), g.node("a")))
			g.settle("a", minute)
			if g.nn("a") != nil || len(g.enis("n1")) == 0 {
				t.Errorf("NodeNetwork %+v, ENIs %+v", g.nn("a"), g.enis("n1"))
			}
		})
	}
}

// answering is a cloud that returns the test's answers about instances, and about one instance's
// ENIs.
type answering struct {
	cloud.API
	instance func(*cloud.Instance)
	enis     func([]cloud.ENI) []cloud.ENI
}

func (c *answering) DescribeENIs(ctx context.Context, f cloud.ENIFilter) ([]cloud.ENI, error) {
	list, err := c.API.DescribeENIs(ctx, f)
	return c.enis(list), err
}

func (c *answering) DescribeInstances(ctx context.Context, ids []string) ([]cloud.Instance, error) {
	list, err := c.API.DescribeInstances(ctx, ids)
	for i := range list {
		c.instance(&list[i])
	}
	return list, err
}

// An instance that got another address, or another ENI with it, belongs to its Node as soon as the
// cloud says so, not when the cached answer expires.
func TestInstanceWithAnotherAddress(t *testing.T) {
	for _, by := range []string{"instance", "ENIs"} {
		t.Run(by, func(t *testing.T) {
			g := newRig(t, []string{"192.168.32.0/24"})
			g.addNode("n1", "ecs.g6.2xlarge")
			right, o := "", g.r.Options
			o.Cloud = &answering{o.Cloud, func(in *cloud.Instance) {
				if right != "instance" {
					in.Addresses = []netip.Addr{netip.MustParseAddr("192.168.31.250")}
				}
			}, func(list []cloud.ENI) []cloud.ENI {
				if right != "ENIs" {
					return nil
				}
				return list
			}}
			g.r.knowledge = newKnowledge(&o)
			g.addPods("n1", 1)
			g.settle("n1", minute)
			if c := g.condition("n1"); c.Reason != "InstanceNotOfNode" {
				t.Fatalf("condition %+v", c)
			}
			right = by
			g.settle("n1", 5*minute)
			if c := g.condition("n1"); c.Status != "True" || g.nn("n1").Status.Demand > 0 {
				t.Errorf("condition %+v, status %+v", c, g.nn("n1").Status)
			}
		})
	}
}

// A kubelet may use the address of another ENI of its instance than the primary one, but not one
// that serves pods.
func TestNodeWithTheAddressOfASecondaryENI(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/24"})
	instance := g.addNode("n1", "ecs.g6.2xlarge")
	e, err := g.API.CreateENI(context.Background(), cloud.CreateENIRequest{Token: "s", VSwitchID: g.vswitch[1], SecurityGroups: g.groups(instance), SecondaryCount: 1})
	g.Must(err)
	g.Clock.Pass(2 * time.Second)
	g.Must(g.API.AttachENI(context.Background(), e.ID, instance))
	g.Clock.Pass(5 * time.Second)
	move := func(a netip.Addr) {
		n := g.node("n1")
		n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: a.String()}}
		g.Must(g.kube.Status().Update(context.Background(), n))
	}
	for _, a := range e.Addresses {
		move(a)
		before := g.Calls("DescribeNetworkInterfaces")
		g.startPods("n1", 1)
		g.settle("n1", 2*minute)
		if c := g.condition("n1"); c.Status != "True" || g.nn("n1").Status.Demand > 0 {
			t.Errorf("InternalIP %s: condition %+v, status %+v", a, c, g.nn("n1").Status)
		}
		calls := g.Calls("DescribeNetworkInterfaces")
		for range 20 {
			g.once("n1")
		}
		if n := g.Calls("DescribeNetworkInterfaces"); n != calls {
			t.Errorf("%d calls in 20 reconciles of an idle node, %d before", n-calls, calls-before)
		}
	}
	// A newer Node of the same instance has its primary address.
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n2", CreationTimestamp: metav1.NewTime(time.Now().Add(time.Hour))},
		Spec: g.node("n1").Spec, Status: g.addresses(instance)}
	g.Must(g.kube.Create(context.Background(), n))
	g.pods["n2"] = map[string]string{}
	g.settle("n2", minute)
	if c := g.condition("n2"); c.Reason != "InstanceClaimed" {
		t.Errorf("condition of the second Node %+v", c)
	}
	pod := parse(g.nn("n1").Spec.ENIs[0].Addresses[0].Address)
	move(pod)
	g.settle("n1", 2*minute)
	if c := g.condition("n1"); c.Reason != "InstanceNotOfNode" {
		t.Errorf("InternalIP %s is a pod's: condition %+v", pod, c)
	}
}
