package route

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/linkkind"
	"terway.dev/terway/internal/netlinkx"
)

// Pair is the kind of a pod's two devices, one on the node and one in the pod. All else
// about a pod is the same for every kind.
type Pair string

// The values are the kernel's names of the kinds.
const (
	// Veth is a cable with a MAC at each end: the pod and its next hop are permanent
	// neighbours of each other.
	Veth Pair = linkkind.Veth
	// Netkit is a pair without MACs and neighbours (mode L3), in which programs of an
	// Extension decide about each packet. As long as there are none it drops all.
	Netkit Pair = linkkind.Netkit
	// IPvlan are two devices stacked on the pod's ENI, with its MAC. A Linker makes them.
	IPvlan Pair = linkkind.IPvlan
)

func (p Pair) hasMAC() bool { return p != Netkit }

// noARP says that the node's device takes no part in ARP and ND. Whoever is behind it is a
// permanent neighbour, and the kernel would make an entry in the node's table, which is
// one for all devices, for each sender that a pod makes up. What a pod with ipvlan
// devices sends to others than its next hop is dropped in the pod.
func (p Pair) noARP() bool { return p != IPvlan }

// link describes a new pair: down, and with its peer in the pod's namespace from the start.
func (p Pair) link(w wiring, ns netns.NsHandle) netlink.Link {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr, attrs.Group = w.name, w.mtu, w.hostMAC, w.group
	if p == Veth {
		veth := netlink.NewVeth(attrs)
		veth.PeerName, veth.PeerNamespace = w.inner, netlink.NsFd(ns)
		veth.PeerHardwareAddr, veth.PeerMTU = w.podMAC, uint32(w.mtu)
		return veth
	}
	peer := netlink.NewLinkAttrs()
	peer.Name, peer.MTU, peer.Namespace = w.inner, w.mtu, netlink.NsFd(ns)
	pair := &netlink.Netkit{
		LinkAttrs: attrs, Mode: netlink.NETKIT_MODE_L3,
		Policy: netlink.NETKIT_POLICY_BLACKHOLE, PeerPolicy: netlink.NETKIT_POLICY_BLACKHOLE,
		// Marks are not to pass between the namespaces. Kernels that do not know this
		// never let them.
		Scrub: netlink.NETKIT_SCRUB_DEFAULT, PeerScrub: netlink.NETKIT_SCRUB_DEFAULT,
	}
	pair.SetPeerAttrs(&peer)
	return pair
}

// problem says what of the node's device only a new one can put right, or "".
func (p Pair) problem(host netlink.Link) string {
	if host.Type() != string(p) {
		return fmt.Sprintf("is of kind %s instead of %s", host.Type(), p)
	}
	pair, ok := host.(*netlink.Netkit)
	switch {
	case !ok:
		return ""
	case !pair.IsPrimary():
		return "is the pod's end of its pair"
	case pair.Mode != netlink.NETKIT_MODE_L3:
		return "is not in mode L3"
	case pair.Policy != netlink.NETKIT_POLICY_BLACKHOLE || pair.PeerPolicy != netlink.NETKIT_POLICY_BLACKHOLE:
		return "lets packets pass without a program: its policy is not blackhole"
	case pair.SupportsScrub() && (pair.Scrub != netlink.NETKIT_SCRUB_DEFAULT || pair.PeerScrub != netlink.NETKIT_SCRUB_DEFAULT):
		return "lets marks pass: its scrub is not default"
	}
	return ""
}

// ensurePair returns both ends of the pod's pair, and makes it if there is none. A pair
// that is not what it should be is deleted and made anew.
func (d *Datapath) ensurePair(h, ph *netlink.Handle, ns netns.NsHandle, w wiring) (host, inner netlink.Link, err error) {
	link := w.pair.link(w, ns)
	err = h.LinkAdd(link)
	if errors.Is(err, unix.EEXIST) {
		var usable bool
		if host, inner, usable, err = d.existingPair(h, ph, w); err != nil {
			return nil, nil, err
		}
		if usable {
			return host, inner, nil
		}
		if host != nil {
			if err := h.LinkDel(host); err != nil && !netlinkx.Gone(err) {
				return nil, nil, fmt.Errorf("delete unusable device %s: %w", w.name, err)
			}
		}
		err = h.LinkAdd(link)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("create %s %s with peer %s in %s: %w", w.pair, w.name, w.inner, w.pod.NetNS, err)
	}
	if host, err = h.LinkByName(w.name); err != nil {
		return nil, nil, fmt.Errorf("find new device %s: %w", w.name, err)
	}
	if inner, err = ph.LinkByName(w.inner); err != nil {
		return nil, nil, fmt.Errorf("find new device %s in %s: %w", w.inner, w.pod.NetNS, err)
	}
	return host, inner, nil
}

// existingPair looks at what kept the pair from being created. A device in the pod that
// is not ours is an error: it is not ours to remove.
func (d *Datapath) existingPair(h, ph *netlink.Handle, w wiring) (host, inner netlink.Link, usable bool, err error) {
	host, err = h.LinkByName(w.name)
	if err != nil && !netlinkx.Gone(err) {
		return nil, nil, false, fmt.Errorf("look up device %s: %w", w.name, err)
	}
	if host != nil && !linkkind.IsPodDevice(host) {
		return nil, nil, false, fmt.Errorf("device %s exists and was not made by this datapath", w.name)
	}
	inner, err = ph.LinkByName(w.inner)
	if err != nil && !netlinkx.Gone(err) {
		return nil, nil, false, fmt.Errorf("look up device %s in %s: %w", w.inner, w.pod.NetNS, err)
	}
	pair := host != nil && inner != nil &&
		host.Attrs().ParentIndex == inner.Attrs().Index && inner.Attrs().ParentIndex == host.Attrs().Index
	ours := inner != nil && inner.Type() == string(Veth) && inner.Attrs().HardwareAddr.String() == claims.PodMAC(w.name).String()
	if inner != nil && !pair && !ours {
		return nil, nil, false, fmt.Errorf("the pod's network namespace %s already has a device %s with MAC %s that was not made by this datapath",
			w.pod.NetNS, w.inner, inner.Attrs().HardwareAddr)
	}
	usable = pair && host.Attrs().Group != claims.GroupDying && w.pair.problem(host) == ""
	return host, inner, usable, nil
}
