package nodenetwork

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/config"
	"terway.dev/terway/internal/controller/eniconfig"
	"terway.dev/terway/internal/vpcsim/faults"
	"terway.dev/terway/internal/vpcsim/state"
)

// reloading gives the rig its configuration through the ConfigMap, as the controller gets it.
type reloading struct {
	*rig
	watcher *eniconfig.Watcher
}

func newReloading(t *testing.T, podCIDRs []string, first func(*rig)) *reloading {
	t.Helper()
	g := &reloading{rig: newRig(t, podCIDRs)}
	first(g.rig)
	g.Must(g.kube.Create(context.Background(), g.configMap(g.cfg)))
	g.watcher = eniconfig.New(eniconfig.Options{
		Client: g.kube, Live: g.kube, Namespace: "kube-system", Events: g.events, Log: slog.New(slog.DiscardHandler),
		Leads: func() bool { return true }, Retry: time.Hour,
	})
	store, err := g.watcher.First(context.Background())
	g.Must(err)
	g.store = store
	g.restart()
	return g
}

func (g *reloading) configMap(c *config.Config) *corev1.ConfigMap {
	g.Helper()
	text, err := yaml.Marshal(c)
	g.Must(err)
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: config.ConfigMapName},
		Data:       map[string]string{config.ConfigMapKey: string(text)},
	}
}

// edit changes the ConfigMap, lets the controller read it, and returns the nodes to be reconciled.
func (g *reloading) edit(change func(*config.Config)) (nodes []string) {
	g.Helper()
	c := *g.store.Get()
	change(&c)
	g.Must(g.kube.Update(context.Background(), g.configMap(&c)))
	_, err := g.watcher.Reconcile(context.Background(), request("any"))
	g.Must(err)
	select {
	case e := <-g.r.changed:
		for _, r := range g.r.everyNode(context.Background(), e.Object) {
			nodes = append(nodes, r.Name)
		}
	default:
	}
	return nodes
}

// Each node gets the total of its ENIs, and loses it with the key.
func TestNetworkPriority(t *testing.T) {
	g := newReloading(t, []string{"192.168.32.0/24"}, func(g *rig) { g.cfg.VSwitches[zone] = g.vswitch[1:2] })
	g.addNode("n1", "ecs.g6.2xlarge")
	g.settle("n1", minute)
	for _, want := range []int{0, 1000, 2000, 0} {
		g.edit(func(c *config.Config) { c.NetworkPriority.ENIMbit = want })
		g.once("n1")
		if got := g.nn("n1").Spec.ENIMbit; got != want {
			t.Errorf("total %d, want %d", got, want)
		}
	}
}

// A full Pod vSwitch is reported; another one in the ConfigMap is used for the next address,
// without a restart.
func TestVSwitchAdded(t *testing.T) {
	g := newReloading(t, []string{"192.168.32.0/28", "192.168.33.0/24"}, func(g *rig) { g.cfg.VSwitches[zone] = g.vswitch[1:2] })
	first, second := g.vswitch[1], g.vswitch[2]
	g.addNode("n1", "ecs.g6.2xlarge")
	g.startPods("n1", 20)
	g.settle("n1", minute)
	if c := g.condition("n1"); c.Reason != "VSwitchFull" || !strings.Contains(c.Message, first) {
		t.Fatalf("condition %+v", c)
	}
	running := g.r
	waiting := g.nn("n1").Status.Demand
	if waiting == 0 {
		t.Fatal("no pod waits")
	}

	nodes := g.edit(func(c *config.Config) { c.VSwitches = map[string][]string{zone: {first, second}} })
	if !slices.Equal(nodes, []string{"n1"}) {
		t.Fatalf("nodes %v are served again, want n1", nodes)
	}
	before := g.Calls("CreateNetworkInterface")
	g.once("n1")
	if g.Calls("CreateNetworkInterface") != before+1 {
		t.Error("the next reconcile does not use the new vSwitch")
	}
	g.settle("n1", minute)
	if nn := g.nn("n1"); nn.Status.Demand != 0 || len(nn.Status.Used) != 20 {
		t.Errorf("%d pods run, %d wait", len(nn.Status.Used), nn.Status.Demand)
	}
	if c := g.condition("n1"); c.Status != "True" {
		t.Errorf("condition %+v", c)
	}
	if !slices.ContainsFunc(g.nn("n1").Spec.ENIs, func(e v1alpha1.ENI) bool { return e.VSwitchID == second }) {
		t.Error("no ENI in the new vSwitch")
	}
	if g.r != running {
		t.Error("the controller was restarted")
	}
	if !g.events.Has("*v1.ConfigMap Normal ConfigurationChanged in force now: vswitches:") {
		t.Errorf("events %v", g.events.All())
	}
	g.agree("n1")
}

