package nodenetwork

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/answers"
	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/vpcsim/faults"
)

// limitsCondition is LimitsFromCloud.
func (g *rig) limitsCondition(name string) metav1.Condition {
	if c := meta.FindStatusCondition(g.nn(name).Status.ControllerConditions, v1alpha1.ConditionLimitsFromCloud); c != nil {
		return *c
	}
	return metav1.Condition{}
}

// When the cloud does not return what a type allows, the node uses the catalogue's figures, the
// condition says why, and the cloud's figures are used as soon as it answers.
func TestLimitsFallBackToTheCatalogue(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/19"})
	g.Fault(faults.Rule{Name: "silent", Action: "DescribeInstanceTypes", Error: &faults.Error{Code: "Forbidden.RAM", Status: 403}})
	g.addNode("n1", "ecs.g6.2xlarge")
	g.settle("n1", minute)
	nn := g.nn("n1")
	if l := nn.Spec.Limits; l.Source != sourceCatalogue || l.MaxPods != 30 {
		t.Errorf("limits %+v, want the catalogue's 30 pods", l)
	}
	c := g.limitsCondition("n1")
	if c.Status != metav1.ConditionFalse || !strings.Contains(c.Message, "limits of ecs.g6.2xlarge are the catalogue's because") || !strings.Contains(c.Message, "Forbidden.RAM") {
		t.Errorf("condition %+v", c)
	}
	for _, want := range []string{"*v1.Node Warning LimitsFromCatalogue limits of ecs.g6.2xlarge", "*v1alpha1.NodeNetwork Warning LimitsFromCatalogue"} {
		if !g.events.Has(want) {
			t.Errorf("no event %q in %v", want, g.events.All())
		}
	}
	if g.free("n1") != 2 || g.condition("n1").Status != metav1.ConditionTrue {
		t.Errorf("%d addresses are free, condition %+v: the node must work without it", g.free("n1"), g.condition("n1"))
	}

	// Within ten minutes there is no new query and no new event.
	g.once("n1") // settling has let time pass
	events, asked := len(g.events.All()), g.Calls("DescribeInstanceTypes")
	g.Clock.Pass(time.Minute)
	if wait, _ := g.once("n1"); wait == 0 || wait > catalogueLife {
		t.Errorf("the next reconcile is after %s, want at most %s", wait, catalogueLife)
	}
	if len(g.events.All()) != events || g.Calls("DescribeInstanceTypes") != asked {
		t.Errorf("%d more events, %d more calls within a minute", len(g.events.All())-events, g.Calls("DescribeInstanceTypes")-asked)
	}

	g.Sim.RemoveFault("silent")
	g.Clock.Pass(catalogueLife)
	g.once("n1")
	if l, c := g.nn("n1").Spec.Limits, g.limitsCondition("n1"); l.Source != sourceCloud || c.Status != metav1.ConditionTrue || c.Reason != sourceCloud {
		t.Errorf("the cloud answers again: limits %+v, condition %+v", l, c)
	}
}

// An earlier answer of the cloud takes precedence over the catalogue.
func TestOldAnswerBeforeTheCatalogue(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/19"})
	g.addNode("n1", "ecs.g6.2xlarge")
	g.settle("n1", minute)
	g.Fault(faults.Rule{Name: "silent", Action: "DescribeInstanceTypes", Error: &faults.Error{Code: "ServiceUnavailable", Status: 503}})
	g.Clock.Pass(typeLife + instanceLife)
	g.once("n1")
	if l, c := g.nn("n1").Spec.Limits, g.limitsCondition("n1"); l.Source != sourceCloud || c.Status != metav1.ConditionTrue {
		t.Errorf("limits %+v, condition %+v", l, c)
	}
}

