package nodenetwork

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"terway.dev/terway/internal/config"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/vpcsim"
	"terway.dev/terway/internal/vpcsim/faults"
	"terway.dev/terway/internal/vpcsim/state"
)

const minute = time.Minute

// A new node gets its minimum, the figure for the kubelet, and loses the taint when its agent
// serves; others' taints stay.
func TestNewNode(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/19"})
	instance := g.addNode("n1", "ecs.g6.2xlarge")
	g.once("n1")
	if !slices.ContainsFunc(g.node("n1").Spec.Taints, func(x corev1.Taint) bool { return x.Key == claims.TaintNotReady }) {
		t.Error("no taint before the agent serves")
	}
	g.settle("n1", minute)
	nn := g.nn("n1")
	if s := nn.Spec; s.InstanceID != instance || s.InstanceType != "ecs.g6.2xlarge" || s.Zone != zone || s.Limits.MaxPods != 45 && s.Limits.MaxPods != 30 {
		t.Errorf("spec %+v", s)
	}
	if g.free("n1") != 2 || len(nn.Spec.ENIs) != 1 {
		t.Errorf("%d free on %d ENIs, want the minimum of 2 on one", g.free("n1"), len(nn.Spec.ENIs))
	}
	if e := nn.Spec.ENIs[0]; e.MAC == "" || e.CIDRs[0] != "192.168.32.0/19" || e.Gateways[0] != "192.168.63.253" {
		t.Errorf("ENI %+v", e)
	}
	node := g.node("n1")
	if len(node.Spec.Taints) != 1 || node.Spec.Taints[0].Key != "other" {
		t.Errorf("taints %v, want only the other one", node.Spec.Taints)
	}
	if node.Annotations[claims.AnnotationMaxPods] == "" {
		t.Error("no max-pods annotation")
	}
	if c := g.condition("n1"); c.Status != "True" {
		t.Errorf("condition %+v", c)
	}
	g.agree("n1")
}

// Demand is met at once, the surplus is given back, and nothing is lost.
func TestUpAndDown(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/19"})
	g.addNode("n1", "ecs.g6.2xlarge")
	g.settle("n1", minute)
	g.startPods("n1", 20)
	g.settle("n1", minute)
	if used := len(g.nn("n1").Status.Used); used != 20 {
		t.Fatalf("%d pods have an address, want 20", used)
	}
	g.stopPods("n1", 20)
	g.settle("n1", 5*minute)
	if n := g.free("n1"); n < 2 || n > 4 {
		t.Errorf("%d free, want 2 to 4", n)
	}
	g.agree("n1")
	if n := len(g.assigned("n1")); n > 4 {
		t.Errorf("the cloud has %d addresses, want at most 4", n)
	}
	// Without work there are no calls.
	before := g.Calls("DescribeNetworkInterfaces") + g.Calls("AssignPrivateIpAddresses")
	for range 5 {
		g.once("n1")
	}
	if after := g.Calls("DescribeNetworkInterfaces") + g.Calls("AssignPrivateIpAddresses"); after != before {
		t.Errorf("%d calls for a node at rest", after-before)
	}
}

// At the type's limit the next pod waits, the condition says why, and the pod starts when another
// ends.
func TestTypeLimit(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/19"})
	g.addNode("n1", "ecs.g6.large")
	g.settle("n1", minute)
	limit := g.nn("n1").Spec.Limits.MaxPods
	g.startPods("n1", limit+1)
	g.settle("n1", minute)
	if nn := g.nn("n1"); len(nn.Status.Used) != limit || nn.Status.Demand != 1 {
		t.Fatalf("%d pods run, %d wait; want %d and 1", len(nn.Status.Used), nn.Status.Demand, limit)
	}
	if c := g.condition("n1"); c.Status != "False" || c.Reason != "TypeLimit" || !strings.Contains(c.Message, "ecs.g6.large") {
		t.Errorf("condition %+v", c)
	}
	if !g.events.Has("*v1.Node Warning TypeLimit") || !g.events.Has("*v1alpha1.NodeNetwork Warning TypeLimit") {
		t.Errorf("events %v", g.events.All())
	}
	g.stopPods("n1", 3)
	g.settle("n1", minute)
	if c := g.condition("n1"); c.Status != "True" || g.nn("n1").Status.Demand != 0 {
		t.Errorf("condition %+v with %d waiting", c, g.nn("n1").Status.Demand)
	}
}

