package nodenetwork

import (
	"context"
	"fmt"
	"slices"
	"time"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/cloud"
)

// Sweeper looks for differences between the cloud and all specs, with one list
// of the cluster's ENIs. It runs apart from allocation, so that neither can stop
// the other.
type Sweeper struct {
	*Reconciler
	Period time.Duration

	// orphans are ENIs that no spec knew in the last sweep.
	orphans map[string]bool
}

// NeedLeaderElection: only the leader sweeps.
func (s *Sweeper) NeedLeaderElection() bool { return true }

// Start sweeps until ctx is done.
func (s *Sweeper) Start(ctx context.Context) error {
	tick := time.NewTicker(s.Period)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		if err := s.Sweep(ctx); err != nil && ctx.Err() == nil {
			s.Log.Error("sweep", "error", err)
		}
	}
}

// Sweep compares once. A node whose ENIs differ from its spec is woken. An ENI
// that no spec has known for two sweeps and that is attached to nothing is deleted.
func (s *Sweeper) Sweep(ctx context.Context) error {
	list, err := s.Cloud.DescribeENIs(ctx, cloud.ENIFilter{Tags: s.tags("", "")})
	if err != nil {
		return fmt.Errorf("list the cluster's ENIs: %w", err)
	}
	// Read after the cloud: an ENI that was created in between is in a spec by now.
	var nns v1alpha1.NodeNetworkList
	if err := s.Live.List(ctx, &nns); err != nil {
		return fmt.Errorf("list NodeNetworks: %w", err)
	}
	specs := map[string]*v1alpha1.ENI{}
	names := map[string]bool{}
	for i := range nns.Items {
		names[nns.Items[i].Name] = true
		for j := range nns.Items[i].Spec.ENIs {
			e := &nns.Items[i].Spec.ENIs[j]
			specs[e.Token] = e
		}
	}
	seen := map[string]bool{}
	orphans := map[string]bool{}
	for i := range list {
		c := &list[i]
		node, token := c.Tags[TagNode], c.Tags[TagToken]
		seen[token] = true
		e := specs[token]
		switch {
		case e != nil && !same(e, c), e == nil && names[node]:
			s.Wake(node)
		case e == nil && c.Status == cloud.ENIAvailable:
			if !s.orphans[c.ID] {
				orphans[c.ID] = true
				continue
			}
			s.Log.Info("deleting an ENI that no node uses", "eni", c.ID, "node", node)
			if err := s.Cloud.DeleteENI(ctx, c.ID); err != nil {
				s.Log.Warn("delete an ENI that no node uses", "eni", c.ID, "error", err)
				orphans[c.ID] = true
			}
		case e == nil:
			s.Log.Warn("an ENI of this cluster is attached to an instance that is no node of it", "eni", c.ID, "instance", c.InstanceID, "node", node)
		}
	}
	s.orphans = orphans
	for i := range nns.Items {
		for _, e := range nns.Items[i].Spec.ENIs {
			if e.ID != "" && !seen[e.Token] {
				s.Wake(nns.Items[i].Name)
			}
		}
	}
	return nil
}

// same reports whether a Ready ENI has the addresses its record has; one on its
// way is looked at anyway.
func same(e *v1alpha1.ENI, c *cloud.ENI) bool {
	if e.Phase != v1alpha1.ENIReady {
		return true
	}
	if c.Status != cloud.ENIInUse || len(e.Addresses) != len(c.Addresses) {
		return false
	}
	for _, a := range e.Addresses {
		if !slices.Contains(c.Addresses, parse(a.Address)) {
			return false
		}
	}
	return true
}
