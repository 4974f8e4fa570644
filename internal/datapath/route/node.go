package route

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"go4.org/netipx"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/linkkind"
	"terway.dev/terway/internal/netlinkx"
)

// ready returns the state of the node, and makes the kernel agree with the node
// first if it was never done or the node changed. AddPod calls it: a pod that
// arrives before the first Sync, or on a new ENI, need not wait for one. What AddPod was
// told of the node may be older than what the last Sync was, so nothing is removed.
func (d *Datapath) ready(ctx context.Context, h *netlink.Handle, node datapath.Node) (nodeState, error) {
	if s := d.state(); s.agrees(node) {
		return s, nil
	}
	d.nodeMu.Lock()
	defer d.nodeMu.Unlock()
	if s := d.state(); s.agrees(node) {
		return s, nil
	}
	repairs, err := d.ensureNode(ctx, h, node, false)
	for _, r := range repairs {
		d.log.Info("node prepared for pods", "repair", r)
	}
	return d.state(), err
}

// ensureNode makes the node-wide pieces agree with the node: sysctls, ENIs, their
// tables, the rules, the nftables tables; and, to prune, removes those of other ENIs. It
// goes on after an error with one ENI. The caller holds nodeMu.
func (d *Datapath) ensureNode(ctx context.Context, h *netlink.Handle, node datapath.Node, prune bool) ([]string, error) {
	var repairs []string
	var errs []error
	note := func(r []string, err error) {
		repairs = append(repairs, r...)
		if err != nil {
			errs = append(errs, err)
		}
	}

	links, err := netlinkx.List(ctx, "devices", h.LinkList)
	if err != nil {
		return nil, err
	}
	families := nodeFamilies(node)
	note(d.ensureForwarding(links, families))
	note(nil, d.readReversePath())

	routes, err := ownRoutes(ctx, h)
	if err != nil {
		return repairs, errors.Join(append(errs, err)...)
	}
	was := formerDevices(routes, d.state())
	enis, err := d.assign(node, links, routes)
	if err != nil {
		errs = append(errs, err)
	}
	for _, eni := range node.ENIs {
		if s, ok := enis[macKey(eni.MAC)]; ok {
			r, mtu, err := d.ensureDevice(h, links, eni, s)
			note(r, err)
			s.mtu = mtu
			enis[macKey(eni.MAC)] = s
		}
	}
	note(ensureTables(h, node, enis, routes, prune))
	note(ensureRules(ctx, h, families, enis, prune))
	if prune {
		note(d.releaseDevices(h, links, was, enis))
	} else {
		links = nil // no others than the ENIs are extensions' business
	}

	rs, err := newRuleset(node)
	if err != nil {
		errs = append(errs, err)
	} else {
		differs, err := d.nft.ensure(rs, d.pods.elements())
		if differs != "" {
			repairs = append(repairs, "wrote the nftables tables: "+differs)
		}
		note(nil, err)
	}

	if len(d.exts) > 0 {
		var places []ENIPlace
		for _, mac := range slices.Sorted(maps.Keys(enis)) {
			places = append(places, enis[mac].place())
		}
		for _, ext := range d.exts {
			note(ext.Sync(h, links, places))
		}
	}

	err = errors.Join(errs...)
	state := nodeState{enis: enis}
	if err == nil {
		done := node.Clone()
		state.done = &done
	}
	d.setState(state)
	return repairs, err
}

// nodeFamilies are the address families in use: IPv4 rules on a kernel without
// IPv6 must not fail for it.
func nodeFamilies(node datapath.Node) []int {
	set := map[int]bool{}
	for _, a := range node.Addresses {
		set[familyOf(a)] = true
	}
	for _, e := range node.ENIs {
		for _, g := range e.Gateways {
			set[familyOf(g)] = true
		}
	}
	return slices.Sorted(maps.Keys(set))
}

