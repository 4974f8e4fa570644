package loadbalancer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
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
	// TagSecurityGroups has the security groups that Terway has made an NLB join, separated by commas: it leaves no others.
	TagSecurityGroups = "terway.dev/security-groups"
	// TagPreserved has the cluster's id, on a load balancer that stays when its Service goes: by it and TagVPC the addresses
	// of its backends are held.
	TagPreserved = "terway.dev/preserved"
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
	if len(w.want.SecurityGroups) > 0 {
		want.Tags[TagSecurityGroups] = strings.Join(w.want.SecurityGroups, ",")
	}
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
