package nodenetwork

import (
	"context"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/api/v1alpha1"
)

// A datapath that the kernel lacks causes an event of the Node, once for each change.
func TestDatapathEvents(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/19"})
	g.addNode("n1", "ecs.g6.2xlarge")
	g.settle("n1", minute)
	says := func(status metav1.ConditionStatus, reason, message string) {
		t.Helper()
		nn := g.nn("n1")
		meta.SetStatusCondition(&nn.Status.Conditions, metav1.Condition{Type: v1alpha1.ConditionDatapathReady, Status: status, Reason: reason, Message: message})
		g.Must(g.kube.Status().Update(context.Background(), nn))
		g.settle("n1", minute)
		g.settle("n1", minute)
	}
	node := func(parts ...string) int { return g.events.Count(append(parts, "*v1.Node ")...) }
	all := func() int { return node(" Datapath") }

	says("False", "NotChosen", "no datapath runs yet")
	says("True", v1alpha1.ReasonDatapathAuto, "the fastest of all")
	if n := all(); n != 0 {
		t.Errorf("%d events of a node with all datapaths: %v", n, g.events.All())
	}
	says("True", v1alpha1.ReasonDatapathAutoLacking, "auto takes ebpf; not netkit: Linux 6.8")
	says("False", "NotProgrammed", "for a moment")
	says("True", v1alpha1.ReasonDatapathAutoLacking, "auto takes ebpf; not netkit: Linux 6.8")
	if n := node("Normal DatapathAutoLacking auto takes ebpf; not netkit: Linux 6.8 (n1)"); n != 1 || all() != 1 {
		t.Errorf("%d events under auto, want 1: %v", n, g.events.All())
	}
	says("True", v1alpha1.ReasonDatapathKept, "netkit does not work; ebpf is kept")
	says("False", v1alpha1.ReasonDatapathRefused, "netkit does not work")
	says("True", "Configured", "chosen by spec.datapath")
	says("False", v1alpha1.ReasonDatapathRefused, "netkit does not work")
	for what, want := range map[string]int{"Warning DatapathKeptWhileRunning netkit does not work; ebpf is kept (n1)": 1, "Warning DatapathRefused netkit does not work (n1)": 2} {
		if n := node(what); n != want {
			t.Errorf("%d times %q, want %d: %v", n, what, want, g.events.All())
		}
	}
	if n := g.events.Count("NodeNetwork", " Datapath"); n != all() {
		t.Errorf("%d events of the NodeNetwork, %d of the Node", n, all())
	}
}
