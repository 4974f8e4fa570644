package nodenetwork

import (
	"context"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/vpcsim/faults"
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

// The Node's events tell which ENIs it got, which it gave back, and what was refused, each once.
func TestENIEvents(t *testing.T) {
	g := newRig(t, []string{"192.168.32.0/19"})
	g.addNode("n1", "ecs.g6.2xlarge")
	g.settle("n1", minute)
	node := func(parts ...string) int { return g.events.Count(append(parts, "*v1.Node ", "(n1)")...) }
	first := g.nn("n1").Spec.ENIs[0].ID
	if n := node("Normal ENIAttached ENI " + first + " is attached, with 2 addresses of vSwitch " + g.vswitch[1]); n != 1 {
		t.Errorf("%d events of the first ENI: %v", n, g.events.All())
	}
	g.startPods("n1", 12)
	g.settle("n1", 5*minute)
	enis := len(g.nn("n1").Spec.ENIs)
	if n := node("ENIAttached"); n != enis || n < 2 {
		t.Errorf("%d events of attached ENIs, want %d: %v", n, enis, g.events.All())
	}
	g.stopPods("n1", 12)
	g.settle("n1", 60*minute)
	if n, left := node("Normal ENIReleased"), len(g.nn("n1").Spec.ENIs); n != enis-left || n == 0 {
		t.Errorf("%d events of ENIs given back, want %d: %v", n, enis-left, g.events.All())
	}

	g.Fault(faults.Rule{Name: "refused", Action: "CreateNetworkInterface", Error: &faults.Error{Code: "EniPerInstanceLimitExceeded", Status: 403}})
	g.startPods("n1", 12)
	g.settle("n1", 10*minute)
	if n := node("Warning ENIRefused the cloud refused an ENI: "); n != 1 {
		t.Errorf("%d events of a refused ENI, want 1: %v", n, g.events.All())
	}
}
