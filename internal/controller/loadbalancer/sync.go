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
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/datapath/claims"
	lb "terway.dev/terway/internal/loadbalancer"
)

// Tags of the load balancers and server groups of Services, beside those that everything of Terway has.
const (
	// TagService has the Service's UID: by it a load balancer is found.
	TagService = "terway.dev/service"
	// TagVPC has the cluster's VPC: only there is the cluster's id its own, and a CLB with a public address is in none.
	TagVPC = "terway.dev/vpc"
	// TagServiceName has its namespace and name, for people.
	TagServiceName = "terway.dev/service-name"
)

// mostTag is the length of a tag's value (SLB and NLB: at most 128 characters).
const mostTag = 128

func (w *work) tags(vpc string) map[string]string {
	name := w.svc.Namespace + "/" + w.svc.Name
	t := map[string]string{}
	maps.Copy(t, w.want.Tags)
	maps.Copy(t, map[string]string{claims.TagCreator: claims.Creator, claims.TagCluster: w.Config.Get().ClusterID, TagVPC: vpc, TagService: string(w.svc.UID),
		TagServiceName: name[:min(len(name), mostTag)]})
	return t
}

// token returns the client token of an attempt to make a Service's load balancer: the same for each process, so
// that a successor gets the load balancer of which its predecessor did not see the answer.
func token(uid types.UID, attempt int) string { return fmt.Sprintf("%s-%d", uid, attempt) }

// mostAbsent is how often in a row a new load balancer may not be found until its token counts as spent.
const mostAbsent = 3

// sync makes the load balancer what the Service wants. wrong: not all that the Service says is clear, so nothing
// new is made for it.
func (w *work) sync(ctx context.Context, wrong bool) {
	if err := w.own(ctx); err != nil {
		w.fail(err)
		return
	}
	if err := w.look(ctx, wrong); err != nil {
		w.fail(err)
		return
	}
	if w.balancer == nil || w.read.IsZero() {
		return
	}
	if left := w.Resync - w.Now().Sub(w.read); left > 0 { // else it has failed, and comes with the pause after an error
		w.again(left)
	}
	if targets, err := w.targets(ctx); err != nil {
		w.fail(err)
	} else {
		w.problems(targets)
		w.backends(ctx, targets) // before anything else: pods wait for it, or leave
	}
	if !w.balancer.Ready {
		return
	}
	rest := cloud.WithPriority(ctx, cloud.Refill)
	closed := w.sources(rest)
	w.fail(closed)
	if w.want.ID == "" {
		w.fail(w.attributes(rest))
	}
	w.makeGroups(rest)
	// A listener waits until only those may connect who are wanted.
	if w.want.OwnListeners && closed == nil && (w.want.ID != "" || len(missingFrom(w.want.SecurityGroups, w.balancer.SecurityGroups)) == 0) {
		w.makeListeners(rest)
		w.fail(w.deleteAccess(rest))
	}
	w.deleteGroups(rest)
	w.publish()
	w.fail(w.status(ctx))
}

// look makes sure that what the cloud has is known, and makes the load balancer if there is none. What was read
// before serves while it cannot be read again.
func (w *work) look(ctx context.Context, wrong bool) error {
	if w.dirty || w.Now().Sub(w.read) >= w.Resync {
		err := w.refresh(ctx, wrong)
		switch {
		case err != nil && w.read.IsZero():
			return err
		case err != nil:
			w.fail(err)
		}
	}
	for _, group := range slices.Sorted(maps.Keys(w.stale)) {
		list, err := w.api.ListBackends(ctx, group)
		switch {
		case err == nil:
			w.fill(ctx, group, nonNil(list))
		case cloud.ClassOf(err) == cloud.NotFound:
			w.dirty = true
			w.fail(wrapGroup(group, err))
		default:
			w.fail(wrapGroup(group, err))
		}
	}
	return nil
}

// refresh reads what the cloud has.
func (w *work) refresh(ctx context.Context, wrong bool) error {
	if !w.read.IsZero() && !w.dirty {
		ctx = cloud.WithPriority(ctx, cloud.GiveBack)
	}
	if w.balancer == nil || w.balancer.Ready {
		if err := w.find(ctx); err != nil {
			return err
		}
	}
	if w.balancer == nil {
		w.known() // it has nothing that a predecessor may have filled
		if wrong {
			return nil
		}
		if err := w.create(ctx); err != nil || w.balancer == nil {
			return err
		}
	}
	if !w.balancer.Ready {
		now, err := w.api.DescribeBalancer(ctx, w.balancer.ID)
		if err != nil {
			if cloud.ClassOf(err) == cloud.NotFound {
				w.balancer = nil
			}
			return err
		}
		if w.balancer = now; !now.Ready {
			return w.unusable(ctx)
		}
		w.unready = time.Time{}
	}
	if err := w.readParts(ctx); err != nil {
		return err
	}
	w.read, w.dirty = w.Now(), false
	w.known()
	return nil
}

