package exclusive

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"sync"

	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/linkkind"
	"terway.dev/terway/internal/datapath/object"
	"terway.dev/terway/internal/netlinkx"
)

// cards has the indexes of a node's network cards, including ENIs. The kernel cannot look up a
// device by its MAC, and a list of all devices includes those of every pod, so the indexes are kept
// from each list that was made anyway. It is safe for concurrent use.
type cards struct {
	list func(context.Context, *netlink.Handle) ([]netlink.Link, error)

	mu sync.Mutex
	// index is keyed by the MAC as text; entries may be out of date.
	index map[string]int
}

func newCards() *cards {
	return &cards{list: func(ctx context.Context, h *netlink.Handle) ([]netlink.Link, error) {
		return netlinkx.List(ctx, "devices", h.LinkList)
	}}
}

// note records the indexes of the cards among a node's devices; without devices, the entries stay.
func (c *cards) note(links []netlink.Link) {
	if links == nil {
		return
	}
	index := map[string]int{}
	for _, l := range links {
		if linkkind.MayBeENI(l) {
			index[macOf(l).String()] = l.Attrs().Index
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.index = index
}

// macOf returns a card's permanent address, which nobody can change, or else its current one.
func macOf(l netlink.Link) net.HardwareAddr {
	if own := l.Attrs().PermHWAddr; len(own) > 0 {
		return own
	}
	return l.Attrs().HardwareAddr
}

// onNode finds the card with a MAC on the node, nil if there is none: by the name that a pod's ENI
// has after its return, by its index, else among all devices.
func (c *cards) onNode(s *object.Site, mac net.HardwareAddr) (netlink.Link, error) {
	isIt := func(l netlink.Link) bool { return linkkind.MayBeENI(l) && bytes.Equal(macOf(l), mac) }
	link, err := object.Find(s.Node, nodeName(mac))
	if err != nil || link != nil && isIt(link) {
		return link, err
	}
	c.mu.Lock()
	index := c.index[mac.String()]
	c.mu.Unlock()
	if index != 0 {
		link, err := s.Node.LinkByIndex(index)
		if err == nil && isIt(link) {
			return link, nil
		}
		if err != nil && !netlinkx.Gone(err) {
			return nil, fmt.Errorf("look up the device with index %d: %w", index, err)
		}
	}
	links, err := c.list(s.Ctx, s.Node)
	if err != nil {
		return nil, err
	}
	c.note(links)
	return withMAC(links, mac), nil
}

// withMAC returns the card with a MAC among devices: by the permanent address, else by the current
// one. Devices stacked on a card share its MAC.
func withMAC(links []netlink.Link, mac net.HardwareAddr) (found netlink.Link) {
	for _, l := range links {
		if linkkind.IsStacked(l) {
			continue
		}
		if bytes.Equal(l.Attrs().PermHWAddr, mac) {
			return l
		}
		if found == nil && bytes.Equal(l.Attrs().HardwareAddr, mac) {
			found = l
		}
	}
	return found
}

// byMAC is withMAC among the devices of a pod.
func byMAC(ctx context.Context, h *netlink.Handle, mac net.HardwareAddr) (netlink.Link, error) {
	links, err := netlinkx.List(ctx, "devices of the pod", h.LinkList)
	return withMAC(links, mac), err
}

// location is where the pod's ENI is.
type location struct {
	link  netlink.Link
	inPod bool
}

// find finds the ENI's device in the pod, else on the node; the error is datapath.ErrNoDevice when
// it is in neither. A pod may change the MAC; the device of a wired pod that has no permanent
// address is then found by its name.
func (c *cards) find(s *object.Site, pod datapath.Pod) (location, error) {
	own := pod.Exclusive
	inPod, err := s.Pod.Handle()
	if err != nil {
		return location{}, err
	}
	link, err := byMAC(s.Ctx, inPod, own.MAC)
	if err != nil || link != nil {
		return location{link, true}, err
	}
	link, err = c.onNode(s, own.MAC)
	if err != nil || link != nil {
		return location{link, false}, err
	}
	if pod.State == datapath.Wired {
		link, err := inPod.LinkByName(pod.IfName)
		if err == nil && !linkkind.IsStacked(link) && len(link.Attrs().PermHWAddr) == 0 {
			return location{link, true}, nil
		}
		if err != nil && !netlinkx.Gone(err) {
			return location{}, fmt.Errorf("find the pod's %s: %w", pod.IfName, err)
		}
	}
	return location{}, fmt.Errorf("ENI %s (MAC %s) is %w", own.ID, own.MAC, datapath.ErrNoDevice)
}
