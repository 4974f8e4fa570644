package shaping

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/object"
	"terway.dev/terway/internal/netlinkx"
)

// ifb is a device in the pod whose queue packets of other devices pass, before they go on as if they
// had not.
type ifb struct {
	guard
	on object.Device
}

func (o ifb) Name() string { return o.on.String() }

func (o ifb) Have(s *object.Site) (string, error) {
	if s.Pod == nil {
		return "", nil
	}
	link, err := s.Link(o.on)
	switch {
	case err != nil:
		return "", err
	case link == nil:
		return fmt.Sprintf("%s is missing", o.on), nil
	case link.Type() != kindIFB:
		return fmt.Sprintf("%s is of kind %s instead of %s", o.on, link.Type(), kindIFB), nil
	case link.Attrs().Flags&net.FlagUp == 0:
		return fmt.Sprintf("%s is down", o.on), nil
	}
	o.saw()
	return "", nil
}

const kindIFB = "ifb"

func (o ifb) Put(s *object.Site) error {
	if s.Pod == nil {
		return nil
	}
	h, err := s.Pod.Handle()
	if err != nil {
		return err
	}
	link, err := object.Find(h, o.on.Name)
	if err != nil {
		return err
	}
	if link != nil && link.Type() != kindIFB {
		return errors.New("another device has its name: remove it")
	}
	if link == nil {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = o.on.Name
		if err := h.LinkAdd(&netlink.Ifb{LinkAttrs: attrs}); err != nil {
			return fmt.Errorf("create a device of kind ifb (CONFIG_IFB), without which the pod's bandwidth cannot be limited: %w", err)
		}
		if link, err = h.LinkByName(o.on.Name); err != nil {
			return fmt.Errorf("find the new device: %w", err)
		}
	}
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("set it up: %w", err)
	}
	s.Found(o.on, link)
	return nil
}

// detour sends all packets at an attach point in the pod to a device ifb.
type detour struct {
	guard
	at node.Point
	to object.Device
}

func (o detour) Name() string {
	return fmt.Sprintf("tc filter of %s that sends packets to %s", o.at.Device, o.to.Name)
}

func (o detour) parent() uint32 {
	if o.at.Ingress {
		return netlink.HANDLE_MIN_INGRESS
	}
	return netlink.HANDLE_MIN_EGRESS
}

// filters returns the device's filters with our priority.
func (o detour) filters(s *object.Site, h *netlink.Handle, link netlink.Link) (ours []netlink.Filter, err error) {
	all, err := netlinkx.List(s.Ctx, "tc filters of "+o.at.Device.String(), func() ([]netlink.Filter, error) { return h.FilterList(link, o.parent()) })
	if err != nil && !netlinkx.Gone(err) && !errors.Is(err, unix.EINVAL) { // without clsact there are none
		return nil, err
	}
	for _, f := range all {
		if f.Attrs().Priority == claims.PrefShaping {
			ours = append(ours, f)
		}
	}
	return ours, nil
}

func (o detour) Have(s *object.Site) (string, error) {
	if s.Pod == nil {
		return "", nil
	}
	link, err := s.Link(o.at.Device)
	if err != nil {
		return "", err
	}
	if link == nil {
		o.unsaw()
		return "", nil // the object that makes the device reports it
	}
	index, err := s.Index(o.to)
	if err != nil {
		return "", err
	}
	h, err := s.Pod.Handle()
	if err != nil {
		return "", err
	}
	ours, err := o.filters(s, h, link)
	if err != nil {
		return "", err
	}
	if index != 0 && leadsTo(ours, index) {
		o.saw()
		return "", nil
	}
	return o.Name() + " is missing", nil
}

// leadsTo reports whether a device has our filter and no other with its priority. The kernel lists
// u32's hash table as a filter too.
func leadsTo(filters []netlink.Filter, index int) bool {
	found := 0
	for _, f := range filters {
		u32, ok := f.(*netlink.U32)
		if !ok {
			return false
		}
		for _, a := range u32.Actions {
			if m, ok := a.(*netlink.MirredAction); ok && m.Ifindex == index && m.MirredAction == netlink.TCA_EGRESS_REDIR {
				found++
			}
		}
	}
	return found == 1
}

func (o detour) Put(s *object.Site) error {
	if s.Pod == nil {
		return nil
	}
	h, err := s.Pod.Handle()
	if err != nil {
		return err
	}
	link, err := s.Link(o.at.Device)
	if err == nil && link == nil {
		err = errors.New("the device does not exist")
	}
	if err != nil {
		return err
	}
	index, err := s.Index(o.to)
	if err != nil {
		return err
	}
	if err := o.remove(s, h, link); err != nil {
		return err
	}
	clsact := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
	if err := h.QdiscAdd(clsact); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add qdisc clsact (CONFIG_NET_SCH_INGRESS): %w", err)
	}
	if err := h.FilterAdd(&netlink.U32{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: link.Attrs().Index, Parent: o.parent(), Priority: claims.PrefShaping, Protocol: unix.ETH_P_ALL},
		Actions:     []netlink.Action{netlink.NewMirredAction(index)},
	}); err != nil {
		return fmt.Errorf("add a filter u32 with action mirred (CONFIG_NET_CLS_U32, CONFIG_NET_ACT_MIRRED): %w", err)
	}
	return nil
}

// remove removes our filters.
func (o detour) remove(s *object.Site, h *netlink.Handle, link netlink.Link) error {
	ours, err := o.filters(s, h, link)
	if err != nil || len(ours) == 0 {
		return err
	}
	// Without a handle all filters of the priority go.
	err = h.FilterDel(&netlink.U32{FilterAttrs: netlink.FilterAttrs{
		LinkIndex: link.Attrs().Index, Parent: o.parent(), Priority: claims.PrefShaping, Protocol: unix.ETH_P_ALL,
	}})
	if err != nil && !netlinkx.Gone(err) {
		return fmt.Errorf("remove tc filter: %w", err)
	}
	return nil
}

// noDetour is the absence of a limit on an ifb, after it was removed.
type noDetour struct {
	q      *queue
	inside []node.Point
}

func (o noDetour) Name() string { return o.q.Name() }

func (o noDetour) Have(s *object.Site) (string, error) {
	if s.Pod == nil {
		return "", nil
	}
	link, err := s.Link(o.q.on)
	if err != nil || link == nil || link.Type() != kindIFB {
		return "", err
	}
	return fmt.Sprintf("%s is there for a bandwidth limit that was removed", o.q.on), nil
}

// Put implements object.Object. The device is deleted when nothing waits in it any more.
func (o noDetour) Put(s *object.Site) error {
	if s.Pod == nil {
		return nil
	}
	h, err := s.Pod.Handle()
	if err != nil {
		return err
	}
	for _, at := range o.inside {
		link, err := s.Link(at.Device)
		if err == nil && link != nil {
			err = detour{at: at, to: o.q.on}.remove(s, h, link)
		}
		if err != nil {
			return err
		}
	}
	link, err := object.Find(h, o.q.on.Name)
	if err != nil || link == nil || link.Type() != kindIFB {
		return err
	}
	is, err := o.q.look(s, link)
	if err != nil || is.backlog {
		return err
	}
	if err := h.LinkDel(link); err != nil && !netlinkx.Gone(err) {
		return fmt.Errorf("delete %s: %w", o.q.on, err)
	}
	return nil
}

func (o noDetour) Del(s *object.Site) error { return o.q.Del(s) }
