package exclusive

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/object"
	"terway.dev/terway/internal/netlinkx"
)

// card is the object of the ENI's device in its pod, with the right name.
type card struct {
	cards *cards
	pod   datapath.Pod
}

func (o card) Name() string { return "ENI " + o.pod.Exclusive.ID }

func (o card) eth() object.Device { return object.Device{Name: o.pod.IfName, InPod: true} }

// Slow implements object.Slow: moving a device takes an RCU grace period.
func (card) Slow() {}

func (o card) Have(s *object.Site) (string, error) {
	if s.Pod == nil {
		return "", nil
	}
	at, err := o.cards.find(s, o.pod)
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
	at, err := o.cards.find(s, o.pod)
	if err != nil {
		return err
	}
	inPod, err := s.Pod.Handle()
	if err != nil {
		return err
	}
	link, name := at.link, o.pod.IfName
	if other, err := inPod.LinkByName(name); err == nil && (!at.inPod || other.Attrs().Index != link.Attrs().Index) {
		return node.AlreadyThere(o.pod, other)
	}
	if !at.inPod {
		if err := s.Node.LinkSetDown(link); err != nil {
			return fmt.Errorf("set its device %s down: %w", link.Attrs().Name, err)
		}
		if err := s.Node.LinkSetNsFd(link, int(s.Pod.NS)); err != nil {
			return fmt.Errorf("move its device %s into the pod: %w", link.Attrs().Name, err)
		}
		if link, err = byMAC(s.Ctx, inPod, o.pod.Exclusive.MAC); err != nil {
			return err
		}
		if link == nil {
			return errors.New("disappeared while it was being moved into the pod")
		}
	}
	if err := o.reset(inPod, link, name); err != nil {
		return err
	}
	if link, err = inPod.LinkByName(name); err != nil {
		return fmt.Errorf("find the pod's %s: %w", name, err)
	}
	s.Found(o.eth(), link)
	return nil
}

// reset gives the device in the pod the MAC of the ENI again, and a name. The kernel renames no device
// that is up, and not every driver changes its MAC.
func (o card) reset(h *netlink.Handle, link netlink.Link, name string) error {
	was, mac := link.Attrs().Name, o.pod.Exclusive.MAC
	named, right := was == name, bytes.Equal(link.Attrs().HardwareAddr, mac)
	if named && right {
		return nil
	}
	if err := h.LinkSetDown(link); err != nil {
		return fmt.Errorf("set the pod's %s down: %w", was, err)
	}
	if !right {
		if err := h.LinkSetHardwareAddr(link, mac); err != nil {
			return fmt.Errorf("set MAC %s of the pod's %s: %w", mac, was, err)
		}
	}
	if !named {
		if err := h.LinkSetName(link, name); err != nil {
			return fmt.Errorf("name the pod's %s %s: %w", was, name, err)
		}
	}
	return nil
}

// Del implements object.Object. It moves the ENI's device back to the node and waits for the move,
// so that the ENI can serve the next pod when it returns. A missing device is no error: the kernel
// moved it back with the namespace's end.
func (o card) Del(s *object.Site) error {
	pod, err := netlinkx.Enter(o.pod.NetNS)
	if netlinkx.Gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer pod.Close()
	if own, err := pod.Is(s.NodeNS); err != nil || own {
		return err // AddPod rejects the node's own namespace: no device there is a pod's
	}
	back := s.NodeNS
	if !back.IsOpen() { // the process's own
		if back, err = netns.Get(); err != nil {
			return fmt.Errorf("open the node's network namespace: %w", err)
		}
		defer back.Close()
	}
	inPod, err := pod.Handle()
	if err != nil {
		return err
	}
	at, err := o.cards.find(&object.Site{Ctx: s.Ctx, Node: s.Node, Pod: pod}, o.pod)
	if errors.Is(err, datapath.ErrNoDevice) || err == nil && !at.inPod {
		return nil
	}
	if err != nil {
		return err
	}
	// Its name in the pod is in use on the node.
	link, name := at.link, nodeName(o.pod.Exclusive.MAC)
	if err := o.reset(inPod, link, name); err != nil {
		return err
	}
	if err := inPod.LinkSetNsFd(link, int(back)); err != nil {
		return fmt.Errorf("move its device %s back to the node: %w", name, err)
	}
	return nil
}

// nodeName returns the name of an ENI's device after its return: no other device on the node has
// the name, and it has the maximum length (IFNAMSIZ − 1).
func nodeName(mac net.HardwareAddr) string { return "eni" + hex.EncodeToString(mac) }
