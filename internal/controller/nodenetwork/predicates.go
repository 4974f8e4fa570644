package nodenetwork

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"terway.dev/terway/api/v1alpha1"
)

// changes passes updates that change what the reconciler reads: with 5,000 nodes the kubelets'
// heartbeats alone would cause 17 reconciles a second.
func changes[T client.Object](news func(was, is T) bool) predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		was, ok := e.ObjectOld.(T)
		is, both := e.ObjectNew.(T)
		return !ok || !both || was.GetUID() != is.GetUID() || was.GetDeletionTimestamp().IsZero() != is.GetDeletionTimestamp().IsZero() || news(was, is)
	}}
}

// nodeNews: labels, annotations and spec determine how the node is served, its addresses which
// instance it owns. Conditions, images and capacity do not matter here.
func nodeNews(was, is *corev1.Node) bool {
	return !equality.Semantic.DeepEqual(was.Labels, is.Labels) || !equality.Semantic.DeepEqual(was.Annotations, is.Annotations) ||
		!equality.Semantic.DeepEqual(was.Spec, is.Spec) || !equality.Semantic.DeepEqual(was.Status.Addresses, is.Status.Addresses)
}

// networkNews ignores the controller's own part of the status, and what is only for logs.
func networkNews(was, is *v1alpha1.NodeNetwork) bool {
	before, now := was.Status, is.Status
	before.ControllerConditions, now.ControllerConditions = nil, nil
	before.WaitingSandboxes, now.WaitingSandboxes = nil, nil
	return was.Generation != is.Generation || !equality.Semantic.DeepEqual(was.Finalizers, is.Finalizers) ||
		!equality.Semantic.DeepEqual(before, now)
}
