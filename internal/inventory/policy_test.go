package inventory

import (
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/api/v1alpha1"
)

// Where policy is on it is said how many nodes have it, and of the others why not.
func TestPolicyOfNodes(t *testing.T) {
	o := &Objects{Deployment: &appsv1.Deployment{}, Lease: &coordinationv1.Lease{}}
	add := func(name string, conditions ...metav1.Condition) {
		o.Nodes = append(o.Nodes, corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}})
		o.Networks = append(o.Networks, v1alpha1.NodeNetwork{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Status: v1alpha1.NodeNetworkStatus{Conditions: conditions},
		})
	}
	add("off")
	if p := o.Status().Policy(); p != "" {
		t.Errorf("policy is off, and %q", p)
	}
	add("well", metav1.Condition{Type: v1alpha1.ConditionPolicyReady, Status: metav1.ConditionTrue, Reason: "Following"})
	add("away", metav1.Condition{Type: v1alpha1.ConditionPolicyReady, Status: metav1.ConditionFalse, Reason: "HubAway", Message: "no replica answers"})
	st := o.Status()
	if p := st.Policy(); p != "1 of 2 nodes have what policies say" {
		t.Error(p)
	}
	for _, n := range st.Nodes {
		if says := slices.ContainsFunc(n.Problems, func(p string) bool { return strings.Contains(p, "HubAway: no replica answers") }); says != (n.Node == "away") {
			t.Errorf("%s: %q", n.Node, n.Problems)
		}
	}
}
