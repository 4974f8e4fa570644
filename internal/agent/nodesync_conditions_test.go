package agent

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"terway.dev/terway/api/v1alpha1"
)

// A change of the controller's conditions reaches waiting pods. It causes no write to the journal and
// no repair, and does not revert what the agent has confirmed. A controller of the previous version
// has the conditions in the spec.
func TestControllersMessageIsNoNewWord(t *testing.T) {
	e := newEnv(t, 0)
	node, nn := unversioned(nodeObjects(1, "192.168.32.1"))
	api, c := fakeCluster(t, interceptor.Funcs{}, node, nn)
	s := NewNodeSync(e.a, c, "node-1")
	take := func(change func(*v1alpha1.NodeNetwork)) {
		t.Helper()
		now := &v1alpha1.NodeNetwork{}
		if err := api.Get(t.Context(), client.ObjectKeyFromObject(nn), now); err != nil {
			t.Fatal(err)
		}
		change(now)
		status := now.Status
		if err := api.Update(t.Context(), now); err != nil {
			t.Fatal(err)
		}
		now.Status = status
		if err := api.Status().Update(t.Context(), now); err != nil {
			t.Fatal(err)
		}
		if err := s.receive(t.Context(), false); err != nil {
			t.Fatal(err)
		}
	}
	full := func(message string) []metav1.Condition {
		return []metav1.Condition{{Type: v1alpha1.ConditionAddressesAvailable, Status: metav1.ConditionFalse, Reason: "VSwitchFull", Message: message}}
	}
	take(func(*v1alpha1.NodeNetwork) {})
	e.repair()
	select {
	case <-e.a.Repairs():
	default:
	}
	if err := e.a.Journal.Close(); err != nil { // a write from here on fails
		t.Fatal(err)
	}
	for _, message := range []string{"vsw-1", "vsw-2"} {
		take(func(nn *v1alpha1.NodeNetwork) { nn.Status.ControllerConditions = full(message) })
		if e.a.whyNoMore != "VSwitchFull: "+message {
			t.Errorf("the agent says %q for %s", e.a.whyNoMore, message)
		}
	}
	if len(e.a.Repairs()) > 0 {
		t.Error("a message causes a repair")
	}
	take(func(nn *v1alpha1.NodeNetwork) { nn.Status.ControllerConditions = nil })
	if e.a.whyNoMore != "" {
		t.Errorf("the agent still says %q", e.a.whyNoMore)
	}
	take(func(nn *v1alpha1.NodeNetwork) { nn.Spec.Conditions = full("vsw-3") })
	if e.a.whyNoMore != "VSwitchFull: vsw-3" {
		t.Errorf("with a controller of the previous version the agent says %q", e.a.whyNoMore)
	}
}

// The controller's conditions in the status outlive the agent's report.
func TestReportLeavesTheControllersConditions(t *testing.T) {
	e := newEnv(t, 1)
	node, nn := unversioned(nodeObjects(1, "192.168.32.1"))
	nn.Status.ControllerConditions = []metav1.Condition{{Type: v1alpha1.ConditionNodeGone, Status: metav1.ConditionTrue, Reason: "NodeGone"}}
	api, c := fakeCluster(t, interceptor.Funcs{}, node, nn)
	s := NewNodeSync(e.a, c, "node-1")
	e.mustAdd("a")
	e.repair()
	if err := s.write(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := &v1alpha1.NodeNetwork{}
	if err := api.Get(t.Context(), client.ObjectKeyFromObject(nn), got); err != nil {
		t.Fatal(err)
	}
	if len(got.Status.ControllerConditions) != 1 || got.Status.UsedCount != 1 || len(got.Status.Conditions) != 2 {
		t.Errorf("status %+v", got.Status)
	}
}
