package node

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/linkkind"
	"terway.dev/terway/internal/datapath/object"
	"terway.dev/terway/internal/netlinkx"
)

// Pair is the object of both devices of a pod, which are made by one request: the pod's end is
// created in its namespace.
type Pair struct {
	Pod *Pod
	// Kind is the kernel's name of the kind of device.
	Kind string
	// Peer is the attribute of IFLA_INFO_DATA that describes the other end, Data are further
	// attributes.
	Peer int
	Data []*nl.RtAttr
	// Problem returns what is wrong with the node's end and needs a new pair, or ""; may be nil.
	Problem func(netlink.Link) string
}

func (o *Pair) Name() string { return o.Pod.Host.String() }

func (o *Pair) Have(s *object.Site) (string, error) {
	return HaveDevices(s, o.Pod, o.Kind, o.Problem)
}

// HaveDevices returns which of a pod's two devices of a kind is missing, or what is wrong with the
// node's; problem is as in Pair.
func HaveDevices(s *object.Site, p *Pod, kind string, problem func(netlink.Link) string) (string, error) {
	host, err := s.Link(p.Host)
	if err != nil {
		return "", err
	}
	if host == nil || !linkkind.IsPodDevice(host) {
		return fmt.Sprintf("device %s on the node is missing", p.Host.Name), nil
	}
	if wrong := wrongEnd(host, kind, problem); wrong != "" {
		return fmt.Sprintf("device %s %s", p.Host.Name, wrong), nil
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

func wrongEnd(host netlink.Link, kind string, problem func(netlink.Link) string) string {
	if host.Type() != kind {
		return fmt.Sprintf("is of kind %s instead of %s", host.Type(), kind)
	}
	if problem == nil {
		return ""
	}
	return problem(host)
}

// Put implements object.Object. A wrong pair is deleted and made again.
func (o *Pair) Put(s *object.Site) error {
	p := o.Pod
	if s.Pod == nil {
		return nil // no pair can be made without the pod's namespace
	}
	b, err := s.NodeBatch()
	if err != nil {
		return err
	}
	err = o.make(s, b)
	if errors.Is(err, unix.EEXIST) {
		usable, wrong := o.existing(s)
		if wrong != nil || usable {
			return wrong
		}
		err = o.make(s, b)
	}
	if err != nil {
		return fmt.Errorf("create %s of MTU %d and group %#x with peer %s in %s: %w", o.Kind, p.MTU, p.Group, p.Inner.Name, p.NetNS, err)
	}
	made, err := o.find(b)
	if err != nil {
		return fmt.Errorf("find new device %s: %w", p.Host.Name, err)
	}
	s.Found(p.Host, made)
	// The node's end has the index of the other one, which was just made as requested.
	s.Found(p.Inner, &netlink.Device{LinkAttrs: netlink.LinkAttrs{
		Name: p.Inner.Name, Index: made.Attrs().ParentIndex, MTU: made.Attrs().MTU, HardwareAddr: p.PodMAC,
	}})
	return nil
}

// make requests both ends, down.
func (o *Pair) make(s *object.Site, b *netlinkx.Batch) error {
	p := o.Pod
	end := func(d object.Device, mac net.HardwareAddr) (list []*nl.RtAttr) {
		list = append(list, nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(d.Name)))
		if p.MTU != 0 {
			list = append(list, nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(p.MTU))))
		}
		if mac != nil {
			list = append(list, nl.NewRtAttr(unix.IFLA_ADDRESS, mac))
		}
		return list
	}
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated(o.Kind))
	data := info.AddRtAttr(nl.IFLA_INFO_DATA, nil)
	for _, a := range o.Data {
		data.AddChild(a)
	}
	peer := data.AddRtAttr(o.Peer, nil)
	nl.NewIfInfomsgChild(peer, unix.AF_UNSPEC)
	for _, a := range append(end(p.Inner, p.PodMAC), nl.NewRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(s.Pod.NS)))) {
		peer.AddChild(a)
	}
	r := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	r.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	for _, a := range append(end(p.Host, p.HostMAC), nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(p.Group)), info) {
		r.AddData(a)
	}
	refused, err := b.Do([]*nl.NetlinkRequest{r})
	return errors.Join(append(refused, err)...)
}

// find finds the node's end.
func (o *Pair) find(b *netlinkx.Batch) (netlink.Link, error) {
	r := nl.NewNetlinkRequest(unix.RTM_GETLINK, 0)
	r.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	r.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(o.Pod.Host.Name)))
	answer, err := b.Ask(r)
	if err != nil {
		return nil, err
	}
	return netlink.LinkDeserialize(nil, answer)
}

// existing examines what prevented the creation of the pair, and deletes it if it is not usable. A
// device in the pod that is not ours is an error, and is not removed.
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
		return false, AlreadyThere(p.Pod, inner)
	}
	if pair && !linkkind.IsDying(host) && wrongEnd(host, o.Kind, o.Problem) == "" {
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

// AlreadyThere is the error for a device in the pod that is not ours and has the name of the pod's.
func AlreadyThere(p datapath.Pod, link netlink.Link) error {
	return fmt.Errorf("the pod's network namespace %s already has a device %s with MAC %s that was not made by this datapath",
		p.NetNS, link.Attrs().Name, link.Attrs().HardwareAddr)
}

func (o *Pair) Del(s *object.Site) error { return o.Pod.node.Retire(s, o.Pod.Host) }
