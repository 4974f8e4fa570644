package nodenetwork

import (
	"context"
	"fmt"
	"time"

	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/config"
)

// backoffMax is the longest pause before an operation of a node that failed is tried again.
const backoffMax = 2 * time.Minute

// pause follows an operation that failed.
type pause struct {
	failures     int
	began, until time.Time
	// needs is what the node needed when it began.
	needs needs
	why   cloud.Explanation
}

// needs is what the node needs, and what determines whether it can get it.
type needs struct {
	demand, eniDemand int
	config            *config.Config
	providerID        string
	labels            string
}

func (w *work) needs() needs {
	x := needs{demand: w.nn.Status.Demand, eniDemand: w.nn.Status.ENIDemand, config: w.cfg}
	if w.node != nil {
		x.providerID, x.labels = w.node.Spec.ProviderID, fmt.Sprint(w.node.Labels)
	}
	return x
}

// more reports whether the node needs more than before, or whether a setting has changed. Needing
// less is no reason to try again.
func (x needs) more(was needs) bool {
	return x.demand > was.demand || x.eniDemand > was.eniDemand ||
		x.config != was.config || x.providerID != was.providerID || x.labels != was.labels
}

// paused reports whether an operation of the node failed a short while ago, and must not be tried
// yet: not before Retry if the node's needs have changed, else not before the end of the pause. The
// node's condition keeps the reason.
func (w *work) paused(operation string) bool {
	p := w.mem.pauses[operation]
	if p == nil {
		return false
	}
	until := p.until
	if w.needs().more(p.needs) {
		until = p.began.Add(w.Retry)
	}
	if !w.Now().Before(until) {
		return false
	}
	w.again(until.Sub(w.Now()))
	if w.problem == nil {
		why := p.why
		w.problem = &why
	}
	return true
}

// tried records the outcome of an operation: one that fails is tried again after Retry, then with
// growing pauses until it succeeds. A change of the node's needs shortens the pause, but does not
// reset the count: a node's demand may change every second.
func (w *work) tried(operation string, err error) {
	if err == nil {
		delete(w.mem.pauses, operation)
		return
	}
	if after, later := cloud.Deferred(err); later {
		w.again(after)
		return
	}
	p := w.mem.pauses[operation]
	if p == nil {
		p = &pause{}
		w.mem.pauses[operation] = p
	}
	now := w.Now()
	d := min(w.Retry<<min(p.failures, 10), backoffMax)
	*p = pause{failures: p.failures + 1, began: now, until: now.Add(d), needs: w.needs(), why: cloud.Explain(err)}
	w.again(d)
}

// retryOnNews makes a node with a problem be tried again soon when its needs have changed.
func (w *work) retryOnNews() {
	if x := w.needs(); x != w.mem.needs {
		if x.more(w.mem.needs) {
			w.mem.failedRounds = 0
		}
		w.mem.needs = x
	}
}

// wanted is the context of calls that get something for the node: those for which pods wait come
// first. A worker does not wait for a distant turn; see cloud.WithDeferral.
func (w *work) wanted(ctx context.Context) context.Context {
	p := cloud.Refill
	if w.nn.Status.Demand > 0 || w.nn.Status.ENIDemand > 0 {
		p = cloud.PodsWait
	}
	return cloud.WithSandboxes(cloud.WithDeferral(cloud.WithPriority(ctx, p)), w.nn.Status.WaitingSandboxes)
}

// unwanted is the context of calls that give something back.
func unwanted(ctx context.Context) context.Context {
	return cloud.WithDeferral(cloud.WithPriority(ctx, cloud.GiveBack))
}

// did counts a call that changes the node's ENIs in the cloud, and reports whether it was deferred:
// then nothing was changed.
func (w *work) did(action string, err error) (deferred bool) {
	if after, later := cloud.Deferred(err); later {
		w.again(after)
		return true
	}
	w.mem.changed = w.Now()
	w.metrics.did(action, err)
	if err != nil {
		w.mem.needsCompare.Store(true) // it may have been carried out
	}
	return false
}

// ours returns the cluster's ENIs with the node's tag, and when the cloud was queried. When the
// process first sees its nodes it needs all ENIs, and one list serves all nodes; a node with
// waiting pods does not wait for that list.
func (w *work) ours(ctx context.Context) (map[string]cloud.ENI, time.Time, error) {
	first := !w.mem.listed && w.nn.Status.Demand == 0 && w.nn.Status.ENIDemand == 0
	enis, at, err := w.list.node(ctx, w.tags(w.name, ""), w.mem.changed, first)
	if err == nil {
		w.mem.listed = true
	}
	return enis, at, err
}

// rememberRefusal records what the cloud refused, so that it is not tried continuously.
func (w *work) rememberRefusal(what string, err error) {
	x := cloud.Explain(err)
	w.mem.refused[what] = refusal{x, w.Now().Add(w.Park)}
	w.Log.Info("refused by the cloud; not tried again for a while", "node", w.name, "what", what, "reason", x.Reason, "for", w.Park)
	if w.node != nil {
		w.once("ENIRefused", fmt.Sprintf("%v: %s", what, x), func(string) {
			message := "the cloud refused an ENI: " + x.String()
			if e := w.spec(what); e != nil {
				message = fmt.Sprintf("the cloud refused addresses for ENI %s: %s", e.ID, x)
			}
			w.warn(w.node, "ENIRefused", message)
		})
	}
}

// refused returns the cloud's refusal while it is remembered.
func (w *work) refused(what string) (cloud.Explanation, bool) {
	if what == createOperation && w.facts != nil && w.facts.old != nil {
		return cloud.Explain(w.facts.old), true // see create
	}
	r, ok := w.mem.refused[what]
	if ok && w.Now().Before(r.until) {
		return r.why, true
	}
	delete(w.mem.refused, what)
	return cloud.Explanation{}, false
}
