package routing

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"go4.org/netipx"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/linkkind"
	"terway.dev/terway/internal/netlinkx"
	"terway.dev/terway/internal/sysctl"
)

// ENI is an attached ENI on the node.
type ENI struct {
	// Slot is the number of its table and mark, from 1.
	Slot   int
	Index  int
	Device string
	MAC    net.HardwareAddr
	// MTU of its device, in bytes.
	MTU int
	// Receivers are devices, beside its own, by which the host stack receives packets for its pods.
	Receivers []string
	// Gateways are the vSwitch's.
	Gateways []netip.Addr
}

// Node is the network namespace of a node. The caller serialises calls, except ReversePath and
// EnsureReceiver.
type Node struct {
	ns      netns.NsHandle
	procSys string
	// reversePath: the node has a reverse path check on every device; see readReversePath.
	reversePath atomic.Bool
}

// New returns the routing of a namespace, which the caller keeps open; procSys is where sysctls
// are.
func New(ns netns.NsHandle, procSys string) *Node { return &Node{ns: ns, procSys: procSys} }

// Seen is the state that Ensure found.
type Seen struct {
	// Links are all links of the node.
	Links []netlink.Link
	// ENIs are the existing ones, by Key.
	ENIs map[string]ENI
	// Repairs has one line for each repair.
	Repairs []string
}

// Ensure makes the node-wide objects agree with the desired node: sysctls, ENIs, their tables and
// the rules; with prune it also removes those of other ENIs. last are the ENIs that this process
// saw last. receivers returns the devices, beside an ENI's own, by which packets for its pods
// arrive. It continues after an error with one ENI.
func (n *Node) Ensure(ctx context.Context, h *netlink.Handle, node datapath.Node, last map[string]ENI, receivers func(ENI) []string, prune bool) (seen Seen, err error) {
	var errs []error
	note := func(r []string, err error) {
		seen.Repairs = append(seen.Repairs, r...)
		errs = append(errs, err)
	}
	if seen.Links, err = netlinkx.List(ctx, "devices", h.LinkList); err != nil {
		return seen, err
	}
	families := node.Families()
	note(n.ensureForwarding(seen.Links, families))
	note(nil, n.readReversePath())
	routes, err := OwnRoutes(ctx, h)
	if err != nil {
		return seen, errors.Join(append(errs, err)...)
	}
	was := formerDevices(routes, last)
	seen.ENIs, err = Assign(node, seen.Links, routes, last, receivers)
	note(nil, err)
	for _, eni := range node.ENIs {
		if s, ok := seen.ENIs[Key(eni.MAC)]; ok {
			r, mtu, err := n.ensureDevice(h, seen.Links, eni, s)
			note(r, err)
			s.MTU = mtu
			seen.ENIs[Key(eni.MAC)] = s
		}
	}
	note(ensureTables(h, node, seen.ENIs, routes, prune))
	note(ensureRules(ctx, h, families, seen.ENIs, prune))
	if prune {
		note(n.releaseDevices(h, seen.Links, was, seen.ENIs))
	}
	return seen, errors.Join(errs...)
}

// Problem names the first missing node-wide object that a pod of the ENI with this MAC needs, or
// "". byIndex are the node's links, routes the result of OwnRoutes.
func Problem(ctx context.Context, h *netlink.Handle, node datapath.Node, enis map[string]ENI, byIndex map[int]netlink.Link, routes []netlink.Route, mac string) (string, error) {
	s, shared := enis[mac]
	if link := byIndex[s.Index]; shared && (link == nil || link.Attrs().Flags&net.FlagUp == 0) {
		return fmt.Sprintf("ENI device %s is down", s.Device), nil
	}
	for _, eni := range node.ENIs {
		if Key(eni.MAC) != mac {
			continue
		}
		for _, want := range eniRoutes(eni, s) {
			if !slices.ContainsFunc(routes, func(r netlink.Route) bool { return sameRoute(r, want) }) {
				return RouteText(want) + " is missing", nil
			}
		}
	}
	rules, err := ownRules(ctx, h)
	if err != nil {
		return "", err
	}
	for _, k := range wantedRules(node.Families(), enis) {
		if !rules[k] {
			return k.String() + " is missing", nil
		}
	}
	return "", nil
}

