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

// reason is why a node's ENIs are being given back.
type reason string

const (
	nodeGone    reason = "NodeGone"
	nodeIgnored reason = "NodeIgnored"
	// nodeInUse: the node is to be ignored, and pods have its addresses.
	nodeInUse     reason = "NodeIgnoredWithPods"
	otherInstance reason = "InstanceChanged"
)

// leaves returns why the node's ENIs are to be given back; "" if they are not. A deleted
// NodeNetwork is no reason: its node needs the ENIs.
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

// readNode reads the Node from the API server: a stale or incomplete cache is no reason to take a
// node's ENIs.
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

// leave gives a node's ENIs back as soon as that harms no pod. Until then it asks the node to
// release what no pod has, and reports what it waits for.
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
	w.reportLeaving(why)
	if err := w.save(ctx); err != nil {
		return ctrl.Result{}, err
	}
	if err := w.saveConditions(ctx); err != nil {
		return ctrl.Result{}, err
	}
	return ctrl.Result{RequeueAfter: max(w.next, w.Poll)}, nil
}

// harmless returns why giving the node's ENIs back harms no pod; "" if it may harm one.
func (w *work) harmless(why reason) string {
	if why == nodeInUse {
		w.again(w.Park) // a change of the node or its pods triggers a reconcile
		return ""       // the label is a mistake, or its pods end first
	}
	// After a change of the instance, the new instance's agent writes the status.
	if why != otherInstance && w.releaseAll() {
		return "the node has confirmed that no pod has an address of them"
	}
	if why != nodeIgnored {
		if why := w.instanceAway(); why != "" {
			return why
		}
	}
	c := w.findCondition(v1alpha1.ConditionNodeGone)
	if c == nil {
		return ""
	}
	if wait := c.LastTransitionTime.Add(w.GoneDelay).Sub(w.Now()); wait > 0 {
		w.again(wait)
		return ""
	}
	return fmt.Sprintf("%s have passed", w.GoneDelay)
}

// releaseAll asks the node to release all its addresses, and reports whether it has, and no load balancer has one
// of them.
func (w *work) releaseAll() bool {
	st := &w.nn.Status
	confirmed := len(st.Used) == 0 && st.ObservedGeneration == w.nn.Generation
	for i := range w.nn.Spec.ENIs {
		for j := range w.nn.Spec.ENIs[i].Addresses {
			a := &w.nn.Spec.ENIs[i].Addresses[j]
			confirmed = confirmed && a.Releasing && !a.Held && slices.Contains(st.Released, a.Address)
			a.Releasing = true
		}
	}
	return confirmed || len(w.nn.Spec.ENIs) == 0
}

// reportLeaving says in a condition and an event what will happen, and when.
func (w *work) reportLeaving(why reason) {
	if len(w.nn.Spec.ENIs) == 0 {
		return
	}
	id, used := w.nn.Spec.InstanceID, len(w.nn.Status.Used)
	since := w.Now()
	was := w.findCondition(v1alpha1.ConditionNodeGone)
	news := was == nil || was.Reason != string(why)
	if news {
		w.removeCondition(v1alpha1.ConditionNodeGone) // the delay starts
	} else {
		since = was.LastTransitionTime.Time
	}
	at := since.Add(w.GoneDelay).UTC().Format(time.RFC3339)
	var message string
	switch why {
	case nodeGone:
		message = fmt.Sprintf("Node %s is gone, but instance %s has %d ENIs, and %d pods have addresses of them. They are kept until %s, or until the instance is stopped or deleted, or the node's agent has confirmed; if the Node comes back it keeps them", w.name, id, len(w.nn.Spec.ENIs), used, at)
	case otherInstance:
		message = fmt.Sprintf("Node %s names another instance than %s, which has %d ENIs of this node. They are kept until %s, or until that instance is stopped or deleted; the new one gets none before", w.name, id, len(w.nn.Spec.ENIs), at)
	case nodeInUse:
		message = fmt.Sprintf("Node %s has a label that makes Terway ignore it, but %d pods have addresses of its ENIs. They are kept; remove the label, or delete these pods, or delete the Node", w.name, used)
	case nodeIgnored:
		message = fmt.Sprintf("Node %s has a label that makes Terway ignore it. Its ENIs are given back when its agent has confirmed that no pod has an address of them, or at %s", w.name, at)
	}
	w.setCondition(metav1.Condition{Type: v1alpha1.ConditionNodeGone, Status: metav1.ConditionTrue, Reason: string(why), Message: message})
	if news {
		w.warnAll(string(why), "%s", message)
	}
}