// The Pod vSwitch is replaced by another while the node has all the ENIs that it may have: pods
// wait because the old one gives no more addresses, and the condition says so.
func TestVSwitchReplaced(t *testing.T) {
	g := newReloading(t, []string{"192.168.32.0/24", "192.168.33.0/24"}, func(g *rig) { g.cfg.VSwitches[zone] = g.vswitch[1:2] })
	first, second := g.vswitch[1], g.vswitch[2]
	g.addNode("n1", "ecs.g6.large") // one ENI for pods
	g.settle("n1", minute)
	limit := g.nn("n1").Spec.Limits.MaxPods
	g.edit(func(c *config.Config) { c.VSwitches = map[string][]string{zone: {second}} })
	g.startPods("n1", limit)
	g.settle("n1", 2*minute)
	if n := g.nn("n1").Status.Demand; n == 0 {
		t.Fatal("no pod waits")
	}
	if c := g.condition("n1"); c.Reason != "NoENISlot" || !strings.Contains(c.Message, "no longer names ("+first+")") || !strings.Contains(c.Message, "add "+first+" there again") {
		t.Errorf("condition %+v", c)
	}
	// The step that it names helps.
	g.edit(func(c *config.Config) { c.VSwitches = map[string][]string{zone: {second, first}} })
	g.settle("n1", minute)
	if n := g.nn("n1").Status.Demand; n != 0 {
		t.Errorf("%d pods wait: %+v", n, g.condition("n1"))
	}
	// Both are named, and the one with the ENI is full.
	g.stopPods("n1", limit-1)
	g.settle("n1", 3*minute)
	g.Fault(faults.Rule{Action: "AssignPrivateIpAddresses", Error: &faults.Error{Code: "InvalidVSwitchId.IpNotEnough", Status: 403}})
	g.startPods("n1", limit-1)
	g.settle("n1", minute)
	if c := g.condition("n1"); c.Reason != "NoENISlot" || !strings.Contains(c.Message, "have no address left ("+first+")") || !strings.Contains(c.Message, "drain the node") {
		t.Errorf("condition %+v", c)
	}
}

// What the cloud refused under the old configuration is tried at once under the new one.
func TestMistakeMended(t *testing.T) {
	g := newReloading(t, []string{"192.168.32.0/24"}, func(g *rig) { g.cfg.SecurityGroups = []string{"sg-nowhere"} })
	g.addNode("n1", "ecs.g6.2xlarge")
	g.settle("n1", 20*time.Second)
	if c := g.condition("n1"); c.Status != "False" {
		t.Fatalf("condition %+v", c)
	}
	before := g.Calls("CreateNetworkInterface")
	g.once("n1")
	if g.Calls("CreateNetworkInterface") != before {
		t.Fatal("a refused call is repeated continuously: this test proves nothing")
	}
	g.edit(func(c *config.Config) { c.SecurityGroups = nil })
	g.once("n1")
	if g.Calls("CreateNetworkInterface") != before+1 {
		t.Error("the mended configuration has to wait")
	}
	g.settle("n1", minute)
	if g.free("n1") != 2 {
		t.Errorf("%d free; condition %+v", g.free("n1"), g.condition("n1"))
	}
}

