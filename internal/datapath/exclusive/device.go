package exclusive

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/linkkind"
	"terway.dev/terway/internal/datapath/object"
	"terway.dev/terway/internal/netlinkx"
)

// card is the object of the ENI's device in its pod: that it is there, and under its name.
type card struct{ pod datapath.Pod }

// Name implements object.Object.
func (o card) Name() string { return "ENI " + o.pod.Exclusive.ID }

func (o card) eth() object.Device { return object.Device{Name: o.pod.IfName, InPod: true} }

// place is where the pod's ENI is.
type place struct {
	link  netlink.Link
	inPod bool
}

// find looks for the ENI's device: in the pod, else on the node; the error is
// datapath.ErrNoDevice when it is nowhere. A pod may change the
// MAC; the device of a wired pod that has no permanent address is then known by its name.
func find(s *object.Site, pod datapath.Pod) (place, error) {
	own := pod.Exclusive
	link, err := byMAC(s.Ctx, s.Pod.Handle, own.MAC)
	if err != nil || link != nil {
		return place{link, true}, err
	}
	link, err = byMAC(s.Ctx, s.Node, own.MAC)
	if err != nil || link != nil {
		return place{link, false}, err
	}
	if pod.State == datapath.Wired {
		link, err := s.Pod.LinkByName(pod.IfName)
		if err == nil && !linkkind.IsStacked(link) && len(link.Attrs().PermHWAddr) == 0 {
			return place{link, true}, nil
		}
		if err != nil && !netlinkx.Gone(err) {
			return place{}, fmt.Errorf("look for the pod's %s: %w", pod.IfName, err)
		}
	}
	return place{}, fmt.Errorf("ENI %s (MAC %s) is %w", own.ID, own.MAC, datapath.ErrNoDevice)
}

// byMAC finds the network card with a MAC: by its permanent address, which nobody can
// change, else by the one that it has now. Devices stacked on one share its MAC.
func byMAC(ctx context.Context, h *netlink.Handle, mac net.HardwareAddr) (netlink.Link, error) {
	links, err := netlinkx.List(ctx, "devices", h.LinkList)
	if err != nil {
		return nil, err
	}
	var found netlink.Link
	for _, l := range links {
		if linkkind.IsStacked(l) {
			continue
		}
		if bytes.Equal(l.Attrs().PermHWAddr, mac) {
			return l, nil
		}
		if found == nil && bytes.Equal(l.Attrs().HardwareAddr, mac) {
			found = l
		}
	}
	return found, nil
}

// Slow implements object.Slow: a device moves in an RCU grace period.
func (card) Slow() {}

// Have implements object.Object.
func (o card) Have(s *object.Site) (string, error) {
	if s.Pod == nil {
		return "", nil
	}
	at, err := find(s, o.pod)
	if err != nil {
		return "", err
	}
	attrs := at.link.Attrs()
	if !at.inPod {
		return fmt.Sprintf("ENI device %s is on the node, not in the pod", attrs.Name), nil
	}
	if attrs.Name != o.pod.IfName {
		return fmt.Sprintf("ENI device of the pod is called %s instead of %s", attrs.Name, o.pod.IfName), nil
	}
	s.Found(o.eth(), at.link)
	if mac := o.pod.Exclusive.MAC; !bytes.Equal(attrs.HardwareAddr, mac) {
		return fmt.Sprintf("%s has MAC %s instead of %s", o.eth(), attrs.HardwareAddr, mac), nil
	}
	return "", nil
}