// A full vSwitch is parked and the others serve; when all are full the condition says so, the cloud
// is not called continuously, and addresses are assigned when there is room again.
func TestFullVSwitches(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/28", "192.168.33.0/28"}, func(c *config.Config, _ *vpcsim.Options) { c.VSwitchSelectionPolicy = "ordered" })
	g.addNode("n1", "ecs.g6.2xlarge")
	g.settle("n1", minute)
	// The cloud's count of free addresses does not show that this one is full.
	full := &faults.Error{Code: "InvalidVSwitchId.IpNotEnough", Status: 403}
	g.Fault(faults.Rule{Action: "CreateNetworkInterface", Match: map[string]string{"VSwitchId": g.vswitch[1]}, Error: full},
		faults.Rule{Action: "AssignPrivateIpAddresses", Match: map[string]string{"NetworkInterfaceId": g.nn("n1").Spec.ENIs[0].ID}, Error: full})
	g.startPods("n1", 8)
	g.settle("n1", minute)
	if used := len(g.nn("n1").Status.Used); used != 8 {
		t.Fatalf("%d pods have an address, want 8 by the second vSwitch", used)
	}
	g.startPods("n1", 20)
	g.settle("n1", minute)
	if c := g.condition("n1"); c.Status != "False" || c.Reason != "VSwitchFull" {
		t.Fatalf("condition %+v", c)
	}
	before := g.Calls("AssignPrivateIpAddresses") + g.Calls("CreateNetworkInterface")
	g.settle("n1", 3*minute)
	if n := g.Calls("AssignPrivateIpAddresses") + g.Calls("CreateNetworkInterface") - before; n > 6 {
		t.Errorf("%d calls in 3 minutes to vSwitches that are full", n)
	}
	g.Sim.RemoveFault("")
	g.settle("n1", 3*minute)
	if used := len(g.nn("n1").Status.Used); used < 20 {
		t.Errorf("%d pods have an address after there was room again", used)
	}
	g.agree("n1")
}

// While the cloud does not return the vSwitches' free addresses, no reconcile waits for it: what
// the old figures allow is done, and the condition stays.
func TestNobodyWaitsForFigures(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/28"})
	var answers []func() // that the cloud gives later
	o := g.r.Options
	o.Go = func(f func()) { answers = append(answers, f) }
	g.r.vswitches = newVSwitches(&o, g.r.look)
	give := func() {
		for _, f := range answers {
			f()
		}
		answers = nil
	}
	g.addNode("n1", "ecs.g6.2xlarge")
	g.once("n1")
	g.agent("n1")
	if wait, _ := g.once("n1"); wait == 0 || wait > g.r.Poll {
		t.Errorf("the next reconcile is after %s, want %s at most", wait, g.r.Poll)
	}
	if c := g.condition("n1"); c.Status == "False" || len(answers) != 1 {
		t.Fatalf("condition %+v while nothing is known; %d queries", c, len(answers))
	}
	give()
	g.settle("n1", minute)
	give()
	g.startPods("n1", 20)
	g.settle("n1", minute)
	give()
	g.settle("n1", minute)
	if c := g.condition("n1"); c.Reason != "VSwitchFull" {
		t.Fatalf("condition %+v", c)
	}
	said := len(g.events.All())

	// The figures get old, and the cloud does not answer.
	give()
	g.Clock.Pass(freshFor)
	g.stopPods("n1", 2)
	g.startPods("n1", 1)
	for range 5 {
		g.once("n1")
		g.Clock.Pass(time.Second)
	}
	if c := g.condition("n1"); c.Reason != "VSwitchFull" || len(g.events.All()) != said {
		t.Errorf("condition %+v, events %v", c, g.events.All()[said:])
	}
	if len(answers) != 1 {
		t.Errorf("%d queries, want one", len(answers))
	}
}

// A configured vSwitch that does not exist does not stop the others.
func TestUnknownVSwitch(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/28"})
	g.cfg.VSwitches[zone] = append([]string{"vsw-nowhere"}, g.cfg.VSwitches[zone]...)
	g.addNode("n1", "ecs.g6.2xlarge")
	g.settle("n1", minute)
	if g.free("n1") != 2 {
		t.Fatalf("%d free; condition %+v", g.free("n1"), g.condition("n1"))
	}
	g.startPods("n1", 30)
	g.settle("n1", minute)
	if c := g.condition("n1"); c.Reason != "VSwitchFull" || !strings.Contains(c.Message, "vsw-nowhere does not exist") {
		t.Errorf("condition %+v", c)
	}
}

// Everything is given back when the node is gone, also when its instance is gone already.
func TestNodeGoes(t *testing.T) {
	for _, gone := range []bool{false, true} {
		g := newRig(t, []string{"192.168.32.0/19"})
		instance := g.addNode("n1", "ecs.g6.2xlarge")
		g.startPods("n1", 15)
		g.settle("n1", minute)
		g.startPods("n1", 12)
		g.settle("n1", minute)
		g.pods["n1"] = nil
		if gone {
			g.Write(func(s state.API) error {
				return s.DeleteInstance(state.DeleteInstanceRequest{InstanceId: instance, Force: true})
			})
		}
		g.Must(g.kube.Delete(context.Background(), g.node("n1")))
		g.settle("n1", 2*minute)
		if nn := g.nn("n1"); nn != nil {
			t.Fatalf("instance gone %v: the NodeNetwork is still there: %+v", gone, nn.Spec.ENIs)
		}
		if left := g.enis(""); len(left) != 0 {
			t.Errorf("instance gone %v: ENIs left: %+v", gone, left)
		}
	}
}

