package nodenetwork

import (
	"context"
	"errors"
	"fmt"

	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/cloud"
)

// remove gives everything back of a node that is gone, ignored or another
// instance. The finalizer goes last, when the cloud has none of its ENIs.
func (w *work) remove(ctx context.Context) (ctrl.Result, error) {
	if w.nn == nil {
		w.memories.forget(w.name)
		return ctrl.Result{}, nil
	}
	if w.nn.DeletionTimestamp.IsZero() {
		return ctrl.Result{}, client.IgnoreNotFound(w.Client.Delete(ctx, w.nn))
	}
	v, err := w.list.cluster(ctx, w.mem.changed)
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("list the cluster's ENIs: %w", err)
	}
	left := map[string]cloud.ENI{}
	for id, c := range v.enis {
		if c.Tags[TagNode] == w.name {
			left[id] = c
		}
	}
	if err := w.untagged(ctx, left); err != nil {
		return ctrl.Result{}, err
	}
	var errs []error
	for _, c := range left {
		errs = append(errs, w.giveBack(ctx, &c))
	}
	if err := errors.Join(errs...); err != nil {
		w.once("GiveBack", cloud.Explain(err).String(), func(m string) { w.warn(w.nn, "ENIsNotReleased", m) })
		w.Log.Warn("give back the ENIs of a node that is gone", "node", w.name, "error", err)
		return ctrl.Result{RequeueAfter: w.Retry}, nil
	}
	if len(left) > 0 {
		return ctrl.Result{RequeueAfter: w.Poll}, nil
	}
	if controllerutil.RemoveFinalizer(w.nn, v1alpha1.FinalizerENIs) {
		if err := w.Client.Update(ctx, w.nn); err != nil {
			if apierrors.IsConflict(err) {
				return ctrl.Result{RequeueAfter: w.Poll}, nil
			}
			return ctrl.Result{}, client.IgnoreNotFound(err)
		}
	}
	w.Log.Info("all ENIs of the node are given back", "node", w.name)
	w.memories.forget(w.name)
	return ctrl.Result{}, nil
}
