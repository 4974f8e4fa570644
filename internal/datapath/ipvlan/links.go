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

// devices are a pod's two devices.
type devices struct {
	k   *Kind
	pod *node.Pod
}

func (o devices) Name() string { return "ipvlan " + o.pod.Host.Name }

func (o devices) Have(site *object.Site) (string, error) {
	return node.HaveDevices(site, o.pod, linkkind.IPvlan, nil)
}

// Put implements object.Object. It makes a wrong device again; a device in the pod that this agent
// did not make is an error.
func (o devices) Put(site *object.Site) error {
	if site.Pod == nil {
		return nil
	}
	h, err := site.Pod.Handle()
	if err != nil {
		return err
	}
	p := o.pod
	attrs := netlink.NewLinkAttrs()
	attrs.ParentIndex = p.ENI.Index
	// The pod's first: if it belongs to others, nothing must be made.
	inside := attrs
	inside.Name, inside.Index, inside.Namespace = p.Inner.Name, innerIndex(p.Host.Name), netlink.NsFd(site.Pod.NS)
	inner, _, err := ensure(site.Node, h, inside, p.ENI, func(l netlink.Link) error {
		if isInner(l, p.Host.Name) {
			return nil
		}
		return node.AlreadyThere(p.Pod, l)
	})
	if err != nil {
		return err
	}
	attrs.Name, attrs.Group = p.Host.Name, claims.GroupPod
	host, _, err := ensure(site.Node, site.Node, attrs, p.ENI, func(l netlink.Link) error {
		if linkkind.IsPodDevice(l) {
			return nil
		}
		return fmt.Errorf("device %s exists and was not made by this datapath", p.Host.Name)
	})
	if err != nil {
		return err
	}
	site.Found(p.Inner, inner)
	site.Found(p.Host, host)
	return nil
}

// Del implements object.Object. It removes the addresses from the device in the pod, if there is
// one: from then on it gets no packets.
func (o devices) Del(site *object.Site) error {
	o.k.Lock()
	delete(o.k.holders, o.pod.Host.Name)
	o.k.Unlock()
	left := atInner(o.pod, func(h *netlink.Handle, link netlink.Link) error {
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
	return errors.Join(left, o.k.Node.Retire(site, o.pod.Host))
}

// ensure returns the ipvlan device with these attributes on an ENI, and whether it made it, by a
// request from the node's namespace; there is the namespace of the device. A wrong one is made again,
// unless it is not ours, which is an error.
func ensure(h, there *netlink.Handle, attrs netlink.LinkAttrs, eni routing.ENI, notOurs func(netlink.Link) error) (link netlink.Link, made bool, err error) {
	if link, err = object.Find(there, attrs.Name); err != nil {
		return nil, false, err
	}
	if link != nil {
		if err := notOurs(link); err != nil {
			return nil, false, err
		}
		if isSlave(link, eni) && (there != h || link.Attrs().ParentIndex == eni.Index) && !linkkind.IsDying(link) {
			return link, false, nil
		}
		if err := remove(there, link); err != nil {
			return nil, false, err
		}
	}
	if err := h.LinkAdd(&netlink.IPVlan{LinkAttrs: attrs, Mode: netlink.IPVLAN_MODE_L2, Flag: netlink.IPVLAN_FLAG_BRIDGE}); err != nil {
		return nil, false, fmt.Errorf("create ipvlan device %s on the device with index %d: %w", attrs.Name, attrs.ParentIndex, err)
	}
	if link, err = there.LinkByName(attrs.Name); err != nil {
		return nil, true, fmt.Errorf("find new device %s: %w", attrs.Name, err)
	}
	return link, true, nil
}

// isSlave reports whether a device belongs to the ENI. Another namespace does not show its parent,
// but its MAC.
func isSlave(l netlink.Link, eni routing.ENI) bool {
	return l.Type() == linkkind.IPvlan && l.Attrs().HardwareAddr.String() == eni.MAC.String()
}

func isInner(l netlink.Link, device string) bool {
	return l.Type() == linkkind.IPvlan && l.Attrs().Index == innerIndex(device)
}

func remove(h *netlink.Handle, link netlink.Link) error {
	if err := h.LinkDel(link); err != nil && !netlinkx.Gone(err) {
		return fmt.Errorf("delete device %s: %w", link.Attrs().Name, err)
	}
	return nil
}

// enter opens a pod's namespace, nil if it does not exist.
func enter(path string) (*netlinkx.Namespace, error) {
	pod, err := netlinkx.Enter(path)
	if netlinkx.Gone(err) {
		return nil, nil
	}
	return pod, err
}

// atInner calls f with a pod's own device and a socket in its namespace, if both exist.
func atInner(p *node.Pod, f func(*netlink.Handle, netlink.Link) error) error {
	pod, err := enter(p.NetNS)
	if err != nil || pod == nil {
		return err
	}
	defer pod.Close()
	h, err := pod.Handle()
	if err != nil {
		return err
	}
	link, err := object.Find(h, p.IfName)
	if err != nil || link == nil || !isInner(link, p.Host.Name) {
		return err
	}
	return f(h, link)
}

// removeFromOthers removes an address of a pod from devices of other pods. It knows only pods that
// this process has wired or checked; another pod's device is about to be deleted.
func (k *Kind) removeFromOthers(p *node.Pod, a netip.Addr) error {
	k.Lock()
	var others []*node.Pod
	for device, other := range k.holders {
		if device != p.Host.Name && slices.Contains(other.Addresses, a) {
			others = append(others, other)
		}
	}
	k.Unlock()
	for _, other := range others {
		if err := atInner(other, func(h *netlink.Handle, link netlink.Link) error { return takeAddresses(h, link, a) }); err != nil {
			return fmt.Errorf("remove address %s from another pod of the ENI: %w", a, err)
		}
	}
	return nil
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
