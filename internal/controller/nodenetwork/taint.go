package nodenetwork

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/datapath/claims"
)

// serves reports whether a node can have new pods, by its status and the controller's conditions.
// The status of a dead agent stays as it last was, and does not count.
func serves(st *v1alpha1.NodeNetworkStatus, said []metav1.Condition) bool {
	return meta.IsStatusConditionTrue(st.Conditions, v1alpha1.ConditionReady) && !silent(said)
}

// mark writes onto the Node what the scheduler needs: the taint until the network is ready, and how
// many pods the node can hold.
func (w *work) mark(ctx context.Context) error {
	ready := serves(&w.nn.Status, w.mem.conditions.now)
	n := w.node.DeepCopy()
	is := func(t corev1.Taint) bool { return t.Key == claims.TaintNotReady }
	tainted := slices.ContainsFunc(n.Spec.Taints, is)
	switch {
	case ready && tainted:
		n.Spec.Taints = slices.DeleteFunc(n.Spec.Taints, is)
	case !ready && !tainted:
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: claims.TaintNotReady, Effect: corev1.TaintEffectNoSchedule})
	}
	if pods := strconv.Itoa(w.nn.Spec.Limits.MaxPods); w.nn.Spec.Limits.MaxPods > 0 && n.Annotations[claims.AnnotationMaxPods] != pods {
		if n.Annotations == nil {
			n.Annotations = map[string]string{}
		}
		n.Annotations[claims.AnnotationMaxPods] = pods
	}
	if tainted != ready && n.Annotations[claims.AnnotationMaxPods] == w.node.Annotations[claims.AnnotationMaxPods] {
		return nil
	}
	// Others write to the list of taints too: the lock keeps theirs.
	err := w.Client.Patch(ctx, n, client.MergeFromWithOptions(w.node, client.MergeFromWithOptimisticLock{}))
	if err != nil && client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("mark node %s: %w", n.Name, err)
	}
	return nil
}
