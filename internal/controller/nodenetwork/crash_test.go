package nodenetwork

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"pgregory.net/rapid"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/config"
	"terway.dev/terway/internal/vpcsim"
	"terway.dev/terway/internal/vpcsim/faults"
)

// rest reconciles a node until nothing changes, and checks that nothing was lost or doubled.
func (g *rig) rest(name string) {
	g.Helper()
	sweeper := &Sweeper{Reconciler: g.r, Age: time.Minute}
	for range 4 {
		g.settle(name, 3*minute)
		g.Must(sweeper.Sweep(context.Background()))
		g.settle(name, 3*minute)
		g.Clock.Pass(time.Minute)
	}
	g.agree(name)
	nn := g.nn(name)
	if nn.Status.Demand == 0 {
		// The primary address of an ENI in use cannot be unassigned.
		least := min(nn.Spec.Pool.Min, nn.Spec.Limits.MaxPods-len(nn.Status.Used))
		if n := g.free(name); n < least || n > nn.Spec.Pool.Max+len(nn.Spec.ENIs) {
			g.Fatalf("%d free at rest, want %d to %d; spec %+v", n, least, nn.Spec.Pool.Max, nn.Spec.ENIs)
		}
	} else if c := g.condition(name); c.Status != "False" {
		g.Fatalf("%d pods wait and the condition says %+v", nn.Status.Demand, c)
	}
	if n, limit := len(g.enis(name)), nn.Spec.Limits.ENIs-1; n != len(nn.Spec.ENIs) || n > limit {
		g.Fatalf("%d ENIs in the cloud, %d in the spec, the type allows %d", n, len(nn.Spec.ENIs), limit)
	}
}

// Whenever the controller is killed, its successor finishes the work: no address is lost, none is
// given to a pod before it is assigned, none is taken from a pod (the rig's agent checks both at
// each step).
func TestKilledAnywhere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := newRig(t, []string{"192.168.32.0/26", "192.168.33.0/28"})
		chance := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "chance"), 0))
		g.addNode("n1", rapid.SampledFrom([]string{"ecs.g6.large", "ecs.g6.2xlarge"}).Draw(t, "type"))
		g.settle("n1", minute)
		for range rapid.IntRange(1, 6).Draw(t, "rounds") {
			g.fuse.Light(rapid.IntRange(0, 8).Draw(t, "calls until it is killed"), rapid.Bool().Draw(t, "the last call is carried out"))
			if up := rapid.IntRange(-25, 25).Draw(t, "pods"); up > 0 {
				g.startPods("n1", up)
			} else {
				g.stopPods("n1", -up)
			}
			slow := rapid.IntRange(0, 3).Draw(t, "the agent rests how often in 4")
			g.unsteady("n1", chance, slow)
			g.settle("n1", time.Duration(rapid.IntRange(1, 60).Draw(t, "seconds"))*time.Second)
		}
		g.restart()
		g.steady()
		g.rest("n1")
	})
}

// The same holds with all kinds of faults in the cloud.
func TestTroubledCloud(t *testing.T) {
	share := func(p float64) *float64 { return &p }
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64Range(1, 1000).Draw(t, "seed")
		g := newRig(t, []string{"192.168.32.0/24"}, func(_ *config.Config, o *vpcsim.Options) { o.Seed = seed })
		chance := rand.New(rand.NewPCG(seed, 0))
		g.addNode("n1", "ecs.g6.2xlarge")
		kinds := []faults.Rule{
			{Name: "lost", Action: "*", LostAnswer: true, Probability: share(0.2)},
			{Name: "throttled", Action: "*", Error: &faults.Error{Code: "Throttling"}, Probability: share(0.3)},
			{Name: "broken", Action: "*", Error: &faults.Error{Code: "InternalError", Status: 500}, Probability: share(0.3)},
			{Name: "conflict", Action: "*PrivateIpAddresses", Error: &faults.Error{Code: "Operation.Conflict", Status: 403}, Probability: share(0.3)},
			{Name: "stale", Action: "DescribeNetworkInterfaces", Stale: faults.Duration(5 * time.Second), Probability: share(0.5)},
			{Name: "failing", FailingAttach: true},
			{Name: "stuck", StuckAttaching: true},
		}
		for range rapid.IntRange(1, 5).Draw(t, "rounds") {
			k := rapid.SampledFrom(kinds).Draw(t, "fault")
			g.Fault(k)
			if up := rapid.IntRange(-25, 25).Draw(t, "pods"); up > 0 {
				g.startPods("n1", up)
			} else {
				g.stopPods("n1", -up)
			}
			slow := rapid.IntRange(0, 3).Draw(t, "the agent rests how often in 4")
			g.unsteady("n1", chance, slow)
			g.settle("n1", time.Duration(rapid.IntRange(1, 200).Draw(t, "seconds"))*time.Second)
			g.Sim.RemoveFault(k.Name)
			if rapid.Bool().Draw(t, "restart") {
				g.restart()
			}
		}
		g.steady()
		g.rest("n1")
	})
}

