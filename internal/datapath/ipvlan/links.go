package ipvlan

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/linkkind"
	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/object"
	"terway.dev/terway/internal/datapath/reaper"
	"terway.dev/terway/internal/datapath/routing"
	"terway.dev/terway/internal/netlinkx"
)

// innerIndex returns the index of the pod's device in its namespace: as many of the 44 bits in the
// name of the node's device as an index has, above those that the kernel assigns.
func innerIndex(device string) int {
	n, err := strconv.ParseUint(device[2:], 16, 64)
	if err != nil {
		return 0 // not one of our names, which are made from a hash
	}
	return int(n&(1<<30-1) | 1<<30)
}

// Receiver implements node.Kind.
func (s *Kind) Receiver(eni routing.ENI) string {
	if !s.active.Load() {
		return ""
	}
	return claims.ReceiverName(eni.MAC)
}

// devices are a pod's two devices.
type devices struct {
	s   *Kind
	pod *node.Pod
}

// Name implements object.Object.
func (o devices) Name() string { return "ipvlan " + o.pod.Host.Name }

// Have implements object.Object.
func (o devices) Have(site *object.Site) (string, error) {
	return node.HaveDevices(site, o.pod, func(l netlink.Link) string {
		if l.Type() != linkkind.IPvlan {
			return fmt.Sprintf("is of kind %s instead of %s", l.Type(), linkkind.IPvlan)
		}
		return ""
	})
}

// Put implements object.Object. It makes a wrong device again; a device in the pod that this agent
// did not make is an error.
func (o devices) Put(site *object.Site) error {
	if site.Pod == nil {
		return nil
	}
	// The pod's first: if it belongs to others, nothing must be made.
	inner, err := linkInner(site.Node, site.Pod, o.pod)
	if err != nil {
		return err
	}
	host, err := linkHost(site.Node, o.pod)
	if err != nil {
		return err
	}
	site.Found(o.pod.Inner, inner)
	site.Found(o.pod.Host, host)
	return nil
}

// Del implements object.Object. It removes the addresses from the device in the pod, if there is
// one: from then on it gets no packets.
func (o devices) Del(site *object.Site) error {
	device := o.pod.Host.Name
	o.s.forget(device)
	left := inPod(o.pod.NetNS, func(h *netlink.Handle) error {
		link, err := object.Find(h, o.pod.IfName)
		if err != nil || link == nil || !isInner(link, device) {
			return err
		}
		if err := takeAddresses(h, link, netip.Addr{}); err != nil {
			return err
		}
		if err := h.LinkSetGroup(link, claims.GroupDying); err != nil && !netlinkx.Gone(err) {
			return fmt.Errorf("move device %s to the group of dying devices: %w", link.Attrs().Name, err)
		}
		site.Later(func() error {
			pod, err := enter(o.pod.NetNS)
			if err != nil || pod == nil {
				return err
			}
			defer pod.Close()
			return reaper.DeleteRetired(pod.NS)
		})
		return nil
	})
	return errors.Join(left, o.s.node.Retire(site, o.pod.Host))
}

