package object

import (
	"context"
	"fmt"
	"net/netip"

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

	neighs  map[neighKey]netlink.Neigh
	sysctls map[string]value
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
	v := &View{Links: links, ByName: map[string]netlink.Link{}, ByIndex: map[int]netlink.Link{}, Routes: routes, Elements: elems, Pods: map[netip.Addr][]netlink.Route{}}
	for _, l := range links {
		v.ByName[l.Attrs().Name] = l
		v.ByIndex[l.Attrs().Index] = l
	}
	for _, r := range routes {
		if a := netlinkx.HostDst(r); r.Table == claims.TableLocal && a.IsValid() {
			v.Pods[a] = append(v.Pods[a], r)
		}
	}
	var err error
	v.neighs, err = neighbours(ctx, h, 0)
	return v, err
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

// neighbours lists the permanent neighbours of a device, or of all devices with index 0.
func neighbours(ctx context.Context, h *netlink.Handle, index int) (map[neighKey]netlink.Neigh, error) {
	found := map[neighKey]netlink.Neigh{}
	for _, f := range netlinkx.Families {
		list, err := netlinkx.List(ctx, netlinkx.FamilyName(f)+" neighbours", func() ([]netlink.Neigh, error) { return h.NeighList(index, f) })
		if netlinkx.NoFamily(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, n := range list {
			if n.State&netlink.NUD_PERMANENT != 0 {
				found[neighKey{n.LinkIndex, netlinkx.Addr(n.IP)}] = n
			}
		}
	}
	return found, nil
}

// inside is the state of a device in the pod; each part is read when it is needed.
type inside struct {
	neighs map[neighKey]netlink.Neigh
	addrs  map[int][]netlink.Addr
	routes map[int][]netlink.Route
}

func (s *Site) look(index int) *inside {
	if s.inside == nil {
		s.inside = map[int]*inside{}
	}
	if s.inside[index] == nil {
		s.inside[index] = &inside{addrs: map[int][]netlink.Addr{}, routes: map[int][]netlink.Route{}}
	}
	return s.inside[index]
}

// neighbour returns a permanent neighbour of a device.
func (s *Site) neighbour(d Device, index int, a netip.Addr) (n netlink.Neigh, ok bool, err error) {
	if !d.InPod {
		n, ok = s.View.neighs[neighKey{index, a}]
		return n, ok, nil
	}
	in := s.look(index)
	if in.neighs == nil {
		h, err := s.Pod.Handle()
		if err != nil {
			return n, false, err
		}
		if in.neighs, err = neighbours(s.Ctx, h, index); err != nil {
			return n, false, fmt.Errorf("in the pod: %w", err)
		}
	}
	n, ok = in.neighs[neighKey{index, a}]
	return n, ok, nil
}

func (s *Site) addresses(link netlink.Link, family int) (list []netlink.Addr, err error) {
	in := s.look(link.Attrs().Index)
	if list, ok := in.addrs[family]; ok {
		return list, nil
	}
	h, err := s.Pod.Handle()
	if err != nil {
		return nil, err
	}
	in.addrs[family], err = netlinkx.List(s.Ctx, "addresses of the pod", func() ([]netlink.Addr, error) { return h.AddrList(link, family) })
	return in.addrs[family], err
}

func (s *Site) routes(link netlink.Link, family int) (list []netlink.Route, err error) {
	in := s.look(link.Attrs().Index)
	if list, ok := in.routes[family]; ok {
		return list, nil
	}
	h, err := s.Pod.Handle()
	if err != nil {
		return nil, err
	}
	in.routes[family], err = netlinkx.List(s.Ctx, "routes of the pod", func() ([]netlink.Route, error) { return h.RouteList(link, family) })
	return in.routes[family], err
}