// A new leader adopts what its predecessor created but did not record.
func TestAdoption(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/24"})
	g.addNode("n1", "ecs.g6.2xlarge")
	g.settle("n1", minute)
	e := g.nn("n1").Spec.ENIs[0]
	if _, err := g.API.AssignAddresses(context.Background(), e.ID, 3, "lost"); err != nil {
		t.Fatal(err)
	}
	g.restart()
	g.once("n1")
	if n := len(g.nn("n1").Spec.ENIs[0].Addresses); n != 2 {
		t.Errorf("%d addresses at the first sight, want 2: a list may be old", n)
	}
	g.settle("n1", minute)
	g.agree("n1")
	if n := g.free("n1"); n > 4 {
		t.Errorf("%d free after adoption, want at most 4", n)
	}
}

// An address that is gone in the cloud stays in the spec while a pod has it, and the condition says
// so.
func TestAddressGone(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/24"})
	g.addNode("n1", "ecs.g6.2xlarge")
	g.settle("n1", minute)
	g.startPods("n1", 3)
	g.settle("n1", minute)
	nn := g.nn("n1")
	e := nn.Spec.ENIs[0]
	var victims []string // one in use, one free
	used := map[string]bool{}
	for _, u := range nn.Status.Used {
		used[u.Address] = true
	}
	for _, want := range []bool{true, false} {
		i := slices.IndexFunc(e.Addresses, func(a v1alpha1.Address) bool { return a.Address != e.PrimaryAddress && used[a.Address] == want })
		victims = append(victims, e.Addresses[i].Address)
		g.Must(g.API.UnassignAddresses(context.Background(), e.ID, []netip.Addr{parse(e.Addresses[i].Address)}))
	}
	sweeper := &Sweeper{Reconciler: g.r, Age: time.Minute}
	g.Must(sweeper.Sweep(context.Background()))
	for range 30 {
		wait, _ := g.once("n1")
		g.Clock.Pass(max(wait, time.Second))
		g.report("n1", g.nn("n1"))
	}
	has := func(a string) bool {
		return slices.ContainsFunc(g.nn("n1").Spec.ENIs, func(e v1alpha1.ENI) bool {
			return slices.ContainsFunc(e.Addresses, func(x v1alpha1.Address) bool { return x.Address == a })
		})
	}
	if !has(victims[0]) || has(victims[1]) {
		t.Errorf("used address kept: %v, free address kept: %v", has(victims[0]), has(victims[1]))
	}
	if !g.events.Has("AddressGone address " + victims[0]) {
		t.Errorf("events %v", g.events.All())
	}
	if n := len(g.events.All()); n > 6 {
		t.Errorf("%d events: %v", n, g.events.All())
	}
	pod := slices.Collect(func(yield func(string) bool) {
		for pod, a := range g.pods["n1"] {
			if a == victims[0] && !yield(pod) {
				return
			}
		}
	})[0]
	if c := meta.FindStatusCondition(g.nn("n1").Status.ControllerConditions, v1alpha1.ConditionAddressesGone); c == nil || !strings.HasSuffix(c.Message, "recreated: default/"+pod+" "+victims[0]) {
		t.Errorf("condition %+v, want one that names %s with %s and no other", c, pod, victims[0])
	}

	// After its pod has ended no other pod gets it: hold would notice.
	maps.DeleteFunc(g.pods["n1"], func(_, a string) bool { return a == victims[0] })
	g.startPods("n1", 8)
	g.settle("n1", minute)
	if has(victims[0]) {
		t.Errorf("address %s is still in the spec", victims[0])
	}
	if c := meta.FindStatusCondition(g.nn("n1").Status.ControllerConditions, v1alpha1.ConditionAddressesGone); c != nil {
		t.Errorf("condition %+v", c)
	}
}

