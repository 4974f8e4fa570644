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

// pause is that of an operation that failed.
type pause struct {
	failures     int
	began, until time.Time
	// wish is what the node wanted when it began.
	wish wish
	why  cloud.Explanation
}

// wish is what the node wants, and by what it may have it.
type wish struct {
	demand, eniDemand int
	config            *config.Config
	providerID        string
	labels            string
}

func (w *work) wish() wish {
	x := wish{demand: w.nn.Status.Demand, eniDemand: w.nn.Status.ENIDemand, config: w.cfg}
	if w.node != nil {
		x.providerID, x.labels = w.node.Spec.ProviderID, fmt.Sprint(w.node.Labels)
	}
	return x
}

// more reports whether the node wants more than it did, or may have it by something new.
// That it wants less is no reason to try again what fails.
func (x wish) more(was wish) bool {
	return x.demand > was.demand || x.eniDemand > was.eniDemand ||
		x.config != was.config || x.providerID != was.providerID || x.labels != was.labels
}

// paused reports whether an operation of the node failed a short while ago, and is not to
// be tried yet: after Retry if there is news of the node, later if there is none. The node
// goes on being told why.
func (w *work) paused(operation string) bool {
	p := w.mem.pauses[operation]
	if p == nil {
		return false
	}
	until := p.until
	if w.wish().more(p.wish) {
		until = p.began.Add(w.Retry)
	}
	if !w.Now().Before(until) {
		return false
	}
	w.again(until.Sub(w.Now()))
	if w.trouble == nil {
		why := p.why
		w.trouble = &why
	}
	return true
}

// tried notes how an operation went: one that fails is tried again after Retry, and more
// slowly each time until it succeeds. News of the node has it tried sooner, and does not
// begin the count anew: a node's demand may move each second.
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
	*p = pause{failures: p.failures + 1, began: now, until: now.Add(d), wish: w.wish(), why: cloud.Explain(err)}
	w.again(d)
}

// hear has a node in trouble looked at soon again when there is news of it.
func (w *work) hear() {
	if x := w.wish(); x != w.mem.wish {
		if x.more(w.mem.wish) {
			w.mem.troubles = 0
		}
		w.mem.wish = x
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
	enis, at, err := w.list.node(ctx, w.tags(w.name, ""), w.mem.changed, first)
	if err == nil {
		w.mem.listed = true
	}
	return enis, at, err
}

// refuse remembers what the cloud refused, so that it is not asked all the time.
func (w *work) refuse(what string, err error) {
	x := cloud.Explain(err)
	w.mem.refused[what] = refusal{x, w.Now().Add(w.Park)}
	w.Log.Info("not asked again for a while", "node", w.name, "what", what, "reason", x.Reason, "for", w.Park)
}

// refused returns what the cloud said a short while ago, if it did.
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
