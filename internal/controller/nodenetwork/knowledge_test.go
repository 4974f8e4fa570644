package nodenetwork

import (
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/vpcsim/faults"
)

// limitsCondition is LimitsFromCloud.
func (g *rig) limitsCondition(name string) metav1.Condition {
	if c := meta.FindStatusCondition(g.nn(name).Spec.Conditions, v1alpha1.ConditionLimitsFromCloud); c != nil {
		return *c
	}
	return metav1.Condition{}
}

// A cloud that does not say what a type allows: the node works with the catalogue's
// figures, its user is told why, and the cloud's count as soon as it answers.
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
		t.Errorf("%d addresses are free, condition %+v: the node must work meanwhile", g.free("n1"), g.condition("n1"))
	}

	// Within ten minutes it is not asked again, and nobody is told again.
	g.once("n1") // settling has let time pass
	told, asked := len(g.events.All()), g.Calls("DescribeInstanceTypes")
	g.Clock.Pass(time.Minute)
	if wait, _ := g.once("n1"); wait == 0 || wait > catalogueLife {
		t.Errorf("looks again after %s, want at most %s", wait, catalogueLife)
	}
	if len(g.events.All()) != told || g.Calls("DescribeInstanceTypes") != asked {
		t.Errorf("%d more events, %d more calls within a minute", len(g.events.All())-told, g.Calls("DescribeInstanceTypes")-asked)
	}

	g.Sim.RemoveFault("silent")
	g.Clock.Pass(catalogueLife)
	g.once("n1")
	if l, c := g.nn("n1").Spec.Limits, g.limitsCondition("n1"); l.Source != sourceCloud || c.Status != metav1.ConditionTrue || c.Reason != sourceCloud {
		t.Errorf("the cloud answers again: limits %+v, condition %+v", l, c)
	}
}

// What the cloud said once counts more than the catalogue.
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
