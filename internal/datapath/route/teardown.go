package route

import (
	"context"
	"errors"
	"slices"

	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath/linkkind"
	"terway.dev/terway/internal/datapath/routing"
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
	routes, err := routing.OwnRoutes(ctx, h)
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
	errs = append(errs, d.routing.Teardown(ctx, h, links, routes, last.enis), d.tables.Delete(), d.firewall.Remove(), d.reaper.wait(ctx))
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
