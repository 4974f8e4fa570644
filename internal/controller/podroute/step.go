package podroute

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/controller/podroute/entries"
)

// entryKey identifies an entry: a table has a destination once.
type entryKey struct {
	table       string
	destination netip.Prefix
}

// refusal is why an entry is not tried again until then.
type refusal struct {
	why   cloud.Explanation
	until time.Time
	// times counts conflicts in a row.
	times int
}

// steps is what is remembered between two calls. It only paces them: without it, a refused call is
// made once more.
type steps struct {
	// batch is how many entries the next call may have. A call that is refused as a whole is halved
	// until the refused entry is alone.
	batch   int
	refused map[entryKey]refusal
	// busy is why no call is made before then.
	busy refusal
	// aside lets others go first once: the deletions of the last call were refused.
	aside bool
	// called is when the last call was made, moving since when an entry is being created or
	// deleted.
	called, moving time.Time
}

// forget drops refusals of entries that are no longer needed.
func (s *steps) forget(p entries.Plan) {
	live := map[entryKey]bool{}
	for _, ch := range p.Changes {
		for _, w := range ch.Create {
			live[entryKey{ch.Table, w.Destination}] = true
		}
		for _, e := range ch.Delete {
			live[entryKey{ch.Table, e.Destination}] = true
		}
	}
	for p := range s.refused {
		if !live[p] {
			delete(s.refused, p)
		}
	}
	if len(live) == 0 {
		s.busy = refusal{}
	}
}

// step makes the next call, if one may be made now, and returns when to reconcile again.
func (r *Reconciler) step(ctx context.Context, plan entries.Plan) time.Duration {
	now := r.Now()
	if len(plan.Moving()) > 0 {
		if r.steps.moving.IsZero() {
			r.steps.moving = now
		}
		// A slow operation is checked less often.
		return max(r.Poll, min(r.Park/4, now.Sub(r.steps.moving)/8))
	}
	r.steps.moving = time.Time{}
	if d := r.steps.busy.until.Sub(now); d > 0 {
		return d
	}
	wait := r.Resync
	// A list may be old: read what was changed once more.
	if d := r.steps.called.Add(r.Settle).Sub(now); d > 0 {
		wait = d
	}
	full := map[string]bool{} // tables that had no room a short while ago
	for at, f := range r.steps.refused {
		if d := f.until.Sub(now); d > 0 {
			wait = min(wait, d)
			full[at.table] = full[at.table] || f.why.Class == cloud.Quota
		}
	}
	skip := func(table string, destination netip.Prefix, create bool) bool {
		return create && full[table] || now.Before(r.steps.refused[entryKey{table, destination}].until)
	}
	next, ok := plan.Next(r.steps.batch, func(table string, destination netip.Prefix, create bool) bool {
		return !create && r.steps.aside || skip(table, destination, create)
	})
	if !ok && r.steps.aside {
		next, ok = plan.Next(r.steps.batch, skip)
	}
	if !ok {
		return wait
	}
	if len(next.Delete) > 0 {
		// A stale or incomplete cache is no reason to cut off a node's pods.
		switch n, err := r.unseen(ctx, next.Delete); {
		case err != nil:
			r.Log.Warn("route entries are not deleted yet", "error", err)
			return r.Retry
		case n != nil:
			r.Log.Warn("route entries are not deleted yet: the node in the cache is not up to date", "node", n.Name)
			return r.Retry
		}
	}
	r.steps.called, r.steps.aside = now, false
	if len(next.Delete) > 0 {
		return r.delete(ctx, next)
	}
	return r.create(ctx, next)
}

func (r *Reconciler) create(ctx context.Context, s entries.Step) time.Duration {
	list := make([]cloud.NewRouteEntry, len(s.Create))
	all := make([]netip.Prefix, len(s.Create))
	instance := map[netip.Prefix]string{}
	for i, w := range s.Create {
		list[i] = cloud.NewRouteEntry{Destination: w.Destination, InstanceID: w.Instance, Name: Mark(r.cfg.ClusterID), Description: describe(w.Node)}
		all[i] = w.Destination
		instance[w.Destination] = w.Instance
	}
	failures, err := r.Cloud.CreateRouteEntries(ctx, s.Table, list)
	for _, f := range failures {
		if cloud.CodeOf(f.Err) == "InvalidNextHopId.NotFound" {
			r.instances.recheck(instance[f.Destination])
		}
	}
	return r.after("create", s.Table, all, failures, err)
}

// maxDescription is the maximum length of an entry's description (VPC API:
// RouteEntries.N.Description).
const maxDescription = 256

