package nodenetwork

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/controller/nodeinfo"
	"terway.dev/terway/internal/datapath/claims"
)

// reason is why a node's ENIs are to be given back.
type reason string

const (
	nodeGone    reason = "NodeGone"
	nodeIgnored reason = "NodeIgnored"
	// nodeInUse: it is to be ignored, and pods have its addresses.
	nodeInUse     reason = "NodeIgnoredWithPods"
	otherInstance reason = "InstanceChanged"
)

// leaves says why the node's ENIs are to be given back; "" if they are not. That somebody
// deleted the NodeNetwork is no reason: its node needs them.
func (w *work) leaves() reason {
	switch {
	case w.node == nil:
		return nodeGone
	case nodeinfo.Ignored(w.node) && len(w.nn.Status.Used) > 0:
		return nodeInUse
	case nodeinfo.Ignored(w.node):
		return nodeIgnored
	case w.nn.Spec.InstanceID != "":
		if id, err := nodeinfo.InstanceID(w.node.Spec.ProviderID); err == nil && id != w.nn.Spec.InstanceID {
			return otherInstance
		}
	}
	return ""
}

// readNode asks the API server for the Node: a cache that lags, or does not have it yet,
// is no reason to take a node's ENIs.
func (w *work) readNode(ctx context.Context) error {
	node := &corev1.Node{}
	err := w.Live.Get(ctx, client.ObjectKey{Name: w.name}, node)
	switch {
	case apierrors.IsNotFound(err):
		w.node = nil
	case err != nil:
		return fmt.Errorf("read Node %s: %w", w.name, err)
	default:
		w.node = node
	}
	return nil
}

// leave gives a node's ENIs back as soon as that harms no pod. Until then it asks the
// node to give up what no pod has, and tells what it waits for.
func (w *work) leave(ctx context.Context, why reason) (ctrl.Result, error) {
	if w.mem.goes == "" {
		goes := w.harmless(why)
		if goes != "" {
			// The cloud may have taken long to answer.
			if err := w.readNode(ctx); err != nil {
				return ctrl.Result{}, err
			}
			if w.leaves() != why {
				return ctrl.Result{RequeueAfter: w.Poll}, nil
			}
		}
		w.mem.goes = goes
	}
	if w.mem.goes != "" {
		return w.remove(ctx)
	}
	w.tellLeaving(why)
	if err := w.save(ctx); err != nil {
		return ctrl.Result{}, err
	}
	if err := w.saveConditions(ctx); err != nil {
		return ctrl.Result{}, err
	}
	return ctrl.Result{RequeueAfter: max(w.next, w.Poll)}, nil
}

// harmless says why no pod is harmed when the node's ENIs are given back; "" if one may be.
func (w *work) harmless(why reason) string {
	if why == nodeInUse {
		w.again(w.Park) // news of the node or its pods comes by itself
		return ""       // the label is a slip, or its pods end first
	}
	// After a change of the instance the new one's agent writes the status.
	if why != otherInstance && w.releaseAll() {
		return "the node has confirmed that no pod has an address of them"
	}
	if why != nodeIgnored {
		if why := w.instanceAway(); why != "" {
			return why
		}
	}
	c := w.said(v1alpha1.ConditionNodeGone)
	if c == nil {
		return ""
	}
	if wait := c.LastTransitionTime.Add(w.GoneDelay).Sub(w.Now()); wait > 0 {
		w.again(wait)
		return ""
	}
	return fmt.Sprintf("%s have passed", w.GoneDelay)
}

// releaseAll asks the node to give up all its addresses, and reports whether it has.
func (w *work) releaseAll() bool {
	st := &w.nn.Status
	confirmed := len(st.Used) == 0 && st.ObservedGeneration == w.nn.Generation
	for i := range w.nn.Spec.ENIs {
		for j := range w.nn.Spec.ENIs[i].Addresses {
			a := &w.nn.Spec.ENIs[i].Addresses[j]
			confirmed = confirmed && a.Releasing && slices.Contains(st.Released, a.Address)
			a.Releasing = true
		}
	}
	return confirmed || len(w.nn.Spec.ENIs) == 0
}

// tellLeaving says in a condition and an event what is going to happen, and when.
func (w *work) tellLeaving(why reason) {
	if len(w.nn.Spec.ENIs) == 0 {
		return
	}
	id, used := w.nn.Spec.InstanceID, len(w.nn.Status.Used)
	since := w.Now()
	was := w.said(v1alpha1.ConditionNodeGone)
	news := was == nil || was.Reason != string(why)
	if news {
		w.unsay(v1alpha1.ConditionNodeGone) // the delay begins
	} else {
		since = was.LastTransitionTime.Time
	}
	at := since.Add(w.GoneDelay).UTC().Format(time.RFC3339)
	var message string
	switch why {
	case nodeGone:
		message = fmt.Sprintf("Node %s is gone, but instance %s has %d ENIs, and %d pods have addresses of them. They are kept until %s, or until the instance is stopped or deleted, or the node's agent has confirmed; if the Node comes back it keeps them", w.name, id, len(w.nn.Spec.ENIs), used, at)
	case otherInstance:
		message = fmt.Sprintf("Node %s names another instance than %s, which has %d ENIs of this name. They are kept until %s, or until that instance is stopped or deleted; the new one gets none before", w.name, id, len(w.nn.Spec.ENIs), at)
	case nodeInUse:
		message = fmt.Sprintf("Node %s has a label by which Terway is to leave it alone, but %d pods have addresses of its ENIs. They are kept; take the label off, or end these pods, or delete the Node", w.name, used)
	case nodeIgnored:
		message = fmt.Sprintf("Node %s has a label by which Terway is to leave it alone. Its ENIs are given back when its agent has confirmed that no pod has an address of them, or at %s", w.name, at)
	}
	w.condition(metav1.Condition{Type: v1alpha1.ConditionNodeGone, Status: metav1.ConditionTrue, Reason: string(why), Message: message})
	if news {
		w.warnAll(string(why), "%s", message)
	}
}

