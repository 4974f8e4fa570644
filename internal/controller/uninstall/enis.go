package uninstall

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"

	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/datapath/claims"
)

// enis returns the cluster's ENIs: those with its tags, and those in specs whose tags somebody has removed. Without a cloud
// there are none.
func (u *uninstaller) enis(ctx context.Context) ([]cloud.ENI, error) {
	if u.Cloud == nil {
		return nil, nil
	}
	ctx = cloud.WithPriority(ctx, cloud.GiveBack)
	list, err := u.Cloud.DescribeENIs(ctx, cloud.ENIFilter{Tags: map[string]string{claims.TagCreator: claims.Creator, claims.TagCluster: u.Cluster}})
	if err != nil {
		return nil, fmt.Errorf("list the cluster's ENIs: %w", err)
	}
	there := map[string]bool{}
	for i := range list {
		there[list[i].ID] = true
	}
	var missing []string
	networks, err := u.nodeNetworks(ctx)
	if err != nil {
		return nil, err
	}
	for i := range networks {
		for _, e := range networks[i].Spec.ENIs {
			if e.ID != "" && !there[e.ID] {
				missing = append(missing, e.ID)
			}
		}
	}
	if len(missing) == 0 {
		return list, nil
	}
	more, err := u.Cloud.DescribeENIs(ctx, cloud.ENIFilter{IDs: missing})
	if err != nil {
		return nil, fmt.Errorf("describe ENIs %v: %w", missing, err)
	}
	return append(list, more...), nil
}

// giveBack detaches and deletes the cluster's ENIs, until two lists in a row have none.
func (u *uninstaller) giveBack(ctx context.Context) error {
	if u.Cloud == nil {
		return u.keep(ctx)
	}
	return u.repeat(ctx, "ENIs", func(ctx context.Context) (int, func() error, error) {
		left, err := u.enis(ctx)
		return len(left), func() error { return u.call(ctx, left) }, err
	})
}

// repeat gives back what the cluster has of a kind in the cloud, until two lists in a row have none. look lists it, and returns how many there
// are and the next call for them.
func (u *uninstaller) repeat(ctx context.Context, what string, look func(context.Context) (left int, give func() error, err error)) error {
	ctx = cloud.WithPriority(ctx, cloud.GiveBack)
	u.Log.Info("giving back the " + what)
	empty, there := false, 0 // what the last list has
	var last error           // since a list was empty
	for {
		wait := u.Poll
		left, give, err := look(ctx)
		if err == nil {
			there = left
		}
		switch {
		case err == nil && left == 0 && empty:
			u.Log.Info("the cloud has none of this cluster's "+what, "cluster", u.Cluster)
			return nil
		case err == nil && left == 0:
			empty, wait, last = true, u.Settle, nil
		case err == nil:
			empty = false
			err = give()
			u.Log.Info("giving back "+what, "left", left)
		}
		if err != nil {
			last = err
			if class := cloud.ClassOf(err); class == cloud.Auth || class == cloud.Invalid {
				return fmt.Errorf("give back the cluster's %s: %s", what, cloud.Explain(err))
			}
			u.Log.Warn("give back "+what+"; this is repeated", "error", err)
		}
		if ended := u.Sleep(ctx, wait); ended != nil {
			return unfinished("give back the cluster's "+what, ended, there, last)
		}
	}
}

// unfinished is the error of something that has ended before its work: what is left by the last list, and the last error, if there was one.
func unfinished(what string, ended error, left int, last error) error {
	if last == nil {
		return fmt.Errorf("%s: %w; by the cloud's last list %d are left", what, ended, left)
	}
	return fmt.Errorf("%s: %w; by the cloud's last list %d are left: %w", what, ended, left, last)
}

// keep tells which ENIs stay in the cloud: after this nothing in the cluster names them.
func (u *uninstaller) keep(ctx context.Context) error {
	networks, err := u.nodeNetworks(ctx)
	if err != nil {
		return err
	}
	for i := range networks {
		var ids []string
		for _, e := range networks[i].Spec.ENIs {
			if e.ID != "" {
				ids = append(ids, e.ID)
			}
		}
		u.Log.Warn("kept: detach and delete the ENIs in the cloud yourself", "node", networks[i].Name, "instance", networks[i].Spec.InstanceID, "enis", ids)
	}
	u.Log.Warn("kept: all of the cluster's ENIs have these tags", claims.TagCreator, claims.Creator, claims.TagCluster, u.Cluster)
	return nil
}

// call makes the next call for each ENI. One that is in between two states is left alone.
func (u *uninstaller) call(ctx context.Context, left []cloud.ENI) error {
	group := errgroup.Group{}
	group.SetLimit(u.AtOnce)
	for _, e := range left {
		group.Go(func() error {
			var err error
			switch e.Status {
			case cloud.ENIInUse:
				err = u.Cloud.DetachENI(ctx, e.ID, e.InstanceID)
			case cloud.ENIAvailable:
				err = u.Cloud.DeleteENI(ctx, e.ID)
			default:
				return nil
			}
			if _, later := cloud.Deferred(err); err != nil && !later {
				return fmt.Errorf("ENI %s, which is %s: %w", e.ID, e.Status, err)
			}
			return nil
		})
	}
	return group.Wait()
}
