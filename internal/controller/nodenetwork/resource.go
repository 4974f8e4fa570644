package nodenetwork

import (
	"context"
	"fmt"
	"slices"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/ipam"
)

// offer writes how many pods with an exclusive ENI the scheduler may assign to the node: as many as
// the planner would attach ENIs, so that no pod waits for an ENI that cannot be attached.
func (w *work) offer() {
	s := &w.nn.Spec
	used := map[string]bool{}
	for _, u := range w.nn.Status.Used {
		used[u.Address] = true
	}
	shared, held := 0, 0
	for _, e := range s.ENIs {
		switch {
		case !e.Exclusive:
			shared++
		case slices.ContainsFunc(e.Addresses, func(a v1alpha1.Address) bool { return used[a.Address] }):
			held++
		}
	}
	// The scheduler does not count these, and would assign as many pods too many.
	uncounted := min(w.nn.Status.UncountedENIs, held)
	n := ipam.ExclusiveRoom(w.maxENIs(), s.ExclusiveENIs, shared) - uncounted
	if s.ExclusiveENIs > 0 && w.mem.foreignAt.IsZero() {
		// The owners of the slots are not known yet: keep the number, or lower it.
		before := 0
		if s.OfferedENIs != nil {
			before = *s.OfferedENIs
		}
		n = min(n, before)
	}
	n = max(n, held-uncounted)
	s.OfferedENIs = &n
}

// maxENIs returns how many ENIs may serve pods.
func (w *work) maxENIs() int { return max(0, w.nn.Spec.Limits.ENIs-1-w.mem.foreign) }

// lookForForeign counts the ENIs of others where it matters: once on a node that offers ENIs, so
// that their slots are not offered, and periodically where there were some.
func (w *work) lookForForeign(ctx context.Context) error {
	m := w.mem
	if m.foreign > 0 && w.Now().Sub(m.foreignAt) >= foreignLife || w.nn.Spec.ExclusiveENIs > 0 && m.foreignAt.IsZero() {
		if err := w.countForeign(ctx); err != nil {
			return err
		}
	}
	if m.foreign > 0 {
		w.again(m.foreignAt.Add(foreignLife).Sub(w.Now()))
	}
	return nil
}

// countForeign counts the instance's ENIs that use a slot and are not ours. The primary ENI uses no
// slot for pods; members of a trunk use none, only the trunk does.
func (w *work) countForeign(ctx context.Context) error {
	all, err := w.Cloud.DescribeENIs(ctx, cloud.ENIFilter{InstanceID: w.nn.Spec.InstanceID})
	if err != nil {
		return fmt.Errorf("count the ENIs of instance %s: %w", w.nn.Spec.InstanceID, err)
	}
	n := 0
	for i := range all {
		c := &all[i]
		// An ENI with this node's tags that is not in the spec yet will be adopted.
		ours := c.Tags[claims.TagCreator] == claims.Creator && c.Tags[claims.TagCluster] == w.cluster && c.Tags[claims.TagNode] == nodeTag(w.name) ||
			slices.ContainsFunc(w.nn.Spec.ENIs, func(e v1alpha1.ENI) bool { return e.ID == c.ID })
		if c.Type != "Primary" && c.Type != "Member" && !ours {
			n++
		}
	}
	w.mem.foreign, w.mem.foreignAt = n, w.Now()
	return nil
}