// unusable waits for a load balancer. One of the Service's own that the cloud could not make is deleted, and the next
// attempt makes another one.
func (w *work) unusable(ctx context.Context) error {
	id, state := w.balancer.ID, w.balancer.Settings["LoadBalancerStatus"]
	if state == stateFailed && w.want.ID == "" {
		if err := w.api.DeleteBalancer(ctx, id); err != nil {
			return err
		}
		w.balancer, w.unready = nil, time.Time{}
		w.attempt++
		return fmt.Errorf("load balancer %s: the cloud could not make it (%s): another one is made", id, state)
	}
	w.again(w.Poll)
	if w.unready.IsZero() {
		w.unready = w.Now()
	}
	if w.Now().Sub(w.unready) >= patience {
		return fmt.Errorf("load balancer %s is in state %s, want Active: see the console why, and correct it or delete the load balancer", id, state)
	}
	return nil
}

// stateFailed is the state of an NLB that the cloud could not make.
const stateFailed = "CreateFailed"

// patience is how long a load balancer may not be usable until an event tells of it. An NLB is made in some seconds.
const patience = time.Minute

// known notes that it is known what the groups of the Service hold.
func (w *work) known() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.knownLocked(client.ObjectKeyFromObject(w.svc))
}

// foreignTags are tags of load balancers that another manager of this or another cluster has made.
var foreignTags = []string{"kubernetes.do.not.delete", "ack.aliyun.com"}

// find finds the Service's load balancer: the user's by its id, its own by the tag.
func (w *work) find(ctx context.Context) error {
	if w.want.ID != "" {
		b, err := w.users(ctx)
		if err != nil {
			if c := cloud.ClassOf(err); errors.Is(err, errNotUsers) || c == cloud.NotFound || c == cloud.Invalid {
				w.known()
			}
			return err
		}
		w.balancer = b
		return nil
	}
	found, err := w.mine(ctx, w.api)
	if err != nil {
		return err
	}
	w.balancer = nil
	if len(found) == 0 {
		return nil
	}
	keep := max(0, slices.IndexFunc(found, func(b cloud.Balancer) bool { return published(w.svc, &b) }))
	for i := range found {
		if i != keep { // of a predecessor whose token was spent
			w.Log.Info("deleting a second load balancer", "service", client.ObjectKeyFromObject(w.svc), "id", found[i].ID, "kept", found[keep].ID)
			if err := w.api.DeleteBalancer(ctx, found[i].ID); err != nil {
				return err
			}
		}
	}
	w.balancer = &found[keep]
	return nil
}

// errNotUsers is the error of a load balancer that a Service names and that is not the user's.
var errNotUsers = errors.New("want a load balancer of your own")

// users returns the load balancer that the Service names, if it is the user's.
func (w *work) users(ctx context.Context) (*cloud.Balancer, error) {
	b, err := w.api.DescribeBalancer(ctx, w.want.ID)
	if err != nil {
		return nil, fmt.Errorf("annotation %sid: %q: %w", lb.Prefix, w.want.ID, err)
	}
	for _, t := range foreignTags {
		if b.Tags[t] != "" {
			return nil, fmt.Errorf("annotation %sid: %q: %w; another manager made this one, it has the tag %s", lb.Prefix, w.want.ID, errNotUsers, t)
		}
	}
	if b.Tags[TagService] != "" {
		return nil, fmt.Errorf("annotation %sid: %q: %w; this one is of Service %s", lb.Prefix, w.want.ID, errNotUsers, b.Tags[TagServiceName])
	}
	return b, nil
}

// mine returns the load balancers of this Service, by id.
func (w *work) mine(ctx context.Context, api cloud.BalancerAPI) ([]cloud.Balancer, error) {
	found, err := api.FindBalancers(ctx, TagService, string(w.svc.UID))
	if err != nil {
		return nil, err
	}
	found = slices.DeleteFunc(found, func(b cloud.Balancer) bool { return b.Tags[TagService] != string(w.svc.UID) })
	slices.SortFunc(found, func(a, b cloud.Balancer) int { return strings.Compare(a.ID, b.ID) })
	return found, nil
}