// Nodes with the label to ignore them, or without an instance, are left alone.
func TestLeftAlone(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/19"})
	g.addNode("n1", "ecs.g6.2xlarge")
	n := g.node("n1")
	n.Labels = map[string]string{"k8s.aliyun.com/ignore-by-terway": "true"}
	g.Must(g.kube.Update(context.Background(), n))
	g.addNode("n2", "ecs.g6.2xlarge")
	n = g.node("n2")
	n.Spec.ProviderID = "aws:///i-1"
	g.Must(g.kube.Update(context.Background(), n))
	for _, name := range []string{"n1", "n2"} {
		g.once(name)
		g.once(name)
		if g.nn(name) != nil || len(g.node(name).Spec.Taints) != 1 {
			t.Errorf("%s was touched", name)
		}
	}
	if !g.events.Has("ProviderIDInvalid") {
		t.Errorf("events %v", g.events.All())
	}
}

// Pods that wait for an address of a full vSwitch get one as soon as another node gives one
// back, and not when the vSwitch is asked again by itself.
func TestAddressesThatComeBack(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/28"}) // 12 addresses for Pods
	for _, name := range []string{"n1", "n2"} {
		g.addNode(name, "ecs.g6.2xlarge")
		g.settle(name, minute)
	}
	g.startPods("n1", 8)
	g.settle("n1", minute)
	g.startPods("n2", 8)
	g.settle("n2", minute)
	if c := g.condition("n2"); c.Reason != "VSwitchFull" {
		t.Fatalf("condition %+v", c)
	}
	waited := g.waiting("n2")
	if waited == 0 {
		t.Fatal("no pod waits")
	}
	full := g.Clock.Now()
	g.r.drain()
	g.stopPods("n1", 8)
	for g.waiting("n2") > 0 {
		if g.Clock.Now().Sub(full) > 20*minute {
			t.Fatalf("%d pods wait still", g.waiting("n2"))
		}
		before := g.Calls("UnassignPrivateIpAddresses")
		g.r.vswitches.full(g.vswitch[1]) // as the cloud answered another node a moment ago
		g.once("n1")
		g.agent("n1")
		if g.Calls("UnassignPrivateIpAddresses") == before {
			if slices.Contains(g.r.drain(), "n2") {
				t.Fatal("woken for nothing")
			}
			g.Clock.Pass(minute / 4)
			continue
		}
		if !slices.Contains(g.r.drain(), "n2") {
			t.Fatal("addresses came back, and the node that waits for them is not reconciled")
		}
		g.once("n2")
		g.agent("n2")
		if now := g.waiting("n2"); now == waited {
			t.Fatalf("%d pods wait still after addresses came back", now)
		} else {
			waited = now
		}
	}
}

// A pod that waits for an ENI of its own gets one of the full vSwitch when another node's ENI is
// deleted.
func TestAnENIThatComesBack(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/28"}, func(c *config.Config, _ *vpcsim.Options) { c.Mode = "exclusive"; c.MaxPoolSize, c.MinPoolSize = 0, 0 })
	for _, name := range []string{"n1", "n2", "n3", "n4", "n5"} {
		g.addNode(name, "ecs.g6.2xlarge")
		g.settle(name, minute)
		g.startExclusive(name, 3)
		g.settle(name, minute)
	}
	short := g.r.vswitches.short[g.vswitch[1]]
	if len(short) == 0 {
		t.Fatal("no node waits for an address of the full vSwitch")
	}
	g.r.drain()
	g.r.vswitches.full(g.vswitch[1])
	g.pods["n1"] = nil
	g.settle("n1", 30*minute)
	if woken := g.r.drain(); !slices.ContainsFunc(woken, func(n string) bool { return n != "n1" }) {
		t.Errorf("ENIs of n1 are gone, and no node that waits was woken: %v", woken)
	}

	// The same when a node goes.
	for _, name := range []string{"n3", "n4", "n5"} {
		g.settle(name, minute)
	}
	g.r.drain()
	g.pods["n2"] = nil
	g.Must(g.kube.Delete(context.Background(), g.node("n2")))
	g.settle("n2", 30*minute)
	if woken := g.r.drain(); g.nn("n2") != nil || !slices.ContainsFunc(woken, func(n string) bool { return n != "n2" }) {
		t.Errorf("n2 is gone, and no node that waits was woken: %v", woken)
	}
}

// drain returns the nodes that were to be looked at.
func (r *Reconciler) drain() (names []string) {
	for {
		select {
		case e := <-r.wake:
			names = append(names, e.Object.GetName())
		default:
			return names
		}
	}
}
