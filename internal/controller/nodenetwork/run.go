package nodenetwork

import (
	"context"
	"errors"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/cloud"
)

// run advances the node and returns when to reconcile again. A refusal of the cloud is not an
// error: the node's condition has the reason, and existing addresses continue to serve.
func (w *work) run(ctx context.Context, instance string) (ctrl.Result, error) {
	w.retryOnNews()
	w.limitPods(ctx)
	if err := w.save(ctx); err != nil { // it waits for no call to the cloud
		return ctrl.Result{}, err
	}
	deferred := false
	if err := w.steps(ctx, instance); err != nil {
		var stop *specError
		if errors.As(err, &stop) || !isCloud(err) {
			return ctrl.Result{}, err
		}
		if _, deferred = cloud.Deferred(err); deferred {
			w.behind(err)
		} else {
			if w.problem == nil {
				x := cloud.Explain(err)
				w.problem = &x
			}
			w.Log.Warn("the cloud refused", "node", w.name, "sandboxes", cloud.Few(w.nn.Status.WaitingSandboxes), "error", err)
		}
	}
	if !deferred {
		w.mem.behind = time.Time{}
	}
	if w.problem != nil && !deferred { // a deferred call has said when to try again
		// Mostly a change of the node or of the configuration helps.
		w.again(min(w.Retry<<min(w.mem.failedRounds, 10), w.Park))
		w.mem.failedRounds++
	} else if !w.unsure {
		w.mem.failedRounds = 0
	}
	w.report()
	w.reportAgent()
	w.reportGonePods()
	w.reportDatapath()
	w.offer()
	if err := w.save(ctx); err != nil {
		return ctrl.Result{}, err
	}
	if err := w.mark(ctx); err != nil {
		return ctrl.Result{}, err
	}
	if err := w.saveConditions(ctx); err != nil {
		return ctrl.Result{}, err
	}
	return ctrl.Result{RequeueAfter: w.next}, nil
}

func (w *work) steps(ctx context.Context, instance string) error {
	if w.paused("learn") {
		return nil
	}
	err := w.learn(ctx, instance)
	w.tried("learn", err)
	if err != nil {
		return err
	}
	if ok, err := w.ownsInstance(ctx); err != nil || !ok {
		return err
	}
	w.settings()
	if err := w.lookForForeign(ctx); err != nil {
		return err
	}
	w.offer()
	if err := w.save(ctx); err != nil {
		return err
	}
	w.compareIfMissing()
	var errs []error
	var stop *specError
	for _, step := range []func(context.Context) error{w.repeatAssigns, w.compare, w.move, w.plan} {
		err := step(ctx)
		if errors.As(err, &stop) {
			return err
		}
		if errors.Is(err, errBlind) {
			if isCloud(err) {
				errs = append(errs, err)
			}
			return errors.Join(errs...) // no plan without known facts
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// behindAfter is how long pods of a node wait for deferred calls before the condition says so.
const behindAfter = 10 * time.Second

// behind sets the reason why pods wait when all calls for the node were deferred behind other
// nodes' calls. A pool that waits is not a problem.
func (w *work) behind(err error) {
	var e *cloud.Error
	if w.unsure = w.problem == nil; !w.unsure || !errors.As(err, &e) {
		return
	}
	if w.nn.Status.Demand+w.nn.Status.ENIDemand == 0 {
		w.mem.behind = time.Time{}
		return
	}
	if w.mem.behind.IsZero() {
		w.mem.behind = w.Now()
	}
	if w.Now().Sub(w.mem.behind) < behindAfter {
		return
	}
	why := cloud.Explain(err)
	why.Cause = fmt.Sprintf("calls of %s for other nodes come first, and the account's rate limit allows no more", e.Action)
	w.problem = &why
}

// isCloud reports whether the cloud refused, or did not answer.
func isCloud(err error) bool {
	var e *cloud.Error
	return errors.As(err, &e)
}

// report writes the condition AddressesAvailable, and an event when it becomes False or its reason
// changes.
func (w *work) report() {
	if w.unsure && w.problem == nil {
		return
	}
	c := metav1.Condition{Type: v1alpha1.ConditionAddressesAvailable, Status: metav1.ConditionTrue, Reason: "Sufficient",
		Message: "the node gets the addresses it asks for"}
	if w.problem != nil {
		c.Status, c.Reason, c.Message = metav1.ConditionFalse, w.problem.Reason, w.problem.String()
	}
	if w.setCondition(c) {
		w.warn(w.node, c.Reason, c.Message)
		w.warn(w.nn, c.Reason, c.Message)
	}
}