// While the cloud does not answer, its earlier answers are used, and not every reconcile queries
// it.
func TestOldFactsServe(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/24"})
	g.addNode("n1", "ecs.g6.2xlarge")
	g.settle("n1", minute)
	asked := []string{"DescribeInstances", "DescribeVpcAttribute", "DescribeVSwitches"}
	for _, action := range asked {
		g.Fault(faults.Rule{Name: "away", Action: action, Error: &faults.Error{Code: "ServiceUnavailable", Status: 503}})
	}
	g.Clock.Pass(time.Hour)
	before := map[string]int{}
	for _, action := range asked {
		before[action] = g.Calls(action)
	}
	g.startPods("n1", 6)
	for range 10 {
		g.once("n1")
		g.agent("n1")
	}
	for _, address := range g.pods["n1"] {
		if address == "" {
			t.Fatal("a pod waits, though the cloud assigns addresses")
		}
	}
	for _, action := range asked {
		if n := g.Calls(action) - before[action]; n > 2 { // an ask is two attempts here
			t.Errorf("%s: %d calls", action, n)
		}
	}
	if c := g.condition("n1"); c.Status != metav1.ConditionTrue {
		t.Errorf("condition %+v", c)
	}
}

// A controller that does not know the vSwitches' free addresses still assigns addresses to existing
// ENIs.
func TestUnknownFiguresStopNoAssignment(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/24"})
	g.addNode("n1", "ecs.g6.2xlarge")
	g.settle("n1", minute)
	g.Fault(faults.Rule{Name: "away", Action: "DescribeVSwitches", Error: &faults.Error{Code: "ServiceUnavailable", Status: 503}})
	g.restart()
	g.startPods("n1", 12) // the last two need another ENI
	g.settle("n1", minute)
	waiting := 0
	for _, address := range g.pods["n1"] {
		if address == "" {
			waiting++
		}
	}
	if waiting != 2 {
		t.Errorf("%d pods wait, want the 2 for which an ENI must be made", waiting)
	}
	if c := g.condition("n1"); c.Status != metav1.ConditionFalse || !strings.Contains(c.Message, "ServiceUnavailable") {
		t.Errorf("condition %+v", c)
	}
	g.Sim.RemoveFault("away")
	g.settle("n1", 5*minute)
	if g.free("n1") < 2 || g.condition("n1").Status != metav1.ConditionTrue {
		t.Errorf("%d free, condition %+v", g.free("n1"), g.condition("n1"))
	}
}

// However many vSwitches are configured and nodes need them, they are one list.
func TestVSwitchesAreOneList(t *testing.T) {
	var cidrs []string
	for i := range 13 {
		cidrs = append(cidrs, fmt.Sprintf("192.168.%d.0/24", 32+i))
	}
	g := newRig(t, cidrs)
	for i := range 5 {
		g.addNode(fmt.Sprintf("n%d", i), "ecs.g6.2xlarge")
	}
	for i := range 5 {
		g.once(fmt.Sprintf("n%d", i))
	}
	if n := g.Calls("DescribeVSwitches"); n != 1 {
		t.Errorf("%d calls for 13 vSwitches", n)
	}
}

// silence makes the cloud not answer queries about instances, types and VPCs.
func (g *rig) silence() {
	g.Helper()
	for _, action := range []string{"DescribeInstances", "DescribeInstanceTypes", "DescribeVpcAttribute"} {
		g.Fault(faults.Rule{Name: "away " + action, Action: action, Error: &faults.Error{Code: "ServiceUnavailable", Status: 503}})
	}
}

// waiting counts pods without an address.
func (g *rig) waiting(name string) (n int) {
	for _, address := range g.pods[name] {
		if address == "" {
			n++
		}
	}
	return n
}

