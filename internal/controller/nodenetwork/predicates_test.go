package nodenetwork

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/datapath/claims"
)

// A change causes a reconcile if the reconciler reads what has changed.
func TestNews(t *testing.T) {
	now := metav1.Now()
	for name, c := range map[string]struct {
		change func(*corev1.Node)
		news   bool
	}{
		"heartbeat":  {func(n *corev1.Node) { n.Status.Conditions = []corev1.NodeCondition{{LastHeartbeatTime: now}} }, false},
		"images":     {func(n *corev1.Node) { n.Status.Images = []corev1.ContainerImage{{SizeBytes: 1}} }, false},
		"label":      {func(n *corev1.Node) { n.Labels = map[string]string{claims.LabelMode: "shared"} }, true},
		"annotation": {func(n *corev1.Node) { n.Annotations = map[string]string{"a": "b"} }, true},
		"taint":      {func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: "k"}} }, true},
		"address":    {func(n *corev1.Node) { n.Status.Addresses = []corev1.NodeAddress{{Address: "192.168.0.1"}} }, true},
		"deletion":   {func(n *corev1.Node) { n.DeletionTimestamp = &now }, true},
		"recreated":  {func(n *corev1.Node) { n.UID = "other" }, true},
	} {
		was, is := &corev1.Node{}, &corev1.Node{}
		c.change(is)
		if got := update(changes(nodeNews).Update, was, is); got != c.news {
			t.Errorf("Node, %s: %v, want %v", name, got, c.news)
		}
	}
	for name, c := range map[string]struct {
		change func(*v1alpha1.NodeNetwork)
		news   bool
	}{
		"nothing":  {func(n *v1alpha1.NodeNetwork) { n.ManagedFields = []metav1.ManagedFieldsEntry{{Time: &now}} }, false},
		"spec":     {func(n *v1alpha1.NodeNetwork) { n.Generation++ }, true},
		"demand":   {func(n *v1alpha1.NodeNetwork) { n.Status.Demand = 1 }, true},
		"sandbox":  {func(n *v1alpha1.NodeNetwork) { n.Status.WaitingSandboxes = []string{"a"} }, false},
		"seen":     {func(n *v1alpha1.NodeNetwork) { n.Status.ObservedGeneration = 1 }, true},
		"released": {func(n *v1alpha1.NodeNetwork) { n.Status.Released = []string{"192.168.0.1"} }, true},
		"deletion": {func(n *v1alpha1.NodeNetwork) { n.DeletionTimestamp = &now }, true},
	} {
		was, is := &v1alpha1.NodeNetwork{}, &v1alpha1.NodeNetwork{}
		c.change(is)
		if got := update(changes(networkNews).Update, was, is); got != c.news {
			t.Errorf("NodeNetwork, %s: %v, want %v", name, got, c.news)
		}
	}
}

func update(p func(event.UpdateEvent) bool, was, is client.Object) bool {
	return p(event.UpdateEvent{ObjectOld: was, ObjectNew: is})
}