// describe returns a description for people who read the table; nothing depends on it.
func describe(node string) string {
	s := "pods of node " + node
	return s[:min(len(s), maxDescription)]
}

func (r *Reconciler) delete(ctx context.Context, s entries.Step) time.Duration {
	list := make([]cloud.RouteEntry, len(s.Delete))
	all := make([]netip.Prefix, len(s.Delete))
	for i, e := range s.Delete {
		list[i] = cloud.RouteEntry{ID: e.ID, TableID: s.Table, Destination: e.Destination, Name: e.Name}
		if e.Instance != "" {
			list[i].NextHops = []cloud.NextHop{{Type: cloud.NextHopInstance, ID: e.Instance}}
		}
		all[i] = e.Destination
	}
	failures, err := r.Cloud.DeleteRouteEntries(ctx, s.Table, list)
	if err == nil && len(failures) < len(all) {
		for at, f := range r.steps.refused { // there is room now
			if at.table == s.Table && f.why.Class == cloud.Quota {
				delete(r.steps.refused, at)
			}
		}
	}
	r.steps.aside = err != nil || len(failures) == len(all)
	return r.after("delete", s.Table, all, failures, err)
}

// after evaluates the outcome of a call, and returns when to reconcile again.
func (r *Reconciler) after(action, table string, all []netip.Prefix, failures []cloud.RouteFailure, err error) time.Duration {
	r.metrics.called(action, err, len(all)-len(failures), failures)
	if err == nil {
		r.steps.batch = min(entries.MaxBatch, 2*r.steps.batch)
		r.Log.Info("route entries", "action", action, "table", table, "entries", len(all), "failed", len(failures))
	} else {
		r.Log.Warn("route entries: the cloud refused", "action", action, "table", table, "entries", len(all), "error", err)
		switch class := cloud.ClassOf(err); {
		case passes(class):
			return r.pause(err)
		case len(all) > 1 && class != cloud.Auth: // a permission that is missing is missing for a part too
			r.steps.batch = max(1, min(r.steps.batch, len(all))/2)
			return r.Poll
		}
		for _, p := range all {
			failures = append(failures, cloud.RouteFailure{Destination: p, Err: err})
		}
	}
	stuck := 0
	for _, f := range failures {
		x := cloud.Explain(f.Err)
		r.Log.Warn("route entry refused", "action", action, "table", table, "destination", f.Destination, "error", f.Err)
		at := entryKey{table, f.Destination}
		again := refusal{why: x, until: r.Now().Add(r.Park)}
		if passes(x.Class) {
			stuck++
			again.times = r.steps.refused[at].times + 1
			again.until = r.Now().Add(r.backoff(again.times))
		}
		r.steps.refused[at] = again
	}
	if stuck == len(all) {
		return r.pause(failures[0].Err) // the VPC is busy
	}
	r.steps.busy = refusal{}
	return r.Poll
}

// passes reports whether a refusal is over by itself soon.
func passes(class cloud.Class) bool {
	return class == cloud.Conflict || class == cloud.Throttled || class == cloud.Transient
}

// pause makes no call for a while.
func (r *Reconciler) pause(err error) time.Duration {
	times := r.steps.busy.times + 1
	d := r.backoff(times)
	r.steps.busy = refusal{cloud.Explain(err), r.Now().Add(d), times}
	return d
}

// backoff is the pause after so many failures in a row: exponential with jitter between half and
// all of it, because another cluster of the VPC may do the same.
func (r *Reconciler) backoff(times int) time.Duration {
	d := min(r.Park, r.Retry<<min(times-1, 16))
	return d/2 + time.Duration(r.Random()*float64(d/2))
}

// why returns what kept an entry from being created at the last call; not ok if nothing did.
func (s *steps) why(ch entries.Change, destination netip.Prefix) (cloud.Explanation, bool) {
	if f, ok := s.refused[entryKey{ch.Table, destination}]; ok {
		return f.why, true
	}
	// A full table is tried with one entry, on behalf of all that it lacks.
	lacks := slices.ContainsFunc(ch.Create, func(w entries.Wanted) bool { return w.Destination == destination })
	if x, full := s.full(ch.Table); full && lacks {
		return x, true
	}
	return s.busy.why, s.busy.times > 0
}

// full returns why a table has no room, if the cloud said that it has none.
func (s *steps) full(table string) (cloud.Explanation, bool) {
	for at, f := range s.refused {
		if at.table == table && f.why.Class == cloud.Quota {
			return f.why, true
		}
	}
	return cloud.Explanation{}, false
}