// ensureForwarding lets the node forward. Turning IPv6 forwarding on would make
// the kernel forget default routes learned from router advertisements, so
// devices that listen to them are told to go on (accept_ra 2) first.
func (d *Datapath) ensureForwarding(links []netlink.Link, families []int) ([]string, error) {
	var list []sysctl
	if slices.Contains(families, netlink.FAMILY_V4) {
		list = append(list, sysctl{"ipv4/ip_forward", "1"})
	}
	if slices.Contains(families, netlink.FAMILY_V6) {
		forward := sysctl{"ipv6/conf/all/forwarding", "1"}
		need, err := differing(d.procSys, d.ns, forward)
		if err != nil {
			return nil, err
		}
		for _, l := range links {
			if !need || linkkind.IsPodDevice(l) {
				continue
			}
			ra := "ipv6/conf/" + l.Attrs().Name + "/accept_ra"
			listens, err := differing(d.procSys, d.ns, sysctl{ra, "0"})
			if err != nil {
				return nil, err
			}
			if listens {
				list = append(list, sysctl{ra, "2"})
			}
		}
		list = append(list, forward)
	}
	return setSysctls(d.procSys, d.ns, list)
}

// ownRoutes lists the routes of our tables that we made.
func ownRoutes(ctx context.Context, h *netlink.Handle) ([]netlink.Route, error) {
	var own []netlink.Route
	for _, f := range bothFamilies {
		routes, err := netlinkx.List(ctx, familyName(f)+" routes", func() ([]netlink.Route, error) {
			return h.RouteListFiltered(f, &netlink.Route{Protocol: claims.Protocol},
				netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
		})
		if noFamily(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, r := range routes {
			if r.Table >= claims.TableLocal && r.Table <= claims.TableLocal+claims.MaxENIs {
				own = append(own, r)
			}
		}
	}
	return own, nil
}

func macKey(mac net.HardwareAddr) string { return strings.ToLower(mac.String()) }

// findDevice finds an ENI's link. A MAC may be shared with devices stacked on
// the ENI, so among several the one with the expected name, else the first that
// is no such device, is it.
func findDevice(links []netlink.Link, eni datapath.ENI) (netlink.Link, error) {
	var found netlink.Link
	for _, l := range links {
		if macKey(l.Attrs().HardwareAddr) != macKey(eni.MAC) || linkkind.IsPodDevice(l) {
			continue
		}
		if l.Attrs().Name == eni.Device {
			return l, nil
		}
		if linkkind.IsStacked(l) {
			continue
		}
		if found == nil {
			found = l
		}
	}
	if found == nil {
		return nil, fmt.Errorf("ENI %s: no device on this node has its MAC %s", eni.ID, eni.MAC)
	}
	return found, nil
}

// assign is assignSlots with what extensions have for each ENI.
func (d *Datapath) assign(node datapath.Node, links []netlink.Link, routes []netlink.Route) (map[string]eniState, error) {
	enis, err := assignSlots(node, links, routes, d.state())
	for _, ext := range d.exts {
		l, ok := ext.(Linker)
		if !ok {
			continue
		}
		for mac, s := range enis {
			if name := l.Receiver(s.place()); name != "" {
				s.receivers = append(s.receivers, name)
				enis[mac] = s
			}
		}
	}
	return enis, err
}

// assignSlots gives each ENI that has a device a slot. A slot, once given, stays
// while the ENI is there: in the process by memory, over a restart by the route
// in the slot's table. A new ENI gets one that no route is in, whosever it is. It
// returns what it could assign and an error for the rest.
func assignSlots(node datapath.Node, links []netlink.Link, routes []netlink.Route, last nodeState) (map[string]eniState, error) {
	byIndex := map[int]int{} // device index → slot
	taken, routed := map[int]bool{}, map[int]bool{}
	for _, r := range routes {
		if r.Table > claims.TableLocal && isDefault(r) && r.Type == unix.RTN_UNICAST && r.LinkIndex != 0 {
			if _, dup := byIndex[r.LinkIndex]; !dup {
				byIndex[r.LinkIndex] = r.Table - claims.TableLocal
			}
			routed[r.Table-claims.TableLocal] = true
		}
	}
	enis := map[string]eniState{}
	var errs []error
	var fresh []string
	for _, eni := range node.ENIs {
		key := macKey(eni.MAC)
		link, err := findDevice(links, eni)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		s := eniState{index: link.Attrs().Index, device: link.Attrs().Name, mac: eni.MAC, mtu: link.Attrs().MTU, gateways: eni.Gateways}
		s.slot = last.enis[key].slot
		if s.slot == 0 {
			s.slot = byIndex[s.index]
		}
		if s.slot == 0 || taken[s.slot] {
			s.slot = 0
			fresh = append(fresh, key)
		}
		taken[s.slot] = true
		enis[key] = s
	}
	delete(taken, 0)
	for _, key := range fresh {
		s := enis[key]
		for s.slot = 1; taken[s.slot] || routed[s.slot]; s.slot++ {
		}
		if s.slot > claims.MaxENIs {
			errs = append(errs, fmt.Errorf("ENI with MAC %s: all %d slots are in use", key, claims.MaxENIs))
			delete(enis, key)
			continue
		}
		taken[s.slot] = true
		enis[key] = s
	}
	return enis, errors.Join(errs...)
}

// ensureDevice brings an ENI's device up and returns the MTU it has then.
//
// The device needs no address to carry the pods' packets, but without any the
// kernel's reverse path check is strict whatever mode rp_filter asks for
// (fib_validate_source, no_addr), and "all" may be set to 1 or 2 on the node. So
// it gets the pods' next hop with scope host: never a source, never in ARP, in
// nobody's way.
func (d *Datapath) ensureDevice(h *netlink.Handle, links []netlink.Link, eni datapath.ENI, s eniState) ([]string, int, error) {
	var repairs []string
	fail := func(what string, err error) ([]string, int, error) {
		return repairs, s.mtu, fmt.Errorf("ENI %s (%s): %s: %w", eni.ID, s.device, what, err)
	}
	i := slices.IndexFunc(links, func(l netlink.Link) bool { return l.Attrs().Index == s.index })
	link := links[i]
	mtu := link.Attrs().MTU
	if eni.MTU != 0 && eni.MTU != mtu {
		if err := h.LinkSetMTU(link, eni.MTU); err != nil {
			return fail(fmt.Sprintf("set MTU %d", eni.MTU), err)
		}
		repairs = append(repairs, fmt.Sprintf("set MTU of %s from %d to %d", s.device, mtu, eni.MTU))
		mtu = eni.MTU
	}
	changed, err := setSysctls(d.procSys, d.ns, d.receiverSysctls(s.device))
	repairs = append(repairs, changed...)
	if err != nil {
		return fail("set sysctls", err)
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		if err := h.LinkSetUp(link); err != nil {
			return fail("set up", err)
		}
		repairs = append(repairs, "set "+s.device+" up")
	}
	added, err := addENIAddress(h, link)
	if added {
		repairs = append(repairs, fmt.Sprintf("added %s to %s", claims.Gateway4, s.device))
	}
	if err != nil {
		return fail("prepare", err)
	}
	return repairs, mtu, nil
}

// readReversePath notes whether the node checks the way back of what it receives on every
// device (Documentation/networking/ip-sysctl.rst: the larger of all's rp_filter and the
// device's counts).
func (d *Datapath) readReversePath() error {
	checks, err := differing(d.procSys, d.ns, sysctl{"ipv4/conf/all/rp_filter", "0"})
	if err == nil {
		d.reversePath.Store(checks)
	}
	return err
}

// reversePathSysctls are those by which a device takes pods' packets: the way back is by
// rules that the kernel's check does not know, so it must not be the strict one (1). Where
// the node has none at all, neither has the device, and it is told not to look for its own
// addresses either: with routing rules the kernel would look up a second route for each
// packet to find them, which is a tenth of what forwarding it takes. Who may send what is
// decided before, in chain source, and by the VPC.
func (d *Datapath) reversePathSysctls(device string) []sysctl {
	prefix := "ipv4/conf/" + device + "/"
	if d.reversePath.Load() {
		return []sysctl{{prefix + "rp_filter", "2"}, {prefix + "accept_local", "0"}}
	}
	return []sysctl{{prefix + "rp_filter", "0"}, {prefix + "accept_local", "1"}}
}

// receiverSysctls are those of a device that receives for pods.
func (d *Datapath) receiverSysctls(device string) []sysctl {
	prefix := "conf/" + device + "/"
	return append(d.reversePathSysctls(device), []sysctl{
		{"ipv4/" + prefix + "forwarding", "1"},
		{"ipv6/" + prefix + "accept_ra", "0"},
		// The cloud hands out the MAC, so the link-local address made from it needs
		// no detection; without it the gateway is asked for a second later.
		{"ipv6/" + prefix + "accept_dad", "0"},
	}...)
}

func addENIAddress(h *netlink.Handle, link netlink.Link) (added bool, err error) {
	err = h.AddrAdd(link, eniAddress())
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return false, fmt.Errorf("add address %s to %s: %w", claims.Gateway4, link.Attrs().Name, err)
	}
	return err == nil, nil
}

// IsENIAddress reports whether an address, in the kernel's form, is the one that every ENI's
// device gets.
func IsENIAddress(raw []byte) bool { return net.IP(raw).Equal(claims.Gateway4.AsSlice()) }

func eniAddress() *netlink.Addr {
	return &netlink.Addr{IPNet: netipx.AddrIPNet(claims.Gateway4), Scope: unix.RT_SCOPE_HOST}
}

// releaseDevices takes our address from devices that were ENIs, as our routes or
// our memory say, and are none any more, and sets them down as they were found.
func (d *Datapath) releaseDevices(h *netlink.Handle, links []netlink.Link, was map[int]bool, enis map[string]eniState) ([]string, error) {
	var repairs []string
	var errs []error
	for _, link := range links {
		index, name := link.Attrs().Index, link.Attrs().Name
		if !was[index] || isCurrent(enis, index) {
			continue
		}
		if err := h.AddrDel(link, eniAddress()); err != nil && !netlinkx.Gone(err) {
			errs = append(errs, fmt.Errorf("take %s from %s: %w", claims.Gateway4, name, err))
			continue
		}
		if err := h.LinkSetDown(link); err != nil && !netlinkx.Gone(err) {
			errs = append(errs, fmt.Errorf("set %s down: %w", name, err))
			continue
		}
		if _, err := setSysctls(d.procSys, d.ns, []sysctl{{"ipv4/conf/" + name + "/accept_local", "0"}}); err != nil {
			errs = append(errs, err)
		}
		repairs = append(repairs, fmt.Sprintf("released device %s: no ENI of this node any more", name))
	}
	return repairs, errors.Join(errs...)
}

// formerDevices are the devices that our routes and our memory call ENIs.
func formerDevices(routes []netlink.Route, last nodeState) map[int]bool {
	was := map[int]bool{}
	for _, r := range routes {
		if r.Table > claims.TableLocal && r.Type == unix.RTN_UNICAST && r.LinkIndex != 0 {
			was[r.LinkIndex] = true
		}
	}
	for _, s := range last.enis {
		was[s.index] = true
	}
	return was
}

func isCurrent(enis map[string]eniState, index int) bool {
	for _, s := range enis {
		if s.index == index {
			return true
		}
	}
	return false
}

// gatewayOf is the ENI's vSwitch gateway of a family, or the zero Addr.
func gatewayOf(eni datapath.ENI, family int) netip.Addr {
	for _, g := range eni.Gateways {
		if familyOf(g) == family {
			return g
		}
	}
	return netip.Addr{}
}
