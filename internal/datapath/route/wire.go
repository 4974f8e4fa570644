package route

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"go4.org/netipx"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/linkkind"
	"terway.dev/terway/internal/datapath/nft"
	"terway.dev/terway/internal/netlinkx"
	"terway.dev/terway/internal/sysctl"
)

// wireHost makes the host's side of a pod: the device's settings, the route to
// the pod and the pod's MAC.
func (d *Datapath) wireHost(h *netlink.Handle, w wiring, link netlink.Link) error {
	if _, err := sysctl.Set(d.procSys, d.ns, d.podSysctls(w)); err != nil {
		return fmt.Errorf("device %s: %w", w.name, err)
	}
	attrs := link.Attrs()
	if attrs.HardwareAddr.String() != w.linkMAC.String() {
		if err := h.LinkSetHardwareAddr(link, w.linkMAC); err != nil {
			return fmt.Errorf("set MAC %s of %s: %w", w.linkMAC, w.name, err)
		}
	}
	if w.mtu != 0 && attrs.MTU != w.mtu {
		if err := h.LinkSetMTU(link, w.mtu); err != nil {
			return fmt.Errorf("set MTU %d of %s: %w", w.mtu, w.name, err)
		}
	}
	if attrs.Group != w.group {
		if err := h.LinkSetGroup(link, int(w.group)); err != nil {
			return fmt.Errorf("set group %#x of %s: %w", w.group, w.name, err)
		}
	}
	// Before the device is up, and before its neighbours are written: the kernel forgets
	// them when this changes.
	if w.pair.noARP() && attrs.RawFlags&unix.IFF_NOARP == 0 {
		if err := h.LinkSetARPOff(link); err != nil {
			return fmt.Errorf("turn ARP of %s off: %w", w.name, err)
		}
	}
	if alias := w.alias(); attrs.Alias != alias {
		if err := h.LinkSetAlias(link, alias); err != nil {
			return fmt.Errorf("set alias %q of %s: %w", alias, w.name, err)
		}
	}
	if attrs.Flags&net.FlagUp == 0 {
		if err := h.LinkSetUp(link); err != nil {
			return fmt.Errorf("set %s up: %w", w.name, err)
		}
	}
	for _, a := range w.pod.Addresses {
		r := w.hostRoute(a, attrs.Index)
		if err := h.RouteReplace(r); err != nil {
			return fmt.Errorf("add route to %s dev %s src %s in table %d: %w", a, w.name, r.Src, claims.TableLocal, err)
		}
		if !w.pair.hasMAC() {
			continue
		}
		if err := h.NeighSet(neighbour(a, w.podMAC, attrs.Index)); err != nil {
			return fmt.Errorf("add neighbour %s dev %s: %w", a, w.name, err)
		}
	}
	return nil
}

// alias is for people: `ip link` shows whose device it is.
func (w wiring) alias() string {
	alias := claims.AliasPrefix + w.pod.Namespace + "/" + w.pod.Name
	if len(alias) > 255 { // IFALIASZ - 1
		alias = alias[:255]
	}
	return alias
}

// podSysctls are for the host's end of the pair alone. Without IPv6 addresses in
// the pod the device has no business with IPv6; with them it needs no address of
// its own (the pod's next hop is a permanent neighbour), so no detection of
// duplicates and no multicast on it.
func (d *Datapath) podSysctls(w wiring) []sysctl.Setting {
	v4, v6 := "ipv4/conf/"+w.name+"/", "ipv6/conf/"+w.name+"/"
	list := append(d.routing.ReversePath(w.name), sysctl.Setting{Path: v4 + "forwarding", Value: "1"})
	if !w.hasIPv6() {
		return append(list, sysctl.Setting{Path: v6 + "disable_ipv6", Value: "1"})
	}
	return append(list,
		sysctl.Setting{Path: v6 + "disable_ipv6", Value: "0"}, sysctl.Setting{Path: v6 + "addr_gen_mode", Value: "1"},
		sysctl.Setting{Path: v6 + "accept_ra", Value: "0"}, sysctl.Setting{Path: v6 + "forwarding", Value: "1"})
}

