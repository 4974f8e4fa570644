package nodenetwork

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/pages"
)

// Sweeper finds differences between the cloud and all specs, with one list of the cluster's ENIs.
// It runs independently of allocation, so that neither can block the other.
type Sweeper struct {
	*Reconciler
	Period time.Duration
	// Age is how long an ENI that is in no spec is left alone.
	Age time.Duration

	// orphans are ENIs that were in no spec at the last sweep, with the time since when.
	orphans map[string]time.Time
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

// Sweep compares once. It wakes a node whose ENIs differ from its spec. It deletes an ENI that was
// in no spec for two sweeps and for Age, and that is not attached. An orphan that is attached to an
// instance that is no node is left alone and reported: somebody may be using that instance.
func (s *Sweeper) Sweep(ctx context.Context) error {
	now := s.Now()
	ctx = cloud.WithPriority(ctx, cloud.GiveBack)
	list, err := s.Cloud.DescribeENIs(ctx, cloud.ENIFilter{Tags: s.tags("", "")})
	if err != nil {
		return fmt.Errorf("list the cluster's ENIs: %w", err)
	}
	// The cache is good enough to wake nodes and to find orphans; before an ENI is deleted, the API
	// server's own list is read.
	var nns v1alpha1.NodeNetworkList
	if err := s.Client.List(ctx, &nns, client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("list NodeNetworks: %w", err)
	}
	specs := map[string]*v1alpha1.ENI{} // by id, and by token while there is no id
	names := map[string]string{}        // of nodes, by their tag
	for i := range nns.Items {
		names[nodeTag(nns.Items[i].Name)] = nns.Items[i].Name
		for j := range nns.Items[i].Spec.ENIs {
			e := &nns.Items[i].Spec.ENIs[j]
			if e.ID == "" {
				specs[e.Token] = e
			} else {
				specs[e.ID] = e
			}
		}
	}
	there := map[string]bool{}
	wake := map[string]bool{}
	orphans := map[string]time.Time{}
	var condemned []*cloud.ENI
	attached := 0
	for i := range list {
		c := &list[i]
		node, known := names[c.Tags[claims.TagNode]]
		token := c.Tags[claims.TagToken]
		there[c.ID] = true
		e := specs[c.ID]
		switch {
		case e == nil && specs[token] != nil && token != "": // being created
		case e != nil:
			if !same(e, c) {
				wake[node] = true
			}
		case known && c.Status != cloud.ENIDeleting:
			wake[node] = true // its reconcile adopts it
		case c.Status == cloud.ENIAvailable:
			first, before := s.orphans[c.ID]
			if !before {
				first = now
			}
			if !before || now.Sub(first) < s.Age {
				orphans[c.ID] = first
				continue
			}
			orphans[c.ID] = first
			condemned = append(condemned, c)
		case c.Status == cloud.ENIInUse:
			attached++
			s.Log.Warn("an ENI of this cluster is attached to an instance that is not a node of the cluster; detach it, or delete the instance",
				"eni", c.ID, "instance", c.InstanceID, "node", c.Tags[claims.TagNode])
		}
	}
	if err := s.delete(ctx, condemned, orphans); err != nil {
		return err
	}
	s.orphans = orphans
	s.metrics.orphans.WithLabelValues(orphanAvailable).Set(float64(len(orphans)))
	s.metrics.orphans.WithLabelValues(orphanAttached).Set(float64(attached))
	for i := range nns.Items {
		for _, e := range nns.Items[i].Spec.ENIs {
			if e.ID != "" && !there[e.ID] {
				wake[nns.Items[i].Name] = true
			}
		}
	}
	delete(wake, "") // from an ENI whose tag names no node
	for node := range wake {
		s.Wake(node)
	}
	return nil
}

// delete deletes ENIs that no spec has according to the API server either. Deleted ENIs are no
// longer orphans.
func (s *Sweeper) delete(ctx context.Context, condemned []*cloud.ENI, orphans map[string]time.Time) error {
	if len(condemned) == 0 {
		return nil
	}
	has := map[string]bool{}
	for nns, err := range pages.Of(ctx, s.Live, &v1alpha1.NodeNetworkList{}) {
		if err != nil {
			return fmt.Errorf("list NodeNetworks: %w", err)
		}
		for i := range nns.Items {
			has[nodeTag(nns.Items[i].Name)] = true
			for _, e := range nns.Items[i].Spec.ENIs {
				has[e.ID], has[e.Token] = true, true
			}
		}
	}
	has[""] = false
	for _, c := range condemned {
		if has[c.ID] || has[c.Tags[claims.TagToken]] || has[c.Tags[claims.TagNode]] {
			continue
		}
		s.Log.Info("deleting an ENI that no node uses", "eni", c.ID, "node", c.Tags[claims.TagNode])
		err := s.Cloud.DeleteENI(ctx, c.ID)
		s.metrics.did("sweep", err)
		if err != nil {
			s.Log.Warn("delete an ENI that no node uses", "eni", c.ID, "error", err)
			continue
		}
		delete(orphans, c.ID)
	}
	return nil
}

// same reports whether a Ready ENI has the addresses in its record; an ENI in another phase is
// checked anyway.
func same(e *v1alpha1.ENI, c *cloud.ENI) bool {
	if e.Phase != v1alpha1.ENIReady {
		return true
	}
	if c.Status != cloud.ENIInUse || len(e.Addresses) != len(c.Addresses) {
		return false
	}
	return !slices.ContainsFunc(c.Addresses, func(a netip.Addr) bool { return !has(e, a) })
}
