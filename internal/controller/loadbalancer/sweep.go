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

// run sweeps until ctx is done.
func (s *sweeper) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(sweepEvery):
		}
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
	clb, err := s.CLB.FindBalancers(ctx, claims.TagCluster, cluster)
	if err != nil {
		return err
	}
	nlb, err := s.NLB.FindBalancers(ctx, claims.TagCluster, cluster)
	if err != nil {
		return err
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
	for api, found := range map[cloud.BalancerAPI][]cloud.Balancer{s.CLB: clb, s.NLB: nlb} {
		for _, b := range found {
			if orphan(b.Tags) {
				s.Log.Warn("deleting the load balancer of a Service that does not exist", "id", b.ID, "service", b.Tags[TagServiceName])
				deleted[b.Tags[TagService]] = errors.Join(deleted[b.Tags[TagService]], api.DeleteBalancer(ctx, b.ID))
			}
		}
	}
	for uid, err := range deleted { // a load balancer that stays has its access list
		if err == nil {
			deleted[uid] = s.sweepAccess(ctx, uid)
		}
	}
	for _, g := range groups {
		if orphan(g.Tags) {
			// One that a listener has is of a load balancer that stays: the user's, or a Service's that said so.
			err := s.NLB.DeleteGroup(ctx, g.ID)
			if err != nil && cloud.Explain(err).Reason == "LoadBalancerPartInUse" {
				err = nil
			}
			deleted[g.Tags[TagService]] = errors.Join(deleted[g.Tags[TagService]], err)
		}
	}
	s.absent = absent
	s.release(ctx, func(uid string) bool {
		err, done := deleted[uid]
		return !absent[uid] || done && err == nil
	})
	return errors.Join(slices.Collect(maps.Values(deleted))...)
}

// sweepAccess deletes the access lists of a Service that does not exist.
func (s *sweeper) sweepAccess(ctx context.Context, uid string) error {
	vpc, err := s.inVPC(ctx)
	if err != nil {
		return err
	}
	for _, api := range []cloud.BalancerAPI{s.CLB, s.NLB} {
		lists, err := api.FindAccess(ctx, vpc, TagService, uid)
		if err != nil {
			return err
		}
		for _, l := range lists {
			if err := api.DeleteAccess(ctx, l.ID); err != nil {
				return err
			}
		}
	}
	return nil
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
