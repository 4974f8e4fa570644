package inventory

import (
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/api/v1alpha1"
)

func TestController(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	deployment := func(want, ready int32) *appsv1.Deployment {
		return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: ControllerName, Namespace: "ns"},
			Spec: appsv1.DeploymentSpec{Replicas: &want}, Status: appsv1.DeploymentStatus{ReadyReplicas: ready}}
	}
	lease := func(holder string, age time.Duration) *coordinationv1.Lease {
		renewed, seconds := metav1.NewMicroTime(at.Add(-age)), int32(15)
		return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: ControllerName, Namespace: "ns"},
			Spec: coordinationv1.LeaseSpec{HolderIdentity: &holder, LeaseDurationSeconds: &seconds, RenewTime: &renewed}}
	}
	for name, c := range map[string]struct {
		deployment *appsv1.Deployment
		lease      *coordinationv1.Lease
		// line is the line for people, problem a part of the only problem.
		line, problem string
	}{
		"well":               {deployment(2, 2), lease("a", 2*time.Second), "2 of 2 replicas ready, a leads", ""},
		"taking over":        {deployment(2, 1), lease("", 2*time.Second), "1 of 2 replicas ready, none leads", ""},
		"scaled to 0":        {deployment(0, 0), lease("", time.Second), "0 of 0 replicas ready, none leads", "Deployment ns/terway-controller is scaled to 0"},
		"killed":             {deployment(2, 0), lease("a", time.Second), "0 of 2 replicas ready, none leads", "none of the 2 replicas"},
		"hangs":              {deployment(2, 2), lease("a", 2*time.Minute), "2 of 2 replicas ready, none leads", "Lease ns/terway-controller has not been renewed for 2m0s"},
		"another Deployment": {&appsv1.Deployment{}, lease("a", time.Second), "a leads", ""},
		"and that is gone":   {&appsv1.Deployment{}, lease("a", time.Hour), "none leads", "for 1h0m0s"},
		"never there":        {&appsv1.Deployment{}, &coordinationv1.Lease{}, "none leads", "neither a Deployment nor a Lease"},
	} {
		o := &Objects{Now: at, Namespace: "ns", Deployment: c.deployment, Lease: c.lease}
		st := o.Status()
		got := st.Controller
		if got.String() != c.line {
			t.Errorf("%s: %q, want %q", name, got, c.line)
		}
		switch {
		case c.problem == "" && (len(got.Problems) > 0 || st.Verdict() != nil):
			t.Errorf("%s: problems %q, verdict %v, want none", name, got.Problems, st.Verdict())
		case c.problem != "" && (len(got.Problems) != 1 || !strings.Contains(got.Problems[0], c.problem) || st.Verdict() == nil):
			t.Errorf("%s: problems %q, verdict %v, want one with %q", name, got.Problems, st.Verdict(), c.problem)
		}
	}
}

// A pod that waits is no problem while it will be served, or while a reason is reported.
func TestWaitingPods(t *testing.T) {
	const mine = "192.168.32.1"
	ready := v1alpha1.ENI{Phase: v1alpha1.ENIReady, Addresses: []v1alpha1.Address{{Address: mine}}}
	for name, c := range map[string]struct {
		change func(*v1alpha1.NodeNetwork)
		want   bool
	}{
		"nothing": {func(*v1alpha1.NodeNetwork) {}, true},
		"an ENI is coming": {func(n *v1alpha1.NodeNetwork) {
			n.Spec.ENIs = append(n.Spec.ENIs, v1alpha1.ENI{Phase: v1alpha1.ENIAttaching})
		}, false},
		"a new address": {func(n *v1alpha1.NodeNetwork) {
			n.Spec.ENIs[0].Addresses = append(n.Spec.ENIs[0].Addresses, v1alpha1.Address{Address: "192.168.32.2"})
		}, false},
		"one that goes": {func(n *v1alpha1.NodeNetwork) {
			n.Spec.ENIs[0].Addresses = append(n.Spec.ENIs[0].Addresses, v1alpha1.Address{Address: "192.168.32.2", Releasing: true})
		}, true},
		"one that cools": {func(n *v1alpha1.NodeNetwork) {
			n.Spec.ENIs[0].Addresses = append(n.Spec.ENIs[0].Addresses, v1alpha1.Address{Address: "192.168.32.2"})
			n.Status.Cooling = []string{"192.168.32.2"}
		}, true},
		"nobody waits": {func(n *v1alpha1.NodeNetwork) { n.Status.ENIDemand = 0 }, false},
		"the reason is told": {func(n *v1alpha1.NodeNetwork) {
			n.Status.ControllerConditions = []metav1.Condition{{Type: v1alpha1.ConditionAddressesAvailable, Status: metav1.ConditionFalse, Reason: "VSwitchFull"}}
		}, false},
	} {
		nn := &v1alpha1.NodeNetwork{Spec: v1alpha1.NodeNetworkSpec{ENIs: []v1alpha1.ENI{*ready.DeepCopy()}},
			Status: v1alpha1.NodeNetworkStatus{ENIDemand: 2, Used: []v1alpha1.UsedAddress{{Address: mine}}}}
		c.change(nn)
		n := node("n", nn, nil)
		if got := strings.Contains(strings.Join(n.Problems, "\n"), "2 pods wait for an address or an ENI"); got != c.want {
			t.Errorf("%s: problems %q, want one about pods that wait: %t", name, n.Problems, c.want)
		}
	}
}

// A problem about many pods stays short.
func TestManyLostPods(t *testing.T) {
	nn := &v1alpha1.NodeNetwork{}
	for i := range 8 {
		nn.Status.Used = append(nn.Status.Used, v1alpha1.UsedAddress{Address: fmt.Sprintf("192.168.32.%d", i), Pod: fmt.Sprintf("a/p%d", i)})
	}
	n := node("n", nn, nil)
	if len(n.Lost) != 8 || !strings.HasSuffix(n.Problems[len(n.Problems)-1], "a/p4 (192.168.32.4) and 3 more") {
		t.Errorf("lost %v, problems %q", n.Lost, n.Problems)
	}
}