// Teardown removes rules, routes (the result of OwnRoutes), and what was added to the ENIs'
// devices. Forwarding stays on, and so do rp_filter and accept_ra of ENI devices: others may rely
// on them by now.
func (n *Node) Teardown(ctx context.Context, h *netlink.Handle, links []netlink.Link, routes []netlink.Route, last map[string]ENI) error {
	rules, err := ownRules(ctx, h)
	_, rulesErr := changeRules(h, nil, slices.Collect(maps.Keys(rules)))
	_, routesErr := changeRoutes(h, nil, routes)
	_, devicesErr := n.releaseDevices(h, links, formerDevices(routes, last), nil)
	return errors.Join(err, rulesErr, routesErr, devicesErr)
}

// ensureForwarding turns forwarding on. With IPv6 forwarding the kernel would drop default routes
// learned from router advertisements, so devices that accept these get accept_ra 2 first.
func (n *Node) ensureForwarding(links []netlink.Link, families []int) ([]string, error) {
	var list []sysctl.Setting
	if slices.Contains(families, netlink.FAMILY_V4) {
		list = append(list, sysctl.Setting{Path: "ipv4/ip_forward", Value: "1"})
	}
	if slices.Contains(families, netlink.FAMILY_V6) {
		forward := sysctl.Setting{Path: "ipv6/conf/all/forwarding", Value: "1"}
		need, err := sysctl.Differs(n.procSys, n.ns, forward)
		if err != nil {
			return nil, err
		}
		for _, l := range links {
			if !need || linkkind.IsPodDevice(l) {
				continue
			}
			ra := "ipv6/conf/" + l.Attrs().Name + "/accept_ra"
			listens, err := sysctl.Differs(n.procSys, n.ns, sysctl.Setting{Path: ra, Value: "0"})
			if err != nil {
				return nil, err
			}
			if listens {
				list = append(list, sysctl.Setting{Path: ra, Value: "2"})
			}
		}
		list = append(list, forward)
	}
	return sysctl.Set(n.procSys, n.ns, list)
}

