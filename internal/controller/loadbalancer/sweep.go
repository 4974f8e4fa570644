package loadbalancer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/datapath/claims"
)

// sweepEvery is the pause between two sweeps.
const sweepEvery = 10 * time.Minute

// sweeper deletes what carries the cluster's tag and that of a Service that does not exist: somebody has removed the
// Service's finalizer by force. The API server's answers, not a cache's, must say so in two sweeps in a row.
type sweeper struct {
	*Reconciler
	// absent are the UIDs of Services that did not exist in the last sweep.
	absent map[string]bool
}

// run sweeps until ctx is done. What stayed of Services that are gone is read at once, for until then it is not known which
// addresses are held.
func (s *sweeper) run(ctx context.Context) error {
	pause, due := time.Duration(0), s.Now().Add(sweepEvery)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		pause = sweepEvery
		if err := s.readPreserved(cloud.WithPriority(ctx, cloud.Refill)); err != nil && ctx.Err() == nil {
			s.Log.Warn("read the backends of load balancers that stayed when their Services went", "error", err)
			pause = s.Park
		}
		if s.Now().Before(due) {
			continue
		}
		due = s.Now().Add(sweepEvery)
		if err := s.sweep(cloud.WithPriority(ctx, cloud.GiveBack)); err != nil && ctx.Err() == nil {
			s.Log.Warn("look for load balancers of Services that do not exist", "error", err)
		}
	}
}

func (s *sweeper) sweep(ctx context.Context) error {
	cluster := s.Config.Get().ClusterID
	vpc, err := s.inVPC(ctx)
	if err != nil {
		return err
	}
	apis := []cloud.BalancerAPI{s.CLB, s.NLB}
	balancers, lists := map[cloud.BalancerAPI][]cloud.Balancer{}, map[cloud.BalancerAPI][]cloud.AccessList{}
	for _, api := range apis {
		if balancers[api], err = api.FindBalancers(ctx, claims.TagCluster, cluster); err != nil {
			return err
		}
		if lists[api], err = api.FindAccess(ctx, vpc, claims.TagCluster, cluster); err != nil {
			return err
		}
	}
	groups, err := s.NLB.ListGroups(ctx, "", claims.TagCluster, cluster)
	if err != nil {
		return err
	}
	// After the cloud: what is made meanwhile is of a Service that is there.
	var services corev1.ServiceList
	if err := s.Live.List(ctx, &services); err != nil {
		return fmt.Errorf("list Services: %w", err)
	}
	there := map[string]bool{}
	for i := range services.Items {
		there[string(services.Items[i].UID)] = true
	}
	was, absent := s.absent, map[string]bool{}
	orphan := func(tags map[string]string) bool {
		uid := tags[TagService]
		if uid == "" || there[uid] || tags[claims.TagCreator] != claims.Creator || tags[claims.TagCluster] != cluster || tags[TagVPC] != vpc {
			return false
		}
		absent[uid] = true
		return was[uid]
	}
	deleted := map[string]error{}
	done := func(tags map[string]string, err error) {
		deleted[tags[TagService]] = errors.Join(deleted[tags[TagService]], err)
	}
	// What a load balancer has is of one that stays: the user's, or a Service's that said so.
	unused := func(err error) error {
		switch cloud.Explain(err).Reason {
		case "LoadBalancerPartInUse", "StillInUse":
			return nil
		}
		return err
	}
	for _, api := range apis {
		for _, b := range balancers[api] {
			if orphan(b.Tags) {
				s.Log.Warn("deleting the load balancer of a Service that does not exist", "id", b.ID, "service", b.Tags[TagServiceName])
				done(b.Tags, api.DeleteBalancer(ctx, b.ID))
			}
		}
		for _, l := range lists[api] {
			if orphan(l.Tags) && deleted[l.Tags[TagService]] == nil {
				done(l.Tags, unused(api.DeleteAccess(ctx, l.ID)))
			}
		}
	}
	for _, g := range groups {
		if orphan(g.Tags) {
			done(g.Tags, unused(s.NLB.DeleteGroup(ctx, g.ID)))
		}
	}
	s.absent = absent
	s.release(ctx, func(uid string) bool {
		err, done := deleted[uid]
		return !absent[uid] || done && err == nil
	})
	return errors.Join(slices.Collect(maps.Values(deleted))...)
}

// release frees the addresses of the Services that are gone and of which the cloud has nothing any more.
func (s *sweeper) release(ctx context.Context, clean func(uid string) bool) {
	var free []netip.Addr
	s.mu.Lock()
	for uid, orphan := range s.orphans {
		if clean(string(uid)) {
			free = append(free, s.releaseLocked(orphan)...)
			delete(s.orphans, uid)
		}
	}
	s.mu.Unlock()
	s.heldChanged(ctx, free)
}
