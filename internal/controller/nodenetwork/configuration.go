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

// configChanged makes all nodes be reconciled with the new configuration.
func (r *Reconciler) configChanged() {
	r.vswitches.review()
	r.knowledge.forgetRanges()
	select {
	case r.changed <- event.GenericEvent{Object: &v1alpha1.NodeNetwork{ObjectMeta: metav1.ObjectMeta{Name: "all"}}}:
	default: // the pending event serves this change too
	}
}

// everyNode requests all nodes that have a NodeNetwork: one without is requested by its Node
// anyway.
func (r *Reconciler) everyNode(ctx context.Context, _ client.Object) []reconcile.Request {
	var all v1alpha1.NodeNetworkList
	if err := r.Client.List(ctx, &all, client.UnsafeDisableDeepCopy); err != nil {
		r.Log.Error("list NodeNetworks to apply the new configuration", "error", err)
		time.AfterFunc(r.Retry, r.configChanged) // an idle node has no other reason to reconcile
		return nil
	}
	out := make([]reconcile.Request, 0, len(all.Items))
	for _, nn := range all.Items {
		out = append(out, reconcile.Request{NamespacedName: types.NamespacedName{Name: nn.Name}})
	}
	return out
}

// forgetRefusals forgets what the cloud refused under another configuration, so that the new one is
// tried at once: a right vSwitch in place of one that does not exist.
func (w *work) forgetRefusals() {
	if w.mem.config != w.cfg {
		clear(w.mem.refused)
		w.mem.config = w.cfg
	}
}