// OwnRoutes lists Terway's routes in Terway's tables.
func OwnRoutes(ctx context.Context, h *netlink.Handle) ([]netlink.Route, error) {
	var own []netlink.Route
	for _, f := range netlinkx.Families {
		routes, err := netlinkx.List(ctx, netlinkx.FamilyName(f)+" routes", func() ([]netlink.Route, error) {
			return h.RouteListFiltered(f, &netlink.Route{Protocol: claims.Protocol},
				netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
		})
		if netlinkx.NoFamily(err) {
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

// PodAddresses returns the addresses that the table of local pods routes to a device.
func PodAddresses(ctx context.Context, h *netlink.Handle, index int) (list []netip.Addr, err error) {
	for _, f := range netlinkx.Families {
		routes, err := netlinkx.List(ctx, fmt.Sprintf("routes of table %d", claims.TableLocal), func() ([]netlink.Route, error) {
			return h.RouteListFiltered(f, &netlink.Route{Table: claims.TableLocal, LinkIndex: index}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_OIF)
		})
		if err != nil && !netlinkx.NoFamily(err) {
			return nil, err
		}
		for _, r := range routes {
			if a := netlinkx.HostDst(r); a.IsValid() {
				list = append(list, a)
			}
		}
	}
	return list, nil
}

// Key is the key of an ENI in maps: the MAC in lower case.
func Key(mac net.HardwareAddr) string { return mac.String() }

// KeyOf is Key of a MAC as text.
func KeyOf(mac string) string { return strings.ToLower(mac) }

// findDevice finds an ENI's link. Devices stacked on the ENI may have its MAC too, so among several
// the one with the expected name wins, otherwise the first unstacked device.
func findDevice(links []netlink.Link, eni datapath.ENI) (netlink.Link, error) {
	var found netlink.Link
	for _, l := range links {
		if Key(l.Attrs().HardwareAddr) != Key(eni.MAC) || linkkind.IsPodDevice(l) {
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

// Assign finds the ENIs' devices and gives each ENI a slot.
func Assign(node datapath.Node, links []netlink.Link, routes []netlink.Route, last map[string]ENI, receivers func(ENI) []string) (map[string]ENI, error) {
	enis, err := assignSlots(node, links, routes, last)
	for mac, s := range enis {
		s.Receivers = receivers(s)
		enis[mac] = s
	}
	return enis, err
}

// assignSlots gives each ENI that has a device a slot. A slot stays while the ENI is there: within
// the process by memory, over a restart by the route in the slot's table. A new ENI gets a slot
// whose table has no route of anybody. It returns what it could assign and an error for the rest.
func assignSlots(node datapath.Node, links []netlink.Link, routes []netlink.Route, last map[string]ENI) (map[string]ENI, error) {
	byIndex := map[int]int{} // device index → slot
	taken, routed := map[int]bool{}, map[int]bool{}
	for _, r := range routes {
		if r.Table > claims.TableLocal && netlinkx.IsDefault(r) && r.Type == unix.RTN_UNICAST && r.LinkIndex != 0 {
			if _, dup := byIndex[r.LinkIndex]; !dup {
				byIndex[r.LinkIndex] = r.Table - claims.TableLocal
			}
			routed[r.Table-claims.TableLocal] = true
		}
	}
	enis := map[string]ENI{}
	var errs []error
	var fresh []string
	for _, eni := range node.ENIs {
		key := Key(eni.MAC)
		link, err := findDevice(links, eni)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		s := ENI{Index: link.Attrs().Index, Device: link.Attrs().Name, MAC: eni.MAC, MTU: link.Attrs().MTU, Gateways: eni.Gateways}
		s.Slot = last[key].Slot
		if s.Slot == 0 {
			s.Slot = byIndex[s.Index]
		}
		if s.Slot == 0 || taken[s.Slot] {
			s.Slot = 0
			fresh = append(fresh, key)
		}
		taken[s.Slot] = true
		enis[key] = s
	}
	delete(taken, 0)
	for _, key := range fresh {
		s := enis[key]
		for s.Slot = 1; taken[s.Slot] || routed[s.Slot]; s.Slot++ {
		}
		if s.Slot > claims.MaxENIs {
			errs = append(errs, fmt.Errorf("ENI with MAC %s: all %d slots are in use", key, claims.MaxENIs))
			delete(enis, key)
			continue
		}
		taken[s.Slot] = true
		enis[key] = s
	}
	return enis, errors.Join(errs...)
}

// ensureDevice brings an ENI's device up and returns the MTU it has then.
func (n *Node) ensureDevice(h *netlink.Handle, links []netlink.Link, eni datapath.ENI, s ENI) (repairs []string, mtu int, err error) {
	link := links[slices.IndexFunc(links, func(l netlink.Link) bool { return l.Attrs().Index == s.Index })]
	mtu = link.Attrs().MTU
	if eni.MTU != 0 && eni.MTU != mtu {
		if err := h.LinkSetMTU(link, eni.MTU); err != nil {
			return nil, s.MTU, fmt.Errorf("ENI %s (%s): set MTU %d: %w", eni.ID, s.Device, eni.MTU, err)
		}
		repairs = append(repairs, fmt.Sprintf("set MTU of %s from %d to %d", s.Device, mtu, eni.MTU))
		mtu = eni.MTU
	}
	more, err := n.receive(h, link)
	if err != nil {
		err = fmt.Errorf("ENI %s: %w", eni.ID, err)
	}
	return append(repairs, more...), mtu, err
}

// EnsureReceiver configures a device beside an ENI's own so that the host stack can receive by it.
func (n *Node) EnsureReceiver(h *netlink.Handle, link netlink.Link) ([]string, error) {
	// It has the ENI's MAC, and must not derive the ENI's own link-local address from it.
	return n.receive(h, link, sysctl.Setting{Path: "ipv6/conf/" + link.Attrs().Name + "/addr_gen_mode", Value: "1"})
}

// receive sets a device up that receives for pods, with more settings before it is up.
//
// The device needs no address to carry the pods' packets, but without any address the kernel's
// reverse path check is strict whatever rp_filter says (fib_validate_source, no_addr), and "all"
// may be set to 1 or 2 on the node. So it gets the pods' next hop with scope host, which is never a
// source and never in ARP.
func (n *Node) receive(h *netlink.Handle, link netlink.Link, more ...sysctl.Setting) ([]string, error) {
	name := link.Attrs().Name
	repairs, err := sysctl.Set(n.procSys, n.ns, slices.Concat(n.ReversePath(name), []sysctl.Setting{
		{Path: "ipv4/conf/" + name + "/forwarding", Value: "1"},
		{Path: "ipv6/conf/" + name + "/accept_ra", Value: "0"},
		// The cloud assigns the MAC, so the link-local address derived from it needs no duplicate
		// address detection, which would delay neighbour discovery of the gateway by a second.
		{Path: "ipv6/conf/" + name + "/accept_dad", Value: "0"},
	}, more))
	if err != nil {
		return repairs, fmt.Errorf("device %s: %w", name, err)
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		if err := h.LinkSetUp(link); err != nil {
			return repairs, fmt.Errorf("set %s up: %w", name, err)
		}
		repairs = append(repairs, "set "+name+" up")
	}
	switch err := h.AddrAdd(link, eniAddress()); {
	case err == nil:
		repairs = append(repairs, fmt.Sprintf("added %s to %s", claims.Gateway4, name))
	case !errors.Is(err, unix.EEXIST):
		return repairs, fmt.Errorf("add address %s to %s: %w", claims.Gateway4, name, err)
	}
	return repairs, nil
}

// readReversePath determines whether the node has a reverse path check on every device
// (Documentation/networking/ip-sysctl.rst: the larger value of all's rp_filter and the device's
// counts).
func (n *Node) readReversePath() error {
	checks, err := sysctl.Differs(n.procSys, n.ns, sysctl.Setting{Path: "ipv4/conf/all/rp_filter", Value: "0"})
	if err == nil {
		n.reversePath.Store(checks)
	}
	return err
}

// ReversePath returns the settings with which a device accepts pods' packets: the way back is by
// rules that the kernel's check does not consider, so the check must not be strict (1). If the node
// has no check, the device has none either, and does not compare sources with its own addresses:
// with routing rules the kernel would look up a second route for each packet, which is a tenth of
// the cost of forwarding it. Chain source and the VPC check sources.
func (n *Node) ReversePath(device string) []sysctl.Setting {
	prefix, check, local := "ipv4/conf/"+device+"/", "0", "1"
	if n.reversePath.Load() {
		check, local = "2", "0"
	}
	return []sysctl.Setting{{Path: prefix + "rp_filter", Value: check}, {Path: prefix + "accept_local", Value: local}}
}

// IsENIAddress reports whether an address, in the kernel's form, is the one that every ENI's device
// gets.
func IsENIAddress(raw []byte) bool { return net.IP(raw).Equal(claims.Gateway4.AsSlice()) }

func eniAddress() *netlink.Addr {
	return &netlink.Addr{IPNet: netipx.AddrIPNet(claims.Gateway4), Scope: unix.RT_SCOPE_HOST}
}

// releaseDevices removes our address from devices that were ENIs, according to our routes or our
// memory, and are none any more, and sets them down, as they were.
func (n *Node) releaseDevices(h *netlink.Handle, links []netlink.Link, was map[int]bool, enis map[string]ENI) ([]string, error) {
	var repairs []string
	var errs []error
	for _, s := range enis {
		delete(was, s.Index)
	}
	for _, link := range links {
		name := link.Attrs().Name
		if !was[link.Attrs().Index] {
			continue
		}
		if err := h.AddrDel(link, eniAddress()); err != nil && !netlinkx.Gone(err) {
			errs = append(errs, fmt.Errorf("remove %s from %s: %w", claims.Gateway4, name, err))
			continue
		}
		if err := h.LinkSetDown(link); err != nil && !netlinkx.Gone(err) {
			errs = append(errs, fmt.Errorf("set %s down: %w", name, err))
			continue
		}
		if _, err := sysctl.Set(n.procSys, n.ns, []sysctl.Setting{{Path: "ipv4/conf/" + name + "/accept_local", Value: "0"}}); err != nil {
			errs = append(errs, err)
		}
		repairs = append(repairs, fmt.Sprintf("released device %s: no longer an ENI of this node", name))
	}
	return repairs, errors.Join(errs...)
}

// formerDevices returns the devices that are ENIs according to our routes and our memory.
func formerDevices(routes []netlink.Route, last map[string]ENI) map[int]bool {
	was := map[int]bool{}
	for _, r := range routes {
		if r.Table > claims.TableLocal && r.Type == unix.RTN_UNICAST && r.LinkIndex != 0 {
			was[r.LinkIndex] = true
		}
	}
	for _, s := range last {
		was[s.Index] = true
	}
	return was
}
