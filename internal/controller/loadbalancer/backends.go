package loadbalancer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/datapath/claims"
	lb "terway.dev/terway/internal/loadbalancer"
)

// has returns the backends of a listener's group.
func (w *work) has(l lb.Listener) []cloud.Backend {
	return slices.Collect(maps.Values(w.contents[w.group(l)]))
}

// targets returns the backends that the listeners should have. After an error it is not known.
func (w *work) targets(ctx context.Context) (lb.Targets, error) {
	c := lb.Cluster{NotReady: w.notReady, Now: w.Now(),
		ENI: func(a netip.Addr) string { return w.ENI(ctx, a) },
		Pod: func(name string) *corev1.Pod {
			pod := &corev1.Pod{}
			if err := w.Client.Get(ctx, types.NamespacedName{Namespace: w.svc.Namespace, Name: name}, pod); err != nil {
				return nil
			}
			return pod
		},
	}
	var slicesOf discoveryv1.EndpointSliceList
	if err := w.Client.List(ctx, &slicesOf, client.InNamespace(w.svc.Namespace), client.MatchingFields{indexService: w.svc.Name}); err != nil {
		return lb.Targets{}, fmt.Errorf("list EndpointSlices: %w", err)
	}
	on := map[string]bool{}
	for i := range slicesOf.Items {
		c.Slices = append(c.Slices, &slicesOf.Items[i])
		for _, e := range slicesOf.Items[i].Endpoints {
			if e.NodeName != nil {
				on[*e.NodeName] = true
			}
		}
	}
	var err error
	if c.Nodes, err = w.nodes(ctx, on); err != nil {
		return lb.Targets{}, err
	}
	for _, l := range w.want.Listeners {
		owner := lb.Owner(w.svc.UID, l)
		c.Groups = append(c.Groups, slices.DeleteFunc(w.has(l), func(b cloud.Backend) bool { return owner != "" && b.Description != owner }))
	}
	t := lb.Backends(w.want, w.svc, c)
	w.notReady = t.NotReady
	if !t.Next.IsZero() {
		w.again(t.Next.Sub(w.Now()))
	}
	return t, nil
}

// nodes returns the nodes that may be backends: all of them with NodePorts, else only those of endpoints, for pods
// in a node's network.
func (w *work) nodes(ctx context.Context, on map[string]bool) (all []lb.Node, err error) {
	if !w.want.PodBackends {
		var list corev1.NodeList
		if err := w.Client.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
			return nil, fmt.Errorf("list nodes: %w", err)
		}
		for i := range list.Items {
			all = append(all, nodeOf(&list.Items[i]))
		}
		return all, nil
	}
	for _, name := range slices.Sorted(maps.Keys(on)) {
		n := &corev1.Node{}
		if err := w.Client.Get(ctx, types.NamespacedName{Name: name}, n); err == nil {
			all = append(all, nodeOf(n))
		}
	}
	return all, nil
}

// problems tells which endpoints are no backends.
func (w *work) problems(t lb.Targets) {
	var all []string
	for _, p := range t.Problems {
		all = append(all, p.Object+": "+p.Why)
	}
	if len(all) == 0 {
		w.warn("SkippedBackend", nil)
		return
	}
	w.again(w.pause()) // the node's ENIs may become known
	w.warn("SkippedBackend", errors.New(strings.Join(all, "; ")))
}

// backends makes the groups have their targets. A group or call that fails stops no other group.
func (w *work) backends(ctx context.Context, t lb.Targets) {
	var left []string
	var at []int // the listener of each part
	var parts []lb.Part
	for i, l := range w.want.Listeners {
		id := w.group(l)
		if id == "" {
			continue
		}
		p := lb.Part{Group: id, Owner: lb.Owner(w.svc.UID, l), Current: w.has(l)}
		for _, target := range t.Listeners[i] {
			p.Wanted = append(p.Wanted, target.Backend)
		}
		at, parts = append(at, i), append(parts, p)
		w.terminating(ctx, id, t.Listeners[i])
	}
	for _, change := range lb.ChangesOfAll(parts, lb.LimitsOf(w.want.Product)) {
		l, id := w.want.Listeners[at[change.Part]], parts[change.Part].Group
		for _, x := range change.Left {
			left = append(left, fmt.Sprintf("listener %d: %s: %s", l.Port, x.Address, x.Why))
		}
		w.fail(w.applyChange(ctx, l, id, change.Change))
		if len(change.Left) > 0 && l.GroupID != "" { // others may take theirs out of the user's group
			w.mu.Lock()
			w.stale[id] = true
			w.mu.Unlock()
			w.again(w.Park)
		}
	}
	if len(left) == 0 {
		w.warn("BackendsLeftOut", nil)
		return
	}
	w.warn("BackendsLeftOut", errors.New(strings.Join(left, "; ")))
}

