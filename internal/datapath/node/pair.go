package node

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/linkkind"
	"terway.dev/terway/internal/datapath/object"
	"terway.dev/terway/internal/netlinkx"
)

// Pair is the object of both devices of a pod, which are made by one request: the pod's end is
// in its namespace from the start.
type Pair struct {
	Pod *Pod
	// Kind is the kernel's name of it.
	Kind string
	// New is a pair, down, of two ends with these attributes.
	New func(host, inner netlink.LinkAttrs) netlink.Link
	// Wrong says what of the node's end only a new pair can put right, or ""; may be nil.
	Wrong func(netlink.Link) string
}

// Name implements object.Object.
func (o *Pair) Name() string {
	return o.Pod.Host.String()
}

// problem says what of the node's end only a new pair can put right, or "".
func (o *Pair) problem(host netlink.Link) string {
	if host.Type() != o.Kind {
		return fmt.Sprintf("is of kind %s instead of %s", host.Type(), o.Kind)
	}
	if o.Wrong == nil {
		return ""
	}
	return o.Wrong(host)
}

// Have implements object.Object.
func (o *Pair) Have(s *object.Site) (string, error) { return HaveDevices(s, o.Pod, o.problem) }

// HaveDevices says what of a pod's two devices is missing, or what wrong says of the node's.
func HaveDevices(s *object.Site, p *Pod, wrong func(netlink.Link) string) (string, error) {
	host, err := s.Link(p.Host)
	if err != nil {
		return "", err
	}
	if host == nil || !linkkind.IsPodDevice(host) {
		return fmt.Sprintf("device %s on the node is missing", p.Host.Name), nil
	}
	if problem := wrong(host); problem != "" {
		return fmt.Sprintf("device %s %s", p.Host.Name, problem), nil
	}
	if s.Pod == nil {
		return "", nil
	}
	inner, err := s.Link(p.Inner)
	if err != nil || inner != nil {
		return "", err
	}
	return fmt.Sprintf("device %s of the pod is missing", p.Inner.Name), nil
}

// Put implements object.Object. A pair that is not what it should be is deleted and made anew.
func (o *Pair) Put(s *object.Site) error {
	p, h := o.Pod, s.Node
	if s.Pod == nil {
		return nil // what is left of it on the node is all that there is to put right
	}
	host, inner := netlink.NewLinkAttrs(), netlink.NewLinkAttrs()
	host.Name, host.MTU, host.HardwareAddr, host.Group = p.Host.Name, p.MTU, p.HostMAC, p.Group
	inner.Name, inner.MTU, inner.HardwareAddr, inner.Namespace = p.Inner.Name, p.MTU, p.PodMAC, netlink.NsFd(s.Pod.NS)
	link := o.New(host, inner)
	err := h.LinkAdd(link)
	if errors.Is(err, unix.EEXIST) {
		usable, wrong := o.existing(s)
		if wrong != nil || usable {
			return wrong
		}
		err = h.LinkAdd(link)
	}
	if err != nil {
		return fmt.Errorf("create %s of MTU %d and group %#x with peer %s in %s: %w", o.Kind, p.MTU, p.Group, p.Inner.Name, p.NetNS, err)
	}
	made, err := h.LinkByName(p.Host.Name)
	if err != nil {
		return fmt.Errorf("find new device %s: %w", p.Host.Name, err)
	}
	s.Found(p.Host, made)
	// The node's end says which index the other one has, and all else of it was just asked for.
	peer := inner
	peer.Index, peer.MTU = made.Attrs().ParentIndex, made.Attrs().MTU
	s.Found(p.Inner, &netlink.Device{LinkAttrs: peer})
	return nil
}

// existing looks at what kept the pair from being created, and makes room for it if it is not
// usable. A device in the pod that is not ours is an error: it is not ours to remove.
func (o *Pair) existing(s *object.Site) (usable bool, err error) {
	p := o.Pod
	host, err := object.Find(s.Node, p.Host.Name)
	if err != nil {
		return false, err
	}
	if host != nil && !linkkind.IsPodDevice(host) {
		return false, fmt.Errorf("device %s exists and was not made by this datapath", p.Host.Name)
	}
	inPod, err := s.Pod.Handle()
	if err != nil {
		return false, err
	}
	inner, err := object.Find(inPod, p.Inner.Name)
	if err != nil {
		return false, err
	}
	pair := host != nil && inner != nil &&
		host.Attrs().ParentIndex == inner.Attrs().Index && inner.Attrs().ParentIndex == host.Attrs().Index
	ours := inner != nil && inner.Type() == linkkind.Veth && inner.Attrs().HardwareAddr.String() == claims.PodMAC(p.Host.Name).String()
	if inner != nil && !pair && !ours {
		return false, AlreadyThere(p, inner)
	}
	if pair && !linkkind.IsDying(host) && o.problem(host) == "" {
		s.Found(p.Host, host)
		s.Found(p.Inner, inner)
		return true, nil
	}
	if host != nil {
		if err := s.Node.LinkDel(host); err != nil && !netlinkx.Gone(err) {
			return false, fmt.Errorf("delete unusable device %s: %w", p.Host.Name, err)
		}
	}
	return false, nil
}

// AlreadyThere is the error of a device of others in the pod that has the name of the pod's.
func AlreadyThere(p *Pod, link netlink.Link) error {
	return fmt.Errorf("the pod's network namespace %s already has a device %s with MAC %s that was not made by this datapath",
		p.NetNS, link.Attrs().Name, link.Attrs().HardwareAddr)
}

// Del implements object.Object.
func (o *Pair) Del(s *object.Site) error { return o.Pod.node.Retire(s, o.Pod.Host) }