// wirePod makes the pod's side: loopback, addresses, the next hop's MAC and the
// default route.
func (d *Datapath) wirePod(ph *netlink.Handle, ns netns.NsHandle, w wiring, link netlink.Link) error {
	name := w.inner
	attrs := link.Attrs()
	if err := ph.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 1}}); err != nil {
		return fmt.Errorf("set lo of the pod up: %w", err)
	}
	if w.pod.Own != nil {
		// Answers to the node's other pods leave by the pod's ENI.
		if _, err := sysctl.Set(d.procSys, ns, []sysctl.Setting{{Path: "ipv4/conf/" + name + "/rp_filter", Value: "2"}}); err != nil {
			return fmt.Errorf("the pod's %s: %w", name, err)
		}
	}
	if w.hasIPv6() {
		// A runtime may have turned IPv6 off for new devices.
		if _, err := sysctl.Set(d.procSys, ns, []sysctl.Setting{{Path: "ipv6/conf/" + name + "/disable_ipv6", Value: "0"}}); err != nil {
			return fmt.Errorf("the pod's %s: %w", name, err)
		}
	}
	if w.mtu != 0 && attrs.MTU != w.mtu {
		if err := ph.LinkSetMTU(link, w.mtu); err != nil {
			return fmt.Errorf("set MTU %d of the pod's %s: %w", w.mtu, name, err)
		}
	}
	if attrs.HardwareAddr.String() != w.podMAC.String() {
		if err := ph.LinkSetHardwareAddr(link, w.podMAC); err != nil {
			return fmt.Errorf("set MAC %s of the pod's %s: %w", w.podMAC, name, err)
		}
	}
	if attrs.Flags&net.FlagUp == 0 {
		if err := ph.LinkSetUp(link); err != nil {
			return fmt.Errorf("set the pod's %s up: %w", name, err)
		}
	}
	for _, a := range w.pod.Addresses {
		err := ph.AddrAdd(link, podAddress(a))
		if l := d.linker(w.pod); l != nil && errors.Is(err, unix.EADDRINUSE) {
			if err = l.Vacate(w.name, a); err == nil {
				err = ph.AddrAdd(link, podAddress(a))
			}
		}
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add address %s to the pod's %s: %w", a, name, err)
		}
		if w.pair.hasMAC() {
			if err := ph.NeighSet(neighbour(claims.GatewayFor(a), w.hostMAC, attrs.Index)); err != nil {
				return fmt.Errorf("add neighbour %s to the pod's %s: %w", claims.GatewayFor(a), name, err)
			}
		}
		for _, r := range w.podRoutes(a, attrs.Index) {
			if err := ph.RouteReplace(&r); err != nil {
				return fmt.Errorf("add route to %s via %s to the pod's %s: %w", r.Dst, claims.GatewayFor(a), name, err)
			}
		}
	}
	return nil
}

// awaitActive waits for the end of the pair that came up first. It had no carrier
// then, and the kernel activates it later, from a work queue; what is sent to it
// until then is lost, and a connection's first packet with it costs a second.
// Asking for the device makes newer kernels catch up at once.
func (d *Datapath) awaitActive(ctx context.Context, h *netlink.Handle, name string, index int) error {
	return await(ctx, "device "+name+" to be active (is the other end up?)", func() (bool, error) {
		link, err := h.LinkByIndex(index)
		if err != nil {
			return false, fmt.Errorf("look at device %s: %w", name, err)
		}
		return link.Attrs().OperState == netlink.OperUp, nil
	})
}

// AwaitIPv6 waits until the pod's IPv6 addresses are its own: the kernel takes
// them into use from a work queue too, also without duplicate address detection.
func AwaitIPv6(ctx context.Context, ph *netlink.Handle, addresses []netip.Addr) error {
	for _, a := range addresses {
		if !a.Is6() {
			continue
		}
		own := &netlink.Route{Table: unix.RT_TABLE_LOCAL, Dst: netipx.AddrIPNet(a)}
		if err := await(ctx, "address "+a.String()+" to be in use in the pod", func() (bool, error) {
			routes, err := netlinkx.List(ctx, "the pod's own addresses", func() ([]netlink.Route, error) {
				return ph.RouteListFiltered(netlink.FAMILY_V6, own, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_DST)
			})
			return len(routes) > 0, err
		}); err != nil {
			return err
		}
	}
	return nil
}

