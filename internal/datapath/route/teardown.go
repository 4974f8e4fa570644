package route

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath/linkkind"
	"terway.dev/terway/internal/netlinkx"
)

// Teardown implements datapath.Datapath. Forwarding stays on and so do the rp_filter and
// accept_ra of ENI devices: others may rely on them by now.
func (d *Datapath) Teardown(ctx context.Context) error {
	d.syncMu.Lock()
	defer d.syncMu.Unlock()
	h, err := d.host()
	if err != nil {
		return err
	}
	defer h.Close()
	links, err := netlinkx.List(ctx, "devices", h.LinkList)
	if err != nil {
		return err
	}
	routes, err := ownRoutes(ctx, h)
	if err != nil {
		return err
	}
	var errs []error
	errs = append(errs, d.removePods(h, links))
	for _, ext := range d.exts {
		errs = append(errs, ext.Teardown(h, links))
	}

	d.nodeMu.Lock()
	defer d.nodeMu.Unlock()
	last := d.state()
	d.setState(nodeState{})
	rules, err := ownRules(ctx, h)
	errs = append(errs, err)
	for k := range maps.Keys(rules) {
		if err := h.RuleDel(k.rule()); err != nil && !netlinkx.Gone(err) {
			errs = append(errs, fmt.Errorf("remove %s: %w", k, err))
		}
	}
	for _, r := range routes {
		if err := h.RouteDel(&r); err != nil && !netlinkx.Gone(err) {
			errs = append(errs, fmt.Errorf("remove %s: %w", routeText(r), err))
		}
	}
	_, err = d.releaseDevices(h, links, formerDevices(routes, last), nil)
	errs = append(errs, err, d.nft.deleteTables(), d.forward.remove(d.ns, &d.nft), d.reaper.wait(ctx))
	return errors.Join(errs...)
}

// removePods takes every pod's device out of service, whoever made it.
func (d *Datapath) removePods(h *netlink.Handle, links []netlink.Link) error {
	var names []string
	for _, l := range links {
		if linkkind.IsPodDevice(l) {
			names = append(names, l.Attrs().Name)
		}
	}
	slices.Sort(names)
	var errs []error
	for _, name := range names {
		p, release := d.pods.acquire(name)
		d.pods.removed(p)
		errs = append(errs, d.retire(h, name, nil))
		release()
	}
	return errors.Join(errs...)
}