// stays reverts what was prepared for a node that had left and exists again, and records an event
// if its NodeNetwork is being deleted.
func (w *work) stays() {
	if w.mem.goes != "" || w.findCondition(v1alpha1.ConditionNodeGone) != nil {
		w.Log.Info("the node exists again and keeps its ENIs", "node", w.name)
		w.mem.goes, w.mem.away = "", away{}
		w.mem.needsCompare.Store(true) // some may have been given back
		w.removeCondition(v1alpha1.ConditionNodeGone)
		w.mem.back = true
		if w.mem.listed {
			w.takeBack()
		}
	}
	if !w.nn.DeletionTimestamp.IsZero() {
		w.once("Deleted", string(w.nn.UID), func(string) {
			w.warnAll("NodeNetworkDeleted", "somebody has deleted the NodeNetwork of Node %s, which exists; it is kept and continues to serve, and is deleted with the Node", w.name)
		})
	}
}

// takeBack offers again what the node was asked to release when it left, except what the cloud does
// not have; the next plan releases surplus again. A process that has not compared the node yet does
// not know why an address is marked.
func (w *work) takeBack() {
	for i := range w.nn.Spec.ENIs {
		for j := range w.nn.Spec.ENIs[i].Addresses {
			if a := &w.nn.Spec.ENIs[i].Addresses[j]; !a.Unassigning && !w.mem.lacking[a.Address] {
				a.Releasing = false
			}
		}
	}
}

// isGoing reports whether a NodeNetwork that is being deleted has nothing left that can serve: its
// node left, and has come back too late for its ENIs.
func (w *work) isGoing() bool {
	enis := w.nn.Spec.ENIs
	return !w.nn.DeletionTimestamp.IsZero() && len(enis) > 0 &&
		!slices.ContainsFunc(enis, func(e v1alpha1.ENI) bool { return e.Phase != v1alpha1.ENIDetaching })
}

// remove gives back everything of a node that has left. The spec is written first: if the node
// comes back meanwhile, its pods are offered nothing that is being removed. The finalizer is
// removed last, when the cloud has none of the node's ENIs.
func (w *work) remove(ctx context.Context) (ctrl.Result, error) {
	// ENIs that were being created are found by their tag.
	w.nn.Spec.ENIs = slices.DeleteFunc(w.nn.Spec.ENIs, func(e v1alpha1.ENI) bool { return e.ID == "" })
	for i := range w.nn.Spec.ENIs {
		w.nn.Spec.ENIs[i].Phase = v1alpha1.ENIDetaching
	}
	if err := w.save(ctx); err != nil {
		return ctrl.Result{}, err
	}
	if w.nn.DeletionTimestamp.IsZero() {
		w.Log.Info("giving back the ENIs of a node", "node", w.name, "because", w.mem.goes)
		// The UID keeps the patch from a NodeNetwork that was created since.
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
	for _, e := range w.nn.Spec.ENIs {
		w.vswitches.giveBack(e.VSwitchID, len(e.Addresses))
		w.tell("ENIReleased", "ENI %s is given back, with %d addresses of vSwitch %s", e.ID, len(e.Addresses), e.VSwitchID)
	}
	w.forget()
	return ctrl.Result{}, nil
}