// A detached ENI is attached again, a deleted one is replaced.
func TestENIMeddledWith(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/24"})
	instance := g.addNode("n1", "ecs.g6.2xlarge")
	g.startPods("n1", 3)
	g.settle("n1", minute)
	id := g.nn("n1").Spec.ENIs[0].ID
	sweeper := &Sweeper{Reconciler: g.r, Age: time.Minute}

	g.Must(g.API.DetachENI(context.Background(), id, instance))
	g.Clock.Pass(10 * time.Second)
	g.Must(sweeper.Sweep(context.Background()))
	g.settle("n1", 2*minute)
	if e := g.enis("n1"); len(e) != 1 || e[0].Status != cloud.ENIInUse || g.nn("n1").Spec.ENIs[0].Phase != v1alpha1.ENIReady {
		t.Fatalf("ENIs %+v", e)
	}

	g.Must(g.API.DetachENI(context.Background(), id, instance))
	g.Clock.Pass(10 * time.Second)
	g.Must(g.API.DeleteENI(context.Background(), id))
	g.Clock.Pass(10 * time.Second)
	clear(g.pods["n1"])
	g.Must(sweeper.Sweep(context.Background()))
	for range 40 { // the pods' owner recreates them; the agent sees the loss in the spec
		wait, _ := g.once("n1")
		g.Clock.Pass(max(wait, time.Second))
		g.agent("n1")
	}
	if !g.events.Has("ENIGone") || g.free("n1") != 2 {
		t.Errorf("%d free; events %v", g.free("n1"), g.events.All())
	}
	g.agree("n1")
}

// The sweep deletes what no node has, after a while, and leaves alone what is in use.
func TestSweep(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/24"})
	g.addNode("n1", "ecs.g6.2xlarge")
	instance := g.addNode("n2", "ecs.g6.2xlarge")
	g.settle("n1", minute)
	create := func(token, node string) string {
		e, err := g.API.CreateENI(context.Background(), cloud.CreateENIRequest{Token: token, VSwitchID: g.vswitch[1],
			SecurityGroups: g.groups(instance), Tags: g.r.tags(node, token)})
		g.Must(err)
		g.Clock.Pass(5 * time.Second)
		return e.ID
	}
	orphan, attached := create("o1", "gone"), create("o2", "gone")
	g.Must(g.API.AttachENI(context.Background(), attached, instance))
	g.Clock.Pass(5 * time.Second)
	sweeper := &Sweeper{Reconciler: g.r, Age: 5 * time.Minute}
	there := func(id string) bool {
		return slices.ContainsFunc(g.enis(""), func(e cloud.ENI) bool { return e.ID == id })
	}
	for i := range 4 {
		g.Must(sweeper.Sweep(context.Background()))
		if !there(orphan) {
			t.Fatalf("deleted at sweep %d, after %s", i+1, time.Duration(i)*minute)
		}
		g.Clock.Pass(minute)
	}
	g.Clock.Pass(2 * minute)
	g.Must(sweeper.Sweep(context.Background()))
	g.Clock.Pass(5 * time.Second)
	if there(orphan) || !there(attached) || len(g.enis("n1")) != 1 {
		t.Errorf("orphan there: %v, attached one there: %v", there(orphan), there(attached))
	}
}