// applyChange makes the calls of a change. While it is not certain what the group has, only what drains gets weight 0.
// After a call that was throttled the others are made, but for weights: those that drain may wait for new backends.
func (w *work) applyChange(ctx context.Context, l lb.Listener, group string, c lb.Change) error {
	var errs []error
	stale, throttled := w.stale[group], false
	for _, batch := range c.Batches {
		if stale && batch.Verb != lb.Weigh {
			break
		}
		if throttled && batch.Verb == lb.Weigh {
			continue
		}
		err := w.apply(ctx, group, batch)
		if err == nil {
			continue
		}
		errs = append(errs, fmt.Errorf("listener %d: %w", l.Port, err))
		if throttled = throttled || cloud.ClassOf(err) == cloud.Throttled; !throttled && !refused(err) {
			break // the next ones would fail, too
		}
	}
	return errors.Join(errs...)
}

// refused reports whether the cloud refuses a change because of what it says, so that another one may pass.
func refused(err error) bool {
	switch cloud.ClassOf(err) {
	case cloud.Invalid, cloud.Quota:
		return !isGone(err)
	case cloud.NotFound:
		return cloud.Explain(err).Reason == "BackendNotFound"
	}
	return false
}

// apply makes a change of a group. One that is refused is halved, until the backend that is refused is alone.
func (w *work) apply(ctx context.Context, group string, b lb.Batch) error {
	err := w.applyAll(ctx, group, b)
	if err == nil || !refused(err) {
		return err
	}
	n := len(b.Backends)
	if n == 1 {
		return fmt.Errorf("%s, port %d: %w", b.Backends[0].Address, b.Backends[0].Port, err)
	}
	first := w.apply(ctx, group, lb.Batch{Verb: b.Verb, Backends: b.Backends[:n/2]})
	if first != nil && !refused(first) {
		return first
	}
	return errors.Join(w.apply(ctx, group, lb.Batch{Verb: b.Verb, Backends: b.Backends[n/2:]}), first)
}

// applyAll makes one call.
func (w *work) applyAll(ctx context.Context, group string, b lb.Batch) (err error) {
	began := w.Now()
	switch b.Verb {
	case lb.Add:
		err = w.add(ctx, group, b.Backends)
	case lb.Weigh:
		if err = w.api.WeighBackends(ctx, group, b.Backends); err == nil {
			w.put(ctx, group, b.Backends)
		}
	case lb.Remove:
		if err = w.api.RemoveBackends(ctx, group, b.Backends); err == nil {
			w.drop(ctx, group, b.Backends)
		}
	}
	if err != nil {
		if b.Verb != lb.Add && cloud.ClassOf(err) == cloud.Throttled {
			return err // it was not made; if an earlier attempt was, the next one tells
		}
		w.mu.Lock()
		w.stale[group] = true
		w.mu.Unlock()
		return err
	}
	w.metrics.added.Observe(w.Now().Sub(began).Seconds())
	if b.Verb != lb.Add {
		w.drained(b)
	}
	return nil
}

// terminating notes since when the pods of backends terminate that still have a weight.
func (w *work) terminating(ctx context.Context, group string, targets []lb.Target) {
	for _, t := range targets {
		if !t.Terminating {
			continue
		}
		k := t.Key()
		if is, in := w.contents[group][k]; !in || is.Weight == 0 {
			continue
		}
		if _, known := w.leaving[k]; known {
			continue
		}
		is := leaving{w.Now(), time.Duration(w.want.DrainSeconds) * time.Second}
		pod := &corev1.Pod{}
		if err := w.Client.Get(ctx, types.NamespacedName{Namespace: w.svc.Namespace, Name: t.Pod}, pod); err == nil && pod.DeletionTimestamp != nil && pod.DeletionGracePeriodSeconds != nil {
			is.since = pod.DeletionTimestamp.Add(-time.Duration(*pod.DeletionGracePeriodSeconds) * time.Second)
			if n, err := strconv.Atoi(pod.Annotations[claims.AnnotationDrainAdded]); err == nil {
				is.wait = time.Duration(n) * time.Second
			}
		}
		w.leaving[k] = is
	}
}

// drained records how long it took until backends whose pods terminate have no weight, or are out.
func (w *work) drained(batch lb.Batch) {
	for _, b := range batch.Backends {
		is, leaves := w.leaving[b.Key()]
		if !leaves || batch.Verb == lb.Weigh && b.Weight > 0 {
			continue
		}
		delete(w.leaving, b.Key())
		took := w.Now().Sub(is.since)
		w.metrics.drain.Observe(took.Seconds())
		if is.wait > 0 && took > is.wait {
			w.Events.Eventf(w.svc, nil, corev1.EventTypeWarning, "SlowDrain", "Reconcile",
				"%s had connections for %s after its pod began to terminate, longer than the pod's containers wait before they stop (%s): requests may have failed; raise the annotation %s",
				b.Address, took.Round(time.Millisecond), is.wait, lb.AnnotationDrainSeconds)
		}
	}
}