func linkHost(h *netlink.Handle, p *node.Pod) (netlink.Link, error) {
	link, err := object.Find(h, p.Host.Name)
	if err != nil {
		return nil, err
	}
	if link != nil {
		if !linkkind.IsPodDevice(link) {
			return nil, fmt.Errorf("device %s exists and was not made by this datapath", p.Host.Name)
		}
		if isSlave(link, p.ENI) && link.Attrs().ParentIndex == p.ENI.Index && !linkkind.IsDying(link) {
			return link, nil
		}
		if err := remove(h, link); err != nil {
			return nil, err
		}
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex, attrs.Group = p.Host.Name, p.ENI.Index, claims.GroupPod
	return create(h, h, attrs)
}

func linkInner(h *netlink.Handle, pod *netlinkx.Namespace, p *node.Pod) (netlink.Link, error) {
	inPod, err := pod.Handle()
	if err != nil {
		return nil, err
	}
	link, err := object.Find(inPod, p.Inner.Name)
	if err != nil {
		return nil, err
	}
	if link != nil {
		if !isInner(link, p.Host.Name) {
			return nil, node.AlreadyThere(p.Pod, link)
		}
		if isSlave(link, p.ENI) && !linkkind.IsDying(link) {
			return link, nil
		}
		if err := remove(inPod, link); err != nil {
			return nil, err
		}
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex, attrs.Index, attrs.Namespace = p.Inner.Name, p.ENI.Index, innerIndex(p.Host.Name), netlink.NsFd(pod.NS)
	return create(h, inPod, attrs)
}

// isSlave reports whether a device belongs to the ENI. Another namespace does not show its parent,
// but its MAC.
func isSlave(l netlink.Link, eni routing.ENI) bool {
	return l.Type() == linkkind.IPvlan && l.Attrs().HardwareAddr.String() == eni.MAC.String()
}

func isInner(l netlink.Link, device string) bool {
	return l.Type() == linkkind.IPvlan && l.Attrs().Index == innerIndex(device)
}

// create makes an ipvlan device by a request in one namespace and finds it in another.
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

func remove(h *netlink.Handle, link netlink.Link) error {
	if err := h.LinkDel(link); err != nil && !netlinkx.Gone(err) {
		return fmt.Errorf("delete device %s: %w", link.Attrs().Name, err)
	}
	return nil
}

// holder is a pod with addresses.
type holder struct {
	device, netns, ifName string
	addresses             []netip.Addr
}

// enter opens a pod's namespace, nil if it does not exist.
func enter(path string) (*netlinkx.Namespace, error) {
	pod, err := netlinkx.Enter(path)
	if netlinkx.Gone(err) {
		return nil, nil
	}
	return pod, err
}

// inPod calls f with a socket in a pod's namespace, if the namespace exists.
func inPod(path string, f func(*netlink.Handle) error) error {
	pod, err := enter(path)
	if err != nil || pod == nil {
		return err
	}
	defer pod.Close()
	h, err := pod.Handle()
	if err != nil {
		return err
	}
	return f(h)
}

// vacate removes an address of the pod from devices of other pods. It knows only pods that this
// process has wired or checked; another pod's device is about to be deleted.
func (s *Kind) vacate(p *node.Pod) func(netip.Addr) error {
	return func(a netip.Addr) error {
		for _, held := range s.holdersOf(a) {
			if held.device == p.Host.Name {
				continue
			}
			err := inPod(held.netns, func(h *netlink.Handle) error {
				link, err := object.Find(h, held.ifName)
				if err != nil || link == nil || !isInner(link, held.device) {
					return err
				}
				return takeAddresses(h, link, a)
			})
			if err != nil {
				return fmt.Errorf("remove address %s from another pod of the ENI: %w", a, err)
			}
		}
		return nil
	}
}

// takeAddresses removes one address from a device, or all if only is the zero Addr.
func takeAddresses(h *netlink.Handle, link netlink.Link, only netip.Addr) error {
	for _, family := range netlinkx.Families {
		addrs, err := netlinkx.List(context.Background(), "addresses of the pod's "+link.Attrs().Name,
			func() ([]netlink.Addr, error) { return h.AddrList(link, family) })
		if err != nil && !netlinkx.NoFamily(err) {
			return err
		}
		for _, addr := range addrs {
			a := netlinkx.Addr(addr.IP)
			if !a.IsValid() || a.IsLinkLocalUnicast() || only.IsValid() && a != only {
				continue
			}
			if err := h.AddrDel(link, &addr); err != nil && !netlinkx.Gone(err) {
				return fmt.Errorf("remove address %s from the pod's %s: %w", a, link.Attrs().Name, err)
			}
		}
	}
	return nil
}

// hold remembers a pod's addresses. The caller holds the lock.
func (s *Kind) hold(p *node.Pod) {
	if s.holders == nil {
		s.holders = map[string]holder{}
	}
	s.holders[p.Host.Name] = holder{device: p.Host.Name, netns: p.NetNS, ifName: p.IfName, addresses: p.Addresses}
}

func (s *Kind) forget(device string) {
	s.fast.Lock()
	defer s.fast.Unlock()
	delete(s.holders, device)
}

func (s *Kind) holdersOf(a netip.Addr) []holder {
	s.fast.Lock()
	defer s.fast.Unlock()
	var list []holder
	for _, held := range s.holders {
		if slices.Contains(held.addresses, a) {
			list = append(list, held)
		}
	}
	return list
}
