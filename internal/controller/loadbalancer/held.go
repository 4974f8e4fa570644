package loadbalancer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/types"

	"terway.dev/terway/internal/cloud"
)

// Held reports whether an address is in a group, or may be: from before it is added until it was removed, or
// a read shows that it is not there. known is false until the groups of all Services were read.
func (r *Reconciler) Held(a netip.Addr) (held, known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.held[a] > 0, r.unread != nil && len(r.unread) == 0
}

// preservedKey stands for the load balancers that stayed among the Services whose groups are to be read.
var preservedKey = types.NamespacedName{Name: "load balancers that stay"}

// readPreserved reads what the load balancers have that stayed when their Services went. They are nobody's but for the tag:
// whoever takes it off, or the backends out, lets go of the addresses. One that cannot be read keeps what it had.
func (r *Reconciler) readPreserved(ctx context.Context) error {
	vpc, err := r.inVPC(ctx)
	if err != nil {
		return err
	}
	// One that is preserved meanwhile need not be among those that are found.
	r.mu.Lock()
	before := slices.Collect(maps.Keys(r.preserved))
	r.mu.Unlock()
	cluster, there := r.Config.Get().ClusterID, map[string]bool{}
	var errs []error
	for _, api := range []cloud.BalancerAPI{r.CLB, r.NLB} {
		found, err := api.FindBalancers(ctx, TagPreserved, cluster)
		if err != nil {
			return err
		}
		for _, b := range found {
			if b.Tags[TagPreserved] != cluster || b.Tags[TagVPC] != vpc {
				continue
			}
			there[b.ID] = true
			errs = append(errs, r.holdPreserved(ctx, api, b.ID))
		}
	}
	failed := errors.Join(errs...)
	r.mu.Lock()
	var free []netip.Addr
	for _, id := range before {
		if !there[id] {
			free = append(free, r.releaseLocked(r.preserved[id])...)
			delete(r.preserved, id)
		}
	}
	if failed == nil {
		r.knownLocked(preservedKey)
	}
	r.mu.Unlock()
	r.heldChanged(ctx, free)
	return failed
}

// holdPreserved holds the addresses that a load balancer that stays has as backends.
func (r *Reconciler) holdPreserved(ctx context.Context, api cloud.BalancerAPI, id string) error {
	listeners, err := api.ListListeners(ctx, id)
	if err != nil {
		return fmt.Errorf("load balancer %s, which stays: %w", id, err)
	}
	now, touched := &service{contents: map[string]map[cloud.BackendKey]cloud.Backend{}}, map[netip.Addr]bool{}
	for _, l := range listeners {
		if l.Group == "" || now.contents[l.Group] != nil {
			continue
		}
		list, err := api.ListBackends(ctx, l.Group)
		if err != nil {
			return fmt.Errorf("load balancer %s, which stays: %w", id, wrapGroup(l.Group, err))
		}
		now.contents[l.Group] = map[cloud.BackendKey]cloud.Backend{}
		for _, b := range list {
			now.contents[l.Group][b.Key()] = b
		}
	}
	r.mu.Lock()
	for _, group := range now.contents {
		for k := range group {
			r.countLocked(k.Address, 1, touched)
		}
	}
	var free []netip.Addr
	if was := r.preserved[id]; was != nil {
		free = r.releaseLocked(was)
	}
	r.preserved[id] = now
	r.mu.Unlock()
	r.heldChanged(ctx, append(slices.Collect(maps.Keys(touched)), free...))
	return nil
}

// Member is a listener of a Service with the backends that its group has.
type Member struct {
	API      cloud.BalancerAPI
	Listener cloud.Listener
	// Port is the Service's port that it is for.
	Port int32
	// Checked: the load balancer checks the backends' health.
	Checked  bool
	Backends []cloud.Backend
}

