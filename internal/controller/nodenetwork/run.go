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

// run brings the node a step further and says when to look again. What the cloud
// refuses does not end it: the node is told, and what it has keeps serving.
func (w *work) run(ctx context.Context, instance string) (ctrl.Result, error) {
	w.hear()
	deferred := false
	if err := w.steps(ctx, instance); err != nil {
		var stop *specError
		if errors.As(err, &stop) || !isCloud(err) {
			return ctrl.Result{}, err
		}
		if _, deferred = cloud.Deferred(err); deferred {
			w.behind(err)
		} else {
			if w.trouble == nil {
				x := cloud.Explain(err)
				w.trouble = &x
			}
			w.Log.Warn("the cloud refused", "node", w.name, "error", err)
		}
	}
	if !deferred {
		w.mem.behind = time.Time{}
	}
	if w.trouble != nil && !deferred { // what is deferred was told when to come again
		// What helps is mostly news, of the node or of the configuration.
		w.again(min(w.Retry<<min(w.mem.troubles, 10), w.Park))
		w.mem.troubles++
	} else if !w.unsure {
		w.mem.troubles = 0
	}
	w.report()
	w.reportAgent()
	w.tellGone()
	w.tellDatapath()
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
	w.heedMissing()
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
			return errors.Join(errs...) // no plan on what is not known
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// behindAfter is how long pods of a node wait for calls that are deferred, until it is said.
const behindAfter = 10 * time.Second

// behind says why pods wait when all that the node needs was deferred: other nodes' calls
// are before its own. A pool that waits is no trouble.
func (w *work) behind(err error) {
	var e *cloud.Error
	if w.unsure = w.trouble == nil; !w.unsure || !errors.As(err, &e) {
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
	why.Cause = fmt.Sprintf("calls of %s for other nodes are before this node's, and the account's rate limit lets no more through", e.Action)
	w.trouble = &why
}

// isCloud reports whether the cloud said no, or did not answer.
func isCloud(err error) bool {
	var e *cloud.Error
	return errors.As(err, &e)
}

// report writes the condition AddressesAvailable, and events when it turns False
// or for another reason.
func (w *work) report() {
	if w.unsure && w.trouble == nil {
		return
	}
	c := metav1.Condition{Type: v1alpha1.ConditionAddressesAvailable, Status: metav1.ConditionTrue, Reason: "Sufficient",
		Message: "the node gets the addresses it asks for"}
	if w.trouble != nil {
		c.Status, c.Reason, c.Message = metav1.ConditionFalse, w.trouble.Reason, w.trouble.String()
	}
	if w.condition(c) {
		w.warn(w.node, c.Reason, c.Message)
		w.warn(w.nn, c.Reason, c.Message)
	}
}