// While the cloud does not answer, existing addresses continue to serve, the condition says so, and
// the work continues when the cloud is back.
func TestCloudAway(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/24"})
	g.addNode("n1", "ecs.g6.2xlarge")
	g.settle("n1", minute)
	g.Fault(faults.Rule{Name: "away", Action: "*", Error: &faults.Error{Code: "ServiceUnavailable", Status: 503}})
	g.startPods("n1", 5)
	g.settle("n1", minute)
	if nn := g.nn("n1"); len(nn.Status.Used) != 2 || nn.Status.Demand != 3 || len(g.node("n1").Spec.Taints) != 1 {
		t.Fatalf("status %+v", nn.Status)
	}
	if c := g.condition("n1"); c.Status != "False" || c.Message == "" {
		t.Errorf("condition %+v", c)
	}
	if n := len(g.events.All()); n > 4 {
		t.Errorf("%d events in a minute: %v", n, g.events.All())
	}
	g.restart() // also without the memory of the process
	g.settle("n1", minute)
	if len(g.nn("n1").Spec.ENIs) != 1 {
		t.Error("a new leader that cannot reach the cloud changed the node's ENIs")
	}
	g.Sim.RemoveFault("away")
	g.settle("n1", minute)
	if nn := g.nn("n1"); nn.Status.Demand != 0 || g.condition("n1").Status != "True" {
		t.Errorf("status %+v, condition %+v", nn.Status, g.condition("n1"))
	}
	g.agree("n1")
}

// Slots of the instance that ENIs of others use are not counted on.
func TestForeignENIs(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/24"})
	instance := g.addNode("n1", "ecs.g6.2xlarge")
	in := g.instance(instance)
	limits, err := g.API.DescribeInstanceType(context.Background(), in.Type)
	g.Must(err)
	for i := range limits.ENIs - 2 { // all but one
		e, err := g.API.CreateENI(context.Background(), cloud.CreateENIRequest{Token: fmt.Sprint("f", i), VSwitchID: g.vswitch[1], SecurityGroups: in.SecurityGroups})
		g.Must(err)
		g.Clock.Pass(2 * time.Second)
		g.Must(g.API.AttachENI(context.Background(), e.ID, instance))
		g.Clock.Pass(5 * time.Second)
	}
	g.settle("n1", minute)
	g.startPods("n1", limits.IPv4PerENI+1)
	g.settle("n1", 5*minute)
	nn := g.nn("n1")
	if len(nn.Status.Used) != limits.IPv4PerENI || nn.Status.Demand != 1 {
		t.Fatalf("%d run, %d wait; want %d on the one ENI", len(nn.Status.Used), nn.Status.Demand, limits.IPv4PerENI)
	}
	if c := g.condition("n1"); c.Status != "False" {
		t.Errorf("condition %+v", c)
	}
	if n := len(g.enis("n1")); n != 1 {
		t.Errorf("%d ENIs, want 1: the one that does not fit is given back", n)
	}
}

// Many nodes that start at once share their lists.
func TestListsAreShared(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/19"})
	g.r.list.window = 20 * time.Millisecond
	var names []string
	for i := range 16 {
		names = append(names, fmt.Sprintf("n%d", i))
		g.addNode(names[i], "ecs.g6.2xlarge")
	}
	done := make(chan error)
	for _, n := range names {
		go func() {
			_, err := g.r.Reconcile(context.Background(), request(n))
			done <- err
		}()
	}
	for range names {
		g.Must(<-done)
	}
	if n := g.Calls("DescribeNetworkInterfaces"); n > 4 {
		t.Errorf("%d lists for 16 nodes", n)
	}
}

// When an answer is lost, also after the client's retry, the call is repeated with its token, and
// pods need not wait until the addresses are found on the ENI.
func TestLostAnswer(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/24"})
	g.addNode("n1", "ecs.g6.2xlarge")
	g.settle("n1", minute)
	g.Fault(faults.Rule{Action: "AssignPrivateIpAddresses", LostAnswer: true, Count: 2})
	g.startPods("n1", 5)
	start := g.Clock.Now()
	for g.nn("n1").Status.Demand > 0 && g.Clock.Now().Sub(start) < minute {
		wait, _ := g.once("n1")
		if !g.agent("n1") {
			g.Clock.Pass(wait)
		}
	}
	if d := g.Clock.Now().Sub(start); d >= g.r.Settle {
		t.Errorf("pods waited %s", d)
	}
	g.settle("n1", minute)
	g.agree("n1")
	if n := g.free("n1"); n > 4 {
		t.Errorf("%d free: the call was made twice", n)
	}
}