// stays takes back what was prepared for a node that left and is there again, and says so
// if its NodeNetwork is being deleted.
func (w *work) stays() {
	if w.mem.goes != "" || w.said(v1alpha1.ConditionNodeGone) != nil {
		w.Log.Info("the node is there again and keeps its ENIs", "node", w.name)
		w.mem.goes, w.mem.away = "", away{}
		w.mem.doubt.Store(true) // some may be given back already
		w.unsay(v1alpha1.ConditionNodeGone)
		w.mem.back = true
		if w.mem.listed {
			w.takeBack()
		}
	}
	if !w.nn.DeletionTimestamp.IsZero() {
		w.once("Deleted", string(w.nn.UID), func(string) {
			w.warnAll("NodeNetworkDeleted", "somebody has deleted the NodeNetwork of Node %s, which is there; it is kept and goes on serving, and goes when the Node is deleted", w.name)
		})
	}
}

// takeBack offers again what the node was asked to give up when it left, but what the cloud
// does not have; what is too much is marked again. A process that has not compared the node
// yet does not know why an address is marked.
func (w *work) takeBack() {
	for i := range w.nn.Spec.ENIs {
		for j := range w.nn.Spec.ENIs[i].Addresses {
			if a := &w.nn.Spec.ENIs[i].Addresses[j]; !a.Unassigning && !w.mem.lacking[a.Address] {
				a.Releasing = false
			}
		}
	}
}

// isGoing reports whether a NodeNetwork that is being deleted has nothing that may serve
// again: its node left, and has come back too late for its ENIs.
func (w *work) isGoing() bool {
	enis := w.nn.Spec.ENIs
	return !w.nn.DeletionTimestamp.IsZero() && len(enis) > 0 &&
		!slices.ContainsFunc(enis, func(e v1alpha1.ENI) bool { return e.Phase != v1alpha1.ENIDetaching })
}

// remove gives everything back of a node that has left. The spec says so first: should the
// node come back meanwhile, nothing is offered to its pods that goes. The finalizer goes
// last, when the cloud has none of its ENIs.
func (w *work) remove(ctx context.Context) (ctrl.Result, error) {
	// What was being created is found by its tag.
	w.nn.Spec.ENIs = slices.DeleteFunc(w.nn.Spec.ENIs, func(e v1alpha1.ENI) bool { return e.ID == "" })
	for i := range w.nn.Spec.ENIs {
		w.nn.Spec.ENIs[i].Phase = v1alpha1.ENIDetaching
	}
	if err := w.save(ctx); err != nil {
		return ctrl.Result{}, err
	}
	if w.nn.DeletionTimestamp.IsZero() {
		w.Log.Info("giving back the ENIs of a node", "node", w.name, "because", w.mem.goes)
		// The precondition: not one that was made anew since.
		return ctrl.Result{}, client.IgnoreNotFound(w.Client.Delete(ctx, w.nn, client.Preconditions{UID: &w.nn.UID}))
	}
	if w.paused("list") {
		return ctrl.Result{RequeueAfter: w.next}, nil
	}
	left, _, err := w.ours(ctx)
	if err == nil {
		err = w.untagged(ctx, left)
	}
	w.tried("list", err)
	wait := max(w.next, w.Retry)
	for _, c := range left {
		err = errors.Join(err, w.giveBack(ctx, &c))
	}
	if err != nil {
		if after, later := cloud.Deferred(err); later {
			return ctrl.Result{RequeueAfter: after}, nil
		}
		w.once("GiveBack", cloud.Explain(err).String(), func(m string) { w.warn(w.nn, "ENIsNotReleased", m) })
		w.Log.Warn("give back the ENIs of a node that is gone", "node", w.name, "error", err)
		return ctrl.Result{RequeueAfter: wait}, nil
	}
	if len(left) > 0 {
		return ctrl.Result{RequeueAfter: w.Poll}, nil
	}
	if controllerutil.RemoveFinalizer(w.nn, claims.FinalizerENIs) {
		if err := w.Client.Update(ctx, w.nn); err != nil {
			if apierrors.IsConflict(err) {
				return ctrl.Result{RequeueAfter: w.Poll}, nil
			}
			return ctrl.Result{}, client.IgnoreNotFound(err)
		}
	}
	w.Log.Info("all ENIs of the node are given back", "node", w.name)
	w.forget()
	return ctrl.Result{}, nil
}