// await asks until it is so, a little later each time.
func await(ctx context.Context, what string, so func() (bool, error)) error {
	for try := range activeTries {
		if ok, err := so(); ok || err != nil {
			return err
		}
		timer := time.NewTimer(time.Duration(try+1) * time.Millisecond)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("wait for %s: %w", what, context.Cause(ctx))
		}
	}
	return fmt.Errorf("waited in vain for %s", what)
}

// activeTries adds up to about two seconds.
const activeTries = 64

// podAddress is usable at once: nobody else can have it, so there is nothing to
// detect (duplicate address detection takes seconds).
func podAddress(a netip.Addr) *netlink.Addr {
	addr := &netlink.Addr{IPNet: netipx.AddrIPNet(a)}
	if a.Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	return addr
}

// retire takes a pod out of service, in the order that ends its traffic first.
// Whatever is missing is passed over; addresses may be unknown.
func (d *Datapath) retire(h *netlink.Handle, name string, addresses []netip.Addr) error {
	link, err := h.LinkByName(name)
	if err != nil && !netlinkx.Gone(err) {
		return fmt.Errorf("look up device %s: %w", name, err)
	}
	if link != nil && !linkkind.IsPodDevice(link) {
		link = nil
	}
	var errs []error
	index := 0
	if link != nil {
		index = link.Attrs().Index
	}
	for _, ext := range d.exts {
		errs = append(errs, ext.Unwire(h, index, addresses))
	}
	if link != nil {
		errs = append(errs, removeRoutes(h, link, addresses))
	}
	errs = append(errs, d.removeElements(name, addresses))
	if link != nil {
		if err := h.LinkSetGroup(link, claims.GroupDying); err != nil && !netlinkx.Gone(err) {
			errs = append(errs, fmt.Errorf("move device %s to the group of dying devices: %w", name, err))
		} else {
			d.reaper.kick()
		}
	}
	return errors.Join(errs...)
}

// removeRoutes names the device in each request: the address may already be
// another pod's, whose route must stay.
func removeRoutes(h *netlink.Handle, link netlink.Link, addresses []netip.Addr) error {
	index := link.Attrs().Index
	var errs []error
	del := func(a netip.Addr) {
		r := &netlink.Route{Family: netlinkx.Family(a), Table: claims.TableLocal, Protocol: claims.Protocol, LinkIndex: index, Dst: netipx.AddrIPNet(a)}
		if a.Is4() {
			r.Scope = unix.RT_SCOPE_LINK
		}
		if err := h.RouteDel(r); err != nil && !netlinkx.Gone(err) {
			errs = append(errs, fmt.Errorf("remove route to %s dev %s from table %d: %w", a, link.Attrs().Name, claims.TableLocal, err))
		}
	}
	for _, a := range addresses {
		del(a)
	}
	if len(addresses) > 0 {
		return errors.Join(errs...)
	}
	for _, f := range netlinkx.Families {
		routes, err := netlinkx.List(context.Background(), fmt.Sprintf("routes of table %d", claims.TableLocal), func() ([]netlink.Route, error) {
			return h.RouteListFiltered(f, &netlink.Route{Table: claims.TableLocal, LinkIndex: index}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_OIF)
		})
		if err != nil && !netlinkx.NoFamily(err) {
			return err
		}
		for _, r := range routes {
			if a := netlinkx.HostDst(r); a.IsValid() {
				del(a)
			}
		}
	}
	return errors.Join(errs...)
}

func (d *Datapath) removeElements(name string, addresses []netip.Addr) error {
	var keys []nft.Key
	for _, a := range addresses {
		keys = append(keys, nft.Key{Device: name, Addr: a})
	}
	if len(addresses) == 0 {
		elems, err := d.tables.Read()
		if err != nil {
			return err
		}
		for k := range elems {
			if k.Device == name {
				keys = append(keys, k)
			}
		}
	}
	return d.tables.Remove(keys...)
}
