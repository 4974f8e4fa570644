package nodenetwork

import (
	"context"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"terway.dev/terway/api/v1alpha1"
)

// configChanged has all nodes served with the new configuration.
func (r *Reconciler) configChanged() {
	r.vswitches.review()
	r.knowledge.forgetRanges()
	select {
	case r.changed <- event.GenericEvent{Object: &v1alpha1.NodeNetwork{ObjectMeta: metav1.ObjectMeta{Name: "all"}}}:
	default: // the event that waits serves this change too
	}
}

// everyNode asks for all nodes, by their NodeNetworks: one without is asked for by
// its Node anyway.
func (r *Reconciler) everyNode(ctx context.Context, _ client.Object) []reconcile.Request {
	var all v1alpha1.NodeNetworkList
	if err := r.Client.List(ctx, &all, client.UnsafeDisableDeepCopy); err != nil {
		r.Log.Error("list NodeNetworks to configure them anew", "error", err)
		time.AfterFunc(r.Retry, r.configChanged) // a node at rest would not ask by itself
		return nil
	}
	out := make([]reconcile.Request, 0, len(all.Items))
	for _, nn := range all.Items {
		out = append(out, reconcile.Request{NamespacedName: types.NamespacedName{Name: nn.Name}})
	}
	return out
}

// forgive forgets what the cloud refused under another configuration, so that what
// is new is asked for at once: a right vSwitch in place of one that does not exist.
func (w *work) forgive() {
	if w.mem.config != w.cfg {
		clear(w.mem.refused)
		w.mem.config = w.cfg
	}
}