// Put implements object.Object. It moves the device into the pod if it is not there.
func (o card) Put(s *object.Site) error {
	if s.Pod == nil {
		return nil
	}
	at, err := find(s, o.pod)
	if err != nil {
		return err
	}
	link, name := at.link, o.pod.IfName
	if other, err := s.Pod.LinkByName(name); err == nil && (!at.inPod || other.Attrs().Index != link.Attrs().Index) {
		return fmt.Errorf("the pod's network namespace %s already has a device %s with MAC %s that was not made by this datapath",
			o.pod.NetNS, name, other.Attrs().HardwareAddr)
	}
	if !at.inPod {
		if err := s.Node.LinkSetDown(link); err != nil {
			return fmt.Errorf("set its device %s down: %w", link.Attrs().Name, err)
		}
		if err := s.Node.LinkSetNsFd(link, int(s.Pod.NS)); err != nil {
			return fmt.Errorf("move its device %s into the pod: %w", link.Attrs().Name, err)
		}
		if link, err = byMAC(s.Ctx, s.Pod.Handle, o.pod.Exclusive.MAC); err != nil {
			return err
		}
		if link == nil {
			return errors.New("has gone while it was moved into the pod")
		}
	}
	if link.Attrs().Name != name {
		if err := s.Pod.LinkSetDown(link); err != nil {
			return fmt.Errorf("set the pod's %s down: %w", link.Attrs().Name, err)
		}
		if err := s.Pod.LinkSetName(link, name); err != nil {
			return fmt.Errorf("name the pod's %s %s: %w", link.Attrs().Name, name, err)
		}
	}
	if err := o.resetMAC(s.Pod.Handle, link); err != nil {
		return err
	}
	if link, err = s.Pod.LinkByName(name); err != nil {
		return fmt.Errorf("find the pod's %s: %w", name, err)
	}
	s.Found(o.eth(), link)
	return nil
}

// resetMAC gives the device in the pod the MAC of the ENI again. Not every driver
// changes it while the device is up.
func (o card) resetMAC(h *netlink.Handle, link netlink.Link) error {
	mac := o.pod.Exclusive.MAC
	if bytes.Equal(link.Attrs().HardwareAddr, mac) {
		return nil
	}
	if err := h.LinkSetDown(link); err != nil {
		return fmt.Errorf("set the pod's %s down: %w", link.Attrs().Name, err)
	}
	if err := h.LinkSetHardwareAddr(link, mac); err != nil {
		return fmt.Errorf("set MAC %s of the pod's %s: %w", mac, link.Attrs().Name, err)
	}
	return nil
}

// Del implements object.Object. It brings the ENI's device back to the node and waits for the
// move, so that the ENI can serve the next pod when it returns. What is not there is no error:
// with the namespace the kernel has brought it back.
func (o card) Del(s *object.Site) error {
	if o.pod.NetNS == "" {
		return nil
	}
	pod, err := netlinkx.Enter(o.pod.NetNS)
	if netlinkx.Gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer pod.Close()
	own, err := pod.Is(s.NodeNS)
	if err == nil && own {
		err = fmt.Errorf("network namespace %s is the node's own", o.pod.NetNS)
	}
	if err != nil {
		return err
	}
	node, err := s.OpenNode()
	if err != nil {
		return err
	}
	defer node.Close()
	at, err := find(&object.Site{Ctx: s.Ctx, Node: s.Node, Pod: pod}, o.pod)
	if errors.Is(err, datapath.ErrNoDevice) || err == nil && !at.inPod {
		return nil
	}
	if err != nil {
		return err
	}
	link := at.link
	if err := pod.LinkSetDown(link); err != nil {
		return fmt.Errorf("set the pod's %s down: %w", link.Attrs().Name, err)
	}
	if err := o.resetMAC(pod.Handle, link); err != nil {
		return err
	}
	// Its name in the pod is taken on the node.
	name := nodeName(o.pod.Exclusive.MAC)
	if err := pod.LinkSetName(link, name); err != nil {
		return fmt.Errorf("name the pod's %s %s: %w", link.Attrs().Name, name, err)
	}
	if err := pod.LinkSetNsFd(link, int(node)); err != nil {
		return fmt.Errorf("move its device %s back to the node: %w", name, err)
	}
	return nil
}

// nodeName is what an ENI's device is called after its return: nothing else on the
// node has the name, and it is as long as a name may be (IFNAMSIZ − 1).
func nodeName(mac net.HardwareAddr) string { return "eni" + hex.EncodeToString(mac) }

// gateway is the vSwitch's of an address's family, or the zero Addr.
func gateway(e *datapath.ENI, a netip.Addr) netip.Addr {
	for _, g := range e.Gateways {
		if g.Is4() == a.Is4() {
			return g
		}
	}
	return netip.Addr{}
}
