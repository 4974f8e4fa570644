package object

import (
	"context"
	"maps"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/nft"
	"terway.dev/terway/internal/kernel"
	"terway.dev/terway/internal/netlinkx"
	"terway.dev/terway/internal/sysctl"
)

// View is the state of a node's kernel at one moment: one dump for each kind of object, however
// many pods there are.
type View struct {
	Links   []netlink.Link
	ByName  map[string]netlink.Link
	ByIndex map[int]netlink.Link
	// Routes are our routes, of all our tables.
	Routes []netlink.Route
	// Pods are the routes of the table of local pods, by destination.
	Pods map[netip.Addr][]netlink.Route

	// Elements are the pods' elements in the nftables tables.
	Elements nft.Elements

	addresses map[string]map[netip.Addr]bool // by device
	// neighs are the permanent neighbours.
	neighs  map[neighKey]net.HardwareAddr
	sysctls map[string]value
	// qdiscs are the queueing disciplines by the index of their device; nil until they are listed.
	qdiscs map[int][]netlink.Qdisc
}

type neighKey struct {
	index int
	addr  netip.Addr
}

type value struct {
	differs bool
	err     error
}

// Look makes a view from links, routes and elements that were already listed.
func Look(ctx context.Context, h *netlink.Handle, links []netlink.Link, routes []netlink.Route, elems nft.Elements) (*View, error) {
	v := &View{
		Links: links, ByName: map[string]netlink.Link{}, ByIndex: map[int]netlink.Link{}, Routes: routes, Elements: elems,
		Pods: map[netip.Addr][]netlink.Route{}, neighs: map[neighKey]net.HardwareAddr{}, addresses: map[string]map[netip.Addr]bool{},
	}
	note := func(device string, a netip.Addr) {
		if v.addresses[device] == nil {
			v.addresses[device] = map[netip.Addr]bool{}
		}
		v.addresses[device][a] = true
	}
	at := func(index int, a netip.Addr) {
		if l := v.ByIndex[index]; l != nil {
			note(l.Attrs().Name, a)
		}
	}
	for _, l := range links {
		v.ByName[l.Attrs().Name] = l
		v.ByIndex[l.Attrs().Index] = l
	}
	for k := range elems {
		note(k.Device, k.Addr)
	}
	for _, r := range routes {
		if a := netlinkx.HostDst(r); r.Table == claims.TableLocal && a.IsValid() {
			v.Pods[a] = append(v.Pods[a], r)
			at(r.LinkIndex, a)
		}
	}
	for _, f := range netlinkx.Families {
		list, err := netlinkx.List(ctx, netlinkx.FamilyName(f)+" neighbours", func() ([]netlink.Neigh, error) { return h.NeighList(0, f) })
		if netlinkx.NoFamily(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, n := range list {
			if n.State&netlink.NUD_PERMANENT != 0 {
				v.neighs[neighKey{n.LinkIndex, netlinkx.Addr(n.IP)}] = n.HardwareAddr
				at(n.LinkIndex, netlinkx.Addr(n.IP))
			}
		}
	}
	return v, nil
}

// Addresses returns the addresses for which a pod's device on the node has an element, a route or a
// permanent neighbour.
func (v *View) Addresses(device string) []netip.Addr {
	return slices.SortedFunc(maps.Keys(v.addresses[device]), netip.Addr.Compare)
}

// ReadSysctls reads the sysctls of the node's namespace that are in a list, in one visit to it.
func (v *View) ReadSysctls(procSys string, ns netns.NsHandle, list []Object) error {
	v.sysctls = map[string]value{}
	return kernel.InNS(ns, func() error {
		for _, o := range list {
			for _, s := range ofNode(o) {
				differs, err := sysctl.Differs(procSys, netns.None(), s)
				v.sysctls[s.Path] = value{differs, err}
			}
		}
		return nil
	})
}

// ofNode returns an object's sysctls of the node's namespace.
func ofNode(o Object) []sysctl.Setting {
	switch o := o.(type) {
	case Sysctl:
		if !o.InPod {
			return []sysctl.Setting{o.Setting}
		}
	case Settings:
		if !o.InPod {
			return o.Conf
		}
	}
	return nil
}

// inPod lists once what a device in the pod has of one family; nothing if there is no device.
func inPod[T any](s *Site, what string, index, family int, list func(*netlink.Handle, netlink.Link, int) ([]T, error)) ([]T, error) {
	key := listKey{what, index, family}
	if had, ok := s.listed[key]; ok || index == 0 {
		got, _ := had.([]T)
		return got, nil
	}
	h, err := s.Pod.Handle()
	if err != nil {
		return nil, err
	}
	link := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}
	got, err := netlinkx.List(s.Ctx, what+" of the pod", func() ([]T, error) { return list(h, link, family) })
	if err != nil {
		return nil, err
	}
	if s.listed == nil {
		s.listed = map[listKey]any{}
	}
	s.listed[key] = got
	return got, nil
}

type listKey struct {
	what          string
	index, family int
}