// A new leader to which the cloud does not describe a node uses what its predecessor wrote into the
// spec: existing ENIs get addresses. No ENI is created, and nothing is taken away.
func TestSpecServesANewLeader(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/24"})
	g.addNode("n1", "ecs.g6.2xlarge")
	g.settle("n1", minute)
	g.silence()
	g.restart()
	before := g.nn("n1").Spec
	g.startPods("n1", 8)
	g.settle("n1", 2*minute)
	if n, c := g.waiting("n1"), g.condition("n1"); n != 0 || c.Status != metav1.ConditionTrue {
		t.Errorf("%d pods wait; condition %+v", n, c)
	}
	after := g.nn("n1").Spec
	if after.Limits != before.Limits || after.InstanceType != before.InstanceType || after.Zone != before.Zone || fmt.Sprint(after.VPCCIDRs) != fmt.Sprint(before.VPCCIDRs) {
		t.Errorf("facts %+v, before %+v", after, before)
	}
	if c := g.limitsCondition("n1"); c.Status != metav1.ConditionTrue {
		t.Errorf("the limits are the cloud's, though it was not queried now: %+v", c)
	}

	made, asked := g.Calls("CreateNetworkInterface"), g.Calls("DescribeInstances")
	g.startPods("n1", 4) // the last two need another ENI
	g.settle("n1", 2*minute)
	if n, c := g.waiting("n1"), g.condition("n1"); n != 2 || c.Status != metav1.ConditionFalse || c.Reason != "CloudTrouble" {
		t.Errorf("%d pods wait, want 2; condition %+v", n, c)
	}
	if n := g.Calls("CreateNetworkInterface") - made; n != 0 {
		t.Errorf("%d ENIs were made of what is not known", n)
	}
	if n := g.Calls("DescribeInstances") - asked; n > 2*14 { // an ask is two attempts here
		t.Errorf("%d calls in two minutes", n)
	}
	g.stopPods("n1", 9)
	g.settle("n1", 2*minute)
	if n := g.Calls("UnassignPrivateIpAddresses"); n != 0 || g.free("n1") != 7 {
		t.Errorf("%d calls that take addresses, %d free: want none, and 10 less 3 pods", n, g.free("n1"))
	}

	for _, action := range []string{"DescribeInstances", "DescribeInstanceTypes", "DescribeVpcAttribute"} {
		g.Sim.RemoveFault("away " + action)
	}
	g.startPods("n1", 9)
	g.settle("n1", 10*minute)
	if n, c := g.waiting("n1"), g.condition("n1"); n != 0 || c.Status != metav1.ConditionTrue {
		t.Errorf("%d pods wait when the cloud answers again; condition %+v", n, c)
	}
	g.agree("n1")
}

// The spec is not enough where another Node names the instance too, nor where the cloud says that
// the instance does not exist.
func TestSpecDoesNotServe(t *testing.T) {
	for name, f := range map[string]func(*rig){
		"another Node": func(g *rig) {
			g.silence()
			other := g.node("n1")
			other.ObjectMeta = metav1.ObjectMeta{Name: "n2"}
			other.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.168.0.200"}}
			g.Must(g.kube.Create(t.Context(), other))
		},
		"no such instance": func(g *rig) {
			g.Fault(faults.Rule{Name: "none", Action: "DescribeInstances", Error: &faults.Error{Code: "InvalidInstanceId.NotFound", Status: 404}})
		},
	} {
		g := newRig(t, []string{"192.168.32.0/24"})
		g.addNode("n1", "ecs.g6.2xlarge")
		g.settle("n1", minute)
		f(g)
		g.restart()
		g.startPods("n1", 8)
		g.settle("n1", 2*minute)
		if c := g.condition("n1"); g.waiting("n1") == 0 || c.Status != metav1.ConditionFalse {
			t.Errorf("%s: %d pods wait; condition %+v", name, g.waiting("n1"), c)
		}
	}
}