// A new pool size reaches the nodes without a restart; an invalid configuration, or one that a
// running cluster cannot change to, changes nothing and is reported.
func TestPoolGrowsAndNonsenseDoesNot(t *testing.T) {
	g := newReloading(t, []string{"192.168.32.0/24"}, func(*rig) {})
	g.addNode("n1", "ecs.g6.2xlarge")
	g.settle("n1", minute)
	if nodes := g.edit(func(c *config.Config) { c.MinPoolSize, c.MaxPoolSize = 6, 9 }); len(nodes) != 1 {
		t.Errorf("nodes %v are served again", nodes)
	}
	g.settle("n1", minute)
	if p := g.nn("n1").Spec.Pool; p.Min != 6 || p.Max != 9 || g.free("n1") != 6 {
		t.Errorf("pool %+v with %d free", p, g.free("n1"))
	}

	inForce := g.store.Get()
	for _, wrong := range []struct {
		change func(*config.Config)
		event  string
	}{
		{func(c *config.Config) { c.MinPoolSize, c.Datapath = 20, "magic" }, `datapath "magic"`},
		{func(c *config.Config) { c.MinPoolSize, c.Datapath = 20, "magic" }, `max_pool_size 9`}, // all problems
		{func(c *config.Config) { c.ClusterID = "c2" }, `cluster_id cannot change from "c1" to "c2"`},
		{func(c *config.Config) {
			c.Region, c.VSwitches = "cn-beijing", map[string][]string{"cn-beijing-a": {"vsw-1"}}
		}, `region cannot change`},
	} {
		if nodes := g.edit(wrong.change); len(nodes) != 0 {
			t.Errorf("nodes %v are served again", nodes)
		}
		if !g.events.Has("*v1.ConfigMap Warning ConfigurationRefused") || !g.events.Has(wrong.event) {
			t.Errorf("no event with %q: %v", wrong.event, g.events.All())
		}
	}
	g.settle("n1", minute)
	if g.store.Get() != inForce || g.nn("n1").Spec.Pool.Min != 6 {
		t.Error("what was in force changed")
	}
	// A restarted controller must not accept what the running one rejected.
	if id := g.nn("n1").Spec.ClusterID; id != "c1" {
		t.Errorf("the ENIs' cluster is recorded as %q", id)
	}
	// It applies the next valid one.
	g.edit(func(c *config.Config) { c.MinPoolSize = 3 })
	g.settle("n1", minute)
	if p := g.nn("n1").Spec.Pool; p.Min != 3 {
		t.Errorf("pool %+v", p)
	}
}

// A vSwitch that did not exist under the old configuration is queried again under the new one at
// once, not half a minute later.
func TestVSwitchesLookedAtAgain(t *testing.T) {
	g := newReloading(t, []string{"192.168.32.0/24"}, func(*rig) {})
	look := func() int {
		before := g.Calls("DescribeVSwitches")
		g.r.vswitches.get(g.vpc, nil)
		return g.Calls("DescribeVSwitches") - before
	}
	if first, second := look(), look(); first == 0 || second != 0 {
		t.Fatalf("%d calls, then %d; want some, then none", first, second)
	}
	g.edit(func(c *config.Config) { c.MinPoolSize = 1 })
	if look() == 0 {
		t.Error("the cloud is not queried again")
	}
}

// A new vSwitch may be in a new range of the VPC ("vpc grow" of a full one). Every node gets the
// range with it: traffic within the VPC is never masqueraded.
func TestNewRangeOfTheVPC(t *testing.T) {
	g := newReloading(t, []string{"192.168.32.0/24"}, func(*rig) {})
	g.addNode("n1", "ecs.g6.2xlarge")
	g.settle("n1", minute)
	vpc := g.nn("n1").Spec.VPCID
	if got := g.nn("n1").Spec.VPCCIDRs; len(got) != 1 {
		t.Fatalf("the VPC has the ranges %v", got)
	}
	g.Write(func(a state.API) error {
		return a.AssociateVpcCidrBlock(state.AssociateVpcCidrBlockRequest{VpcId: vpc, SecondaryCidrBlock: "10.0.0.0/16"})
	})
	g.edit(func(c *config.Config) { c.VSwitches = map[string][]string{zone: {g.vswitch[1], "vsw-new"}} })
	instances := g.Calls("DescribeInstances")
	g.once("n1")
	if got := g.nn("n1").Spec.VPCCIDRs; len(got) != 2 || got[1] != "10.0.0.0/16" {
		t.Errorf("the node knows the ranges %v of the VPC", got)
	}
	if g.Calls("DescribeInstances") != instances {
		t.Error("a new configuration asks for every instance")
	}
	// A VPC that cannot be read keeps its ranges.
	g.Fault(faults.Rule{Action: "DescribeVpcAttribute", Error: &faults.Error{Code: "ServiceUnavailable", Status: 503}})
	g.edit(func(c *config.Config) { c.MinPoolSize = 1 })
	g.once("n1")
	if got := g.nn("n1").Spec.VPCCIDRs; len(got) != 2 {
		t.Errorf("the node knows the ranges %v of the VPC", got)
	}
}
