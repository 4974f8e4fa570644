package nodenetwork

import (
	"context"
	"fmt"
	"time"

	"terway.dev/terway/internal/cloud"
)

// backoffMax is the longest pause before an operation of a node that failed is tried again.
const backoffMax = 2 * time.Minute

// pause is that of an operation that failed.
type pause struct {
	failures int
	until    time.Time
	why      cloud.Explanation
}

// paused reports whether an operation of the node failed a short while ago, and is not to
// be tried yet. The node goes on being told why.
func (w *work) paused(operation string) bool {
	p := w.mem.pauses[operation]
	if p == nil || !w.Now().Before(p.until) {
		return false
	}
	w.again(p.until.Sub(w.Now()))
	if w.trouble == nil {
		why := p.why
		w.trouble = &why
	}
	return true
}

// tried notes how an operation went: one that fails is tried again after Retry, and more
// slowly each time, until it succeeds or there is news of the node.
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
	d := min(w.Retry<<min(p.failures, 10), backoffMax)
	p.failures, p.until, p.why = p.failures+1, w.Now().Add(d), cloud.Explain(err)
	w.again(d)
}

// hear ends all pauses when the node wants something else than it did, or may have it by
// a new configuration.
func (w *work) hear() {
	st := &w.nn.Status
	news := fmt.Sprintf("%p %d %d %s %v", w.cfg, st.Demand, st.ENIDemand, w.node.Spec.ProviderID, w.node.Labels)
	if news != w.mem.news {
		clear(w.mem.pauses)
		w.mem.news, w.mem.troubles = news, 0
	}
}

// wanted is for calls that bring the node something: those for which pods wait come first.
// A worker is not held for a turn that is far off; see cloud.WithDeferral.
func (w *work) wanted(ctx context.Context) context.Context {
	p := cloud.Refill
	if w.nn.Status.Demand > 0 || w.nn.Status.ENIDemand > 0 {
		p = cloud.PodsWait
	}
	return cloud.WithDeferral(cloud.WithPriority(ctx, p))
}

// unwanted is for calls that give something back.
func unwanted(ctx context.Context) context.Context {
	return cloud.WithDeferral(cloud.WithPriority(ctx, cloud.GiveBack))
}

// did notes a call that changes the node's ENIs in the cloud, and reports whether it was
// deferred: then nothing was changed.
func (w *work) did(action string, err error) (deferred bool) {
	if after, later := cloud.Deferred(err); later {
		w.again(after)
		return true
	}
	w.mem.changed = w.Now()
	w.metrics.did(action, err)
	if err != nil {
		w.mem.doubt.Store(true) // it may have been carried out
	}
	return false
}

// ours are the cluster's ENIs with the node's tag, and when the cloud was asked. When the
// process first sees a node it sees all of them, and one list serves; a node whose pods
// wait does not wait for that.
func (w *work) ours(ctx context.Context) (map[string]cloud.ENI, time.Time, error) {
	first := !w.mem.listed && w.nn.Status.Demand == 0 && w.nn.Status.ENIDemand == 0
	enis, at, err := w.list.node(ctx, w.name, w.tags(w.name, ""), w.mem.changed, first)
	if err == nil {
		w.mem.listed = true
	}
	return enis, at, err
}
