package node

import (
	"context"
	"errors"
	"slices"

	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath/linkkind"
	"terway.dev/terway/internal/datapath/object"
	"terway.dev/terway/internal/datapath/tcfilter"
)

// Teardown removes everything from the node; only DelPod moves an ENI out of a pod. Forwarding
// stays on, and so do rp_filter and accept_ra of ENI devices: others may rely on them by now.
func (n *Node) Teardown(ctx context.Context) error {
	n.syncMu.Lock()
	defer n.syncMu.Unlock()
	h, err := n.host()
	if err != nil {
		return err
	}
	defer n.giveBack(h)
	view, err := n.look(ctx, h)
	if err != nil {
		return err
	}
	return errors.Join(n.removePods(ctx, h, view), n.teardown(ctx, h, view), n.reaper.Wait(ctx))
}

// teardown removes the node-wide objects.
func (n *Node) teardown(ctx context.Context, h *netlink.Handle, v *object.View) error {
	n.nodeMu.Lock()
	defer n.nodeMu.Unlock()
	var errs []error
	for _, f := range n.features {
		errs = append(errs, f.Teardown(h))
	}
	for _, k := range n.kinds {
		errs = append(errs, k.Teardown(h, v.Links))
	}
	errs = append(errs, tcfilter.RemoveEmpty(h, v.Links))
	last := n.state()
	n.setState(nodeState{})
	errs = append(errs, n.routing.Teardown(ctx, h, v.Links, v.Routes, last.enis), n.tables.Delete(), n.firewall.Remove())
	return errors.Join(errs...)
}

// removePods puts every pod's device out of use, whoever made it.
func (n *Node) removePods(ctx context.Context, h *netlink.Handle, v *object.View) error {
	var names []string
	for _, l := range v.Links {
		if linkkind.IsPodDevice(l) {
			names = append(names, l.Attrs().Name)
		}
	}
	slices.Sort(names)
	var errs []error
	for _, name := range names {
		turn, release := n.pods.Acquire(name)
		n.pods.Removed(turn)
		errs = append(errs, n.removeUnknown(n.site(ctx, h), v, name))
		release()
	}
	return errors.Join(errs...)
}