// create makes a load balancer.
func (w *work) create(ctx context.Context) error {
	// The cache may not know yet that the Service is gone, and a predecessor that it has cleaned up after it.
	live := &corev1.Service{}
	if err := w.Live.Get(ctx, client.ObjectKeyFromObject(w.svc), live); err != nil {
		return fmt.Errorf("read the Service: %w", err)
	}
	if live.UID != w.svc.UID || live.DeletionTimestamp != nil || !controllerutil.ContainsFinalizer(live, Finalizer) {
		w.again(w.Retry)
		return nil
	}
	vpc, err := w.inVPC(ctx)
	if err != nil {
		return err
	}
	want := cloud.NewBalancer{VPC: vpc, Tags: w.tags(vpc), SecurityGroups: w.want.SecurityGroups, Zones: zones(w.want.New.Zones), Settings: maps.Clone(w.want.Attributes)}
	if len(w.want.Zones) > 0 {
		want.Zones = zones(w.want.Zones)
	}
	if w.want.New.VSwitchID != "" {
		want.Settings["VSwitchId"] = w.want.New.VSwitchID
	}
	want.Token = token(w.svc.UID, w.attempt)
	id, err := w.api.CreateBalancer(ctx, want)
	switch x := cloud.Explain(err); {
	case err != nil && (x.Reason == "TokenSpent" || x.Reason == "TokenReused"):
		w.attempt++
		return err
	case err != nil:
		return err
	}
	b, err := w.api.DescribeBalancer(ctx, id)
	switch {
	case err != nil && cloud.ClassOf(err) == cloud.NotFound:
		if w.absent++; w.absent >= mostAbsent { // the token is of one that was deleted
			w.absent = 0
			w.attempt++
		}
		return err
	case err != nil:
		return err
	}
	w.absent, w.balancer = 0, b
	return nil
}

// zones returns the vSwitches of an NLB by zone.
func zones(list []lb.Zone) map[string]string {
	m := map[string]string{}
	for _, z := range list {
		m[z.ID] = z.VSwitch
	}
	return m
}

// inVPC returns the cluster's VPC, which does not change.
func (r *Reconciler) inVPC(ctx context.Context) (string, error) {
	r.mu.Lock()
	vpc := r.vpc
	r.mu.Unlock()
	if vpc != "" {
		return vpc, nil
	}
	vpc, err := r.VPC(ctx)
	if err != nil {
		return "", err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.vpc = vpc
	return vpc, nil
}

// readParts reads listeners, groups and backends.
func (w *work) readParts(ctx context.Context) error {
	listeners, err := w.api.ListListeners(ctx, w.balancer.ID)
	if err != nil {
		return err
	}
	groups, err := w.api.ListGroups(ctx, w.balancer.ID, TagService, string(w.svc.UID))
	if err != nil {
		return err
	}
	w.listeners, w.groups, w.extra = listeners, map[string]*cloud.Group{}, nil
	used := func(id string) bool {
		return slices.ContainsFunc(listeners, func(l cloud.Listener) bool { return l.Group == id })
	}
	count := map[string]int{}
	for _, g := range groups {
		if !lb.IsOf(w.svc.UID, g.Name) {
			continue
		}
		count[g.ID] = g.Backends
		if other := w.groups[g.Name]; other != nil {
			if used(other.ID) || !used(g.ID) {
				w.extra = append(w.extra, g.ID)
				continue
			}
			w.extra = append(w.extra, other.ID)
		}
		w.groups[g.Name] = &g
	}
	here := map[string]bool{}
	for id := range count {
		here[id] = true
	}
	for _, l := range w.want.Listeners {
		if l.GroupID != "" {
			here[l.GroupID], count[l.GroupID] = true, -1
		}
	}
	for id := range here {
		var list []cloud.Backend
		if count[id] != 0 {
			list, err = w.api.ListBackends(ctx, id)
			if err = wrapGroup(id, err); err != nil && isGone(err) && count[id] < 0 { // the user's: the other ports go on
				w.fail(err)
				w.fill(ctx, id, nil)
				w.mu.Lock()
				w.stale[id] = true
				w.mu.Unlock()
				continue
			} else if err != nil {
				return err
			}
		}
		w.fill(ctx, id, nonNil(list))
	}
	for _, id := range slices.Collect(maps.Keys(w.contents)) {
		if !here[id] {
			w.fill(ctx, id, nil)
		}
	}
	return nil
}

func wrapGroup(id string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("server group %s: %w", id, err)
}

func nonNil(list []cloud.Backend) []cloud.Backend {
	if list == nil {
		return []cloud.Backend{}
	}
	return list
}

// group returns the id of a listener's group; "" if there is none.
func (w *work) group(l lb.Listener) string {
	if l.GroupID != "" {
		return l.GroupID
	}
	if g := w.groups[lb.Name(w.svc.UID, l)]; g != nil {
		return g.ID
	}
	return ""
}

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
	limits := lb.LimitsOf(w.want.Product)
	var left []string
	for i, l := range w.want.Listeners {
		id := w.group(l)
		if id == "" {
			continue
		}
		var wanted []cloud.Backend
		for _, target := range t.Listeners[i] {
			wanted = append(wanted, target.Backend)
		}
		w.terminating(ctx, id, t.Listeners[i])
		change := lb.Changes(lb.Owner(w.svc.UID, l), w.has(l), wanted, limits)
		for _, x := range change.Left {
			left = append(left, fmt.Sprintf("listener %d: %s: %s", l.Port, x.Address, x.Why))
		}
		w.fail(w.applyChange(ctx, l, id, change))
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