// Members returns a Service's listeners, with the backends that the cloud has for certain; known is false while
// it is not known what the load balancer has.
func (r *Reconciler) Members(svc types.NamespacedName) (members []Member, known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.services[svc]
	if s == nil || s.members == nil {
		return nil, false
	}
	for _, m := range s.members {
		for k, b := range s.contents[m.Listener.Group] {
			if !s.adding[m.Listener.Group][k] {
				m.Backends = append(m.Backends, b)
			}
		}
		members = append(members, m)
	}
	return members, true
}

// fill replaces what is known of a group; backends nil: the group is gone.
func (w *work) fill(ctx context.Context, group string, backends []cloud.Backend) {
	w.mu.Lock()
	touched := map[netip.Addr]bool{}
	for k := range w.contents[group] {
		w.countLocked(k.Address, -1, touched)
	}
	delete(w.contents, group)
	delete(w.stale, group)
	delete(w.adding, group)
	if backends != nil {
		now := map[cloud.BackendKey]cloud.Backend{}
		for _, b := range backends {
			now[b.Key()] = b
		}
		for k := range now {
			w.countLocked(k.Address, 1, touched)
		}
		w.contents[group] = now
	}
	w.mu.Unlock()
	w.heldChanged(ctx, slices.Collect(maps.Keys(touched)))
}

// put adds backends to what is known of a group, or changes them.
func (w *work) put(ctx context.Context, group string, list []cloud.Backend) {
	w.mu.Lock()
	touched := map[netip.Addr]bool{}
	if w.contents[group] == nil {
		w.contents[group] = map[cloud.BackendKey]cloud.Backend{}
	}
	for _, b := range list {
		if _, in := w.contents[group][b.Key()]; !in {
			w.countLocked(b.Key().Address, 1, touched)
		}
		w.contents[group][b.Key()] = b
	}
	w.mu.Unlock()
	w.heldChanged(ctx, slices.Collect(maps.Keys(touched)))
}

// add adds backends to a group in the cloud. They are known, as ones that may be there, before the call.
func (w *work) add(ctx context.Context, group string, list []cloud.Backend) error {
	w.mu.Lock()
	if w.adding[group] == nil {
		w.adding[group] = map[cloud.BackendKey]bool{}
	}
	for _, b := range list {
		w.adding[group][b.Key()] = true
	}
	w.mu.Unlock()
	w.put(ctx, group, list)
	if err := w.api.AddBackends(ctx, group, list); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, b := range list {
		delete(w.adding[group], b.Key())
	}
	return nil
}

// drop removes backends from what is known of a group.
func (w *work) drop(ctx context.Context, group string, list []cloud.Backend) {
	w.mu.Lock()
	touched := map[netip.Addr]bool{}
	for _, b := range list {
		if _, in := w.contents[group][b.Key()]; in {
			delete(w.contents[group], b.Key())
			w.countLocked(b.Key().Address, -1, touched)
		}
	}
	w.mu.Unlock()
	w.heldChanged(ctx, slices.Collect(maps.Keys(touched)))
}

// countLocked changes in how many groups an address is. touched gets those that are held now and were not, or
// the other way round.
func (r *Reconciler) countLocked(a netip.Addr, by int, touched map[netip.Addr]bool) {
	if !a.IsValid() {
		return // an instance
	}
	before := r.held[a]
	if r.held[a] = before + by; r.held[a] == 0 {
		delete(r.held, a)
	}
	if before == 0 || before+by == 0 {
		touched[a] = true
	}
}

// releaseLocked forgets the groups of a Service, and returns the addresses that are in no group any more.
func (r *Reconciler) releaseLocked(s *service) []netip.Addr {
	touched := map[netip.Addr]bool{}
	for _, group := range s.contents {
		for k := range group {
			r.countLocked(k.Address, -1, touched)
		}
	}
	clear(s.contents)
	return slices.Collect(maps.Keys(touched))
}

func (r *Reconciler) heldChanged(ctx context.Context, addresses []netip.Addr) {
	if len(addresses) > 0 && r.HeldChanged != nil {
		r.HeldChanged(ctx, addresses)
	}
}
