package uninstall

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/controller/nodeinfo"
	"terway.dev/terway/internal/controller/podroute"
	"terway.dev/terway/internal/controller/podroute/entries"
	"terway.dev/terway/internal/pages"
)

// flannelAgents is the DaemonSet of flanneld in the chart.
const flannelAgents = "kube-flannel"

// Flannel is what an uninstallation needs where pods have addresses of a pod CIDR.
type Flannel struct {
	// Cloud is nil to keep the route entries. Options.Cloud is not used: there are no ENIs.
	Cloud podroute.Cloud
	// PodCIDR is the range of the pods.
	PodCIDR netip.Prefix
}

// RunFlannel uninstalls where pods have addresses of a pod CIDR. It differs from Run in who uses the network, in what is on the nodes, and
// in what is given back: the VPC's route entries.
func RunFlannel(ctx context.Context, o Options, f Flannel) error {
	o.Cloud = nil
	u := &uninstaller{Options: o, set: flannelAgents, podCIDR: f.PodCIDR}
	found, err := u.look(ctx)
	if err != nil {
		return err
	}
	use, err := u.podsIn(ctx, f.PodCIDR)
	if err != nil {
		return err
	}
	var tables []string
	if f.Cloud != nil { // what the cloud refuses ends it before anything is changed
		if tables, err = u.routeTables(ctx, f, found.nodes); err != nil {
			return err
		}
		if _, err := u.routes(ctx, f, tables); err != nil {
			return err
		}
	}
	return u.run(ctx, found.targets(), append(use, found.inUse()...), func(ctx context.Context) error {
		if f.Cloud == nil {
			u.Log.Warn("kept: delete the route entries in the VPC yourself", "name", podroute.Mark(u.Cluster), "in", f.PodCIDR)
			return nil
		}
		return u.giveBackRoutes(ctx, f, tables)
	})
}

// podsIn returns a line for each pod that has an address of the range.
func (u *uninstaller) podsIn(ctx context.Context, podCIDR netip.Prefix) (lines []string, err error) {
	for list, err := range pages.Of(ctx, u.Client, &corev1.PodList{}) {
		if err != nil {
			return nil, fmt.Errorf("list pods: %w", err)
		}
		for i := range list.Items {
			p := &list.Items[i]
			a, err := netip.ParseAddr(p.Status.PodIP)
			if err == nil && podCIDR.Contains(a) && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
				lines = append(lines, fmt.Sprintf("pod %s/%s on node %s has address %s", p.Namespace, p.Name, p.Spec.NodeName, a))
			}
		}
	}
	return lines, nil
}

// routeTables returns the route tables of the VPCs in which the nodes' instances are.
func (u *uninstaller) routeTables(ctx context.Context, f Flannel, nodes []corev1.Node) (tables []string, err error) {
	ctx = cloud.WithPriority(ctx, cloud.GiveBack)
	var ids []string
	for i := range nodes {
		if id, err := nodeinfo.InstanceID(nodes[i].Spec.ProviderID); err == nil {
			ids = append(ids, id)
		}
	}
	vpcs := map[string]bool{}
	instances, err := f.Cloud.DescribeInstances(ctx, ids)
	if err != nil {
		return nil, fmt.Errorf("describe the nodes' instances: %w", err)
	}
	for i := range instances {
		vpcs[instances[i].VPCID] = true
	}
	if len(vpcs) == 0 {
		return nil, fmt.Errorf("no Node has an instance that exists, so it is not known in which VPC the route entries are: delete those with the name %s, and uninstall without the cloud (value uninstall.withoutCloud of the chart)", podroute.Mark(u.Cluster))
	}
	for vpc := range vpcs {
		list, err := f.Cloud.DescribeRouteTables(ctx, vpc)
		if err != nil {
			return nil, fmt.Errorf("list the route tables of VPC %s: %w", vpc, err)
		}
		for _, t := range list {
			tables = append(tables, t.ID)
		}
	}
	slices.Sort(tables)
	return tables, nil
}

// routes returns the cluster's entries, by table.
func (u *uninstaller) routes(ctx context.Context, f Flannel, tables []string) (map[string][]cloud.RouteEntry, error) {
	ctx = cloud.WithPriority(ctx, cloud.GiveBack)
	ours := map[string][]cloud.RouteEntry{}
	for _, id := range tables {
		list, err := f.Cloud.DescribeRouteEntries(ctx, id)
		if err != nil {
			return nil, fmt.Errorf("read route table %s: %w", id, err)
		}
		for _, e := range list {
			if e.Custom && e.Name == podroute.Mark(u.Cluster) && entries.Inside(f.PodCIDR, e.Destination) {
				ours[id] = append(ours[id], e)
			}
		}
	}
	return ours, nil
}

// giveBackRoutes deletes the cluster's route entries, until two lists in a row have none.
func (u *uninstaller) giveBackRoutes(ctx context.Context, f Flannel, tables []string) error {
	return u.repeat(ctx, "route entries", func(ctx context.Context) (int, func() error, error) {
		left, err := u.routes(ctx, f, tables)
		n := 0
		for _, list := range left {
			n += len(list)
		}
		return n, func() error { return deleteRoutes(ctx, f.Cloud, left) }, err
	})
}

// deleteRoutes makes one call: a VPC makes one change at a time. While an entry is being changed it makes none.
func deleteRoutes(ctx context.Context, api cloud.RouteAPI, left map[string][]cloud.RouteEntry) error {
	var table string
	for id, list := range left {
		for _, e := range list {
			if e.Status != cloud.RouteAvailable && e.Status != cloud.RouteCreated {
				return nil
			}
		}
		if table == "" || id < table {
			table = id
		}
	}
	failures, err := api.DeleteRouteEntries(ctx, table, left[table][:min(len(left[table]), cloud.MaxRouteEntriesPerCall)])
	for _, failed := range failures {
		err = errors.Join(err, fmt.Errorf("route entry %s of table %s: %w", failed.Destination, table, failed.Err))
	}
	return err
}
