package ipvlan

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"go4.org/netipx"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/linkkind"
	"terway.dev/terway/internal/datapath/route"
	"terway.dev/terway/internal/netlinkx"
)

// innerIndex is the index of the pod's device in its namespace: of the 44 bits in the
// name of the node's one as many as there are in an index, above those that the kernel
// gives out by itself.
func innerIndex(device string) int {
	n, err := strconv.ParseUint(device[2:], 16, 64)
	if err != nil {
		return 0 // not a name of ours: package route made it from a hash
	}
	return int(n&(1<<30-1) | 1<<30)
}

// Receiver implements route.Linker.
func (s *Extension) Receiver(eni route.ENIPlace) string {
	if !s.active.Load() {
		return ""
	}
	return claims.ReceiverName(eni.MAC)
}

// Link implements route.Linker.
func (s *Extension) Link(h, ph *netlink.Handle, ns netns.NsHandle, p route.Place) (host, inner netlink.Link, err error) {
	// The pod's first: it may belong to others, and then nothing is to be made.
	if inner, err = linkInner(h, ph, ns, p); err != nil {
		return nil, nil, err
	}
	if host, err = linkHost(h, p); err != nil {
		return nil, nil, err
	}
	return host, inner, nil
}

func linkHost(h *netlink.Handle, p route.Place) (netlink.Link, error) {
	link, err := find(h, p.Device)
	if err != nil {
		return nil, err
	}
	if link != nil {
		if !linkkind.IsPodDevice(link) {
			return nil, fmt.Errorf("device %s exists and was not made by this datapath", p.Device)
		}
		if isSlave(link, p.ENI) && link.Attrs().ParentIndex == p.ENI.Index && !linkkind.IsDying(link) {
			return link, nil
		}
		if err := remove(h, link); err != nil {
			return nil, err
		}
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex, attrs.Group = p.Device, p.ENI.Index, claims.GroupPod
	return create(h, h, attrs)
}

func linkInner(h, ph *netlink.Handle, ns netns.NsHandle, p route.Place) (netlink.Link, error) {
	link, err := find(ph, p.IfName)
	if err != nil {
		return nil, err
	}
	index := innerIndex(p.Device)
	if link != nil {
		if !isInner(link, p.Device) {
			return nil, fmt.Errorf("the pod's network namespace %s already has a device %s with MAC %s that was not made by this datapath",
				p.NetNS, p.IfName, link.Attrs().HardwareAddr)
		}
		if isSlave(link, p.ENI) && !linkkind.IsDying(link) {
			return link, nil
		}
		if err := remove(ph, link); err != nil {
			return nil, err
		}
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex, attrs.Index, attrs.Namespace = p.IfName, p.ENI.Index, index, netlink.NsFd(ns)
	return create(h, ph, attrs)
}

// isSlave says whether a device is one of the ENI's. Its parent cannot be told from within
// another namespace, but the MAC can.
func isSlave(l netlink.Link, eni route.ENIPlace) bool {
	return l.Type() == linkkind.IPvlan && l.Attrs().HardwareAddr.String() == eni.MAC.String()
}

func isInner(l netlink.Link, device string) bool {
	return l.Type() == linkkind.IPvlan && l.Attrs().Index == innerIndex(device)
}

// create makes an ipvlan device with a request in one namespace and finds it in another.
func create(h, there *netlink.Handle, attrs netlink.LinkAttrs) (netlink.Link, error) {
	err := h.LinkAdd(&netlink.IPVlan{LinkAttrs: attrs, Mode: netlink.IPVLAN_MODE_L2, Flag: netlink.IPVLAN_FLAG_BRIDGE})
	if err != nil {
		return nil, fmt.Errorf("create ipvlan device %s on the device with index %d: %w", attrs.Name, attrs.ParentIndex, err)
	}
	link, err := there.LinkByName(attrs.Name)
	if err != nil {
		return nil, fmt.Errorf("find new device %s: %w", attrs.Name, err)
	}
	return link, nil
}

func find(h *netlink.Handle, name string) (netlink.Link, error) {
	link, err := h.LinkByName(name)
	if netlinkx.Gone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look up device %s: %w", name, err)
	}
	return link, nil
}

func remove(h *netlink.Handle, link netlink.Link) error {
	if err := h.LinkDel(link); err != nil && !netlinkx.Gone(err) {
		return fmt.Errorf("delete device %s: %w", link.Attrs().Name, err)
	}
	return nil
}

// holder is a pod that has addresses.
type holder struct {
	device, netns, ifName string
	addresses             []netip.Addr
}

// inPod opens a pod's namespace; without one there is nothing to do.
func inPod(path string, f func(netns.NsHandle, *netlink.Handle) error) error {
	if path == "" {
		return nil
	}
	pod, err := netlinkx.Enter(path)
	if netlinkx.Gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer pod.Close()
	return f(pod.NS, pod.Handle)
}

// Leave implements route.Linker.
func (s *Extension) Leave(pod datapath.Pod) (rest func() error, err error) {
	device := claims.HostIfName(pod.Sandbox, pod.IfName)
	s.forget(device)
	err = inPod(pod.NetNS, func(_ netns.NsHandle, h *netlink.Handle) error {
		link, err := find(h, pod.IfName)
		if err != nil || link == nil || !isInner(link, device) {
			return err
		}
		if err := takeAddresses(h, link, netip.Addr{}); err != nil {
			return err
		}
		if err := route.Retire(h, link); err != nil {
			return err
		}
		rest = func() error {
			return inPod(pod.NetNS, func(ns netns.NsHandle, _ *netlink.Handle) error { return route.DeleteRetired(ns) })
		}
		return nil
	})
	return rest, err
}

// Vacate implements route.Linker. Only pods that this process has wired or seen are known;
// another's device is no more than a moment from its end.
func (s *Extension) Vacate(device string, a netip.Addr) error {
	for _, held := range s.holdersOf(a) {
		if held.device == device {
			continue
		}
		err := inPod(held.netns, func(_ netns.NsHandle, h *netlink.Handle) error {
			link, err := find(h, held.ifName)
			if err != nil || link == nil || !isInner(link, held.device) {
				return err
			}
			return takeAddresses(h, link, a)
		})
		if err != nil {
			return fmt.Errorf("take address %s from another pod of the ENI: %w", a, err)
		}
	}
	return nil
}

// takeAddresses takes one address from a device, or all with the zero Addr.
func takeAddresses(h *netlink.Handle, link netlink.Link, only netip.Addr) error {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		addrs, err := netlinkx.List(context.Background(), "addresses of the pod's "+link.Attrs().Name,
			func() ([]netlink.Addr, error) { return h.AddrList(link, family) })
		if errors.Is(err, unix.EAFNOSUPPORT) {
			continue
		}
		if err != nil {
			return err
		}
		for _, addr := range addrs {
			a, ok := netipx.FromStdIP(addr.IP)
			if !ok || a.IsLinkLocalUnicast() || only.IsValid() && a != only {
				continue
			}
			if err := h.AddrDel(link, &addr); err != nil && !netlinkx.Gone(err) {
				return fmt.Errorf("take address %s from the pod's %s: %w", a, link.Attrs().Name, err)
			}
		}
	}
	return nil
}

func (s *Extension) hold(p route.Place) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holdLocked(p)
}

func (s *Extension) holdLocked(p route.Place) {
	if s.holders == nil {
		s.holders = map[string]holder{}
	}
	s.holders[p.Device] = holder{device: p.Device, netns: p.NetNS, ifName: p.IfName, addresses: p.Addresses}
}

func (s *Extension) forget(device string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.holders, device)
}

func (s *Extension) holdersOf(a netip.Addr) []holder {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []holder
	for _, held := range s.holders {
		if slices.Contains(held.addresses, a) {
			list = append(list, held)
		}
	}
	return list
}