// The intent of an ENI that may have been created waits until all parameters are known: the token
// is for one request only.
func TestIntentWaitsForFacts(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/24"})
	g.addNode("n1", "ecs.g6.2xlarge")
	g.settle("n1", minute)
	g.Fault(faults.Rule{Name: "lost", Action: "CreateNetworkInterface", Error: &faults.Error{Code: "ServiceUnavailable", Status: 503}})
	g.startPods("n1", 12)
	g.settle("n1", minute)
	before := g.nn("n1").Spec.ENIs
	if before[len(before)-1].Phase != v1alpha1.ENICreating {
		t.Fatalf("ENIs %+v", before)
	}
	g.silence()
	g.Sim.RemoveFault("lost")
	g.restart()
	made := g.Calls("CreateNetworkInterface")
	g.settle("n1", minute)
	if n := g.Calls("CreateNetworkInterface") - made; n != 0 || g.waiting("n1") != 2 {
		t.Errorf("%d calls; %d pods wait, want the 2 for which there is no ENI", n, g.waiting("n1"))
	}
	if after := g.nn("n1").Spec.ENIs; len(after) != len(before) || after[len(after)-1].Token != before[len(before)-1].Token {
		t.Errorf("ENIs %+v, before %+v", after, before)
	}
}

// hanging is a cloud whose queries about instances, types and VPCs take as long as they may, and
// then fail.
type hanging struct {
	cloud.API
	began, ended atomic.Int64
}

func (h *hanging) hang(ctx context.Context) error {
	h.began.Add(1)
	defer h.ended.Add(1)
	<-ctx.Done()
	return &cloud.Error{Action: "Describe", Class: cloud.Transient, Message: ctx.Err().Error()}
}

func (h *hanging) DescribeInstances(ctx context.Context, _ []string) ([]cloud.Instance, error) {
	return nil, h.hang(ctx)
}

func (h *hanging) DescribeInstanceType(ctx context.Context, _ string) (*cloud.InstanceType, error) {
	return nil, h.hang(ctx)
}

func (h *hanging) DescribeVPC(ctx context.Context, _ string) (*cloud.VPC, error) {
	return nil, h.hang(ctx)
}

// A new leader without any answer of the cloud serves each node by its spec long before a query
// times out: no node blocks a worker for a minute.
func TestSilenceHoldsNoWorker(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/24"})
	g.addNode("n1", "ecs.g6.2xlarge")
	g.settle("n1", minute)
	h := &hanging{API: g.API}
	g.restart()
	o := g.r.Options
	o.Go, o.Cloud = nil, h // as outside of tests: beside the reconcile
	g.r.knowledge = newKnowledge(&o)
	g.startPods("n1", 5)
	g.once("n1")
	if began, ended := h.began.Load(), h.ended.Load(); began == 0 || ended != 0 {
		t.Errorf("%d asks began, %d ended; want the node served while they are under way", began, ended)
	}
	if g.agent("n1"); g.waiting("n1") != 0 {
		t.Errorf("%d pods wait though the node's ENI has room", g.waiting("n1"))
	}
}

func TestAskIsBrief(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failed := &cloud.Error{Class: cloud.Transient}
		asks := 0
		c := answers.New(answers.Options[string, int]{
			Ask: func(ctx context.Context, keys []string) (map[string]int, error) {
				if asks++; asks == 1 {
					<-ctx.Done()
					return nil, failed
				}
				return map[string]int{keys[0]: 7}, nil
			},
			Life: time.Hour, Retry: askRetry, Timeout: askTimeout, Now: time.Now,
		})
		began := time.Now()
		get := func(at time.Duration) (int, error) {
			time.Sleep(at - time.Since(began))
			defer func() {
				if waited := time.Since(began) - at; waited > askBriefly {
					t.Errorf("who asks at %s waits %s", at, waited)
				}
			}()
			return ask(t.Context(), c, "Describe", "a", true)
		}
		for _, at := range []time.Duration{0, 5 * time.Second, 61 * time.Second} {
			if _, err := get(at); !unanswered(err) {
				t.Errorf("at %s: %v, want that there is no answer", at, err)
			}
		}
		get(75 * time.Second) // the next ask begins
		if v, err := get(76 * time.Second); v != 7 || err != nil {
			t.Errorf("%d, %v, want the answer", v, err)
		}
	})
}
