package object

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/netlinkx"
)

// requester is an Object that is put by requests to one namespace, of which many are sent at
// once; none if it is right already.
type requester interface {
	Object
	// at is its device.
	at() Device
	requests(*Site) ([]*nl.NetlinkRequest, error)
}

// together is how many objects of a list are put by one message, from its beginning; 0 if the
// first is not one of them.
func together(list []Object) (n int) {
	var inPod bool
	for ; n < len(list); n++ {
		r, ok := list[n].(requester)
		if !ok || n > 0 && r.at().InPod != inPod {
			break
		}
		if a, ok := list[n].(Address); ok && a.Vacate != nil {
			break // it may need a second try
		}
		inPod = r.at().InPod
	}
	return n
}

// send puts requesters of one namespace by one message. done is how many there were before the
// first that failed.
func send(s *Site, list []Object) (done int, err error) {
	in := list[0].(requester).at()
	if in.InPod && s.Pod == nil {
		return len(list), nil
	}
	var all []*nl.NetlinkRequest
	var of []int // which object a request is of
	for i, o := range list {
		requests, err := o.(requester).requests(s)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", o.Name(), err)
		}
		for range requests {
			of = append(of, i)
		}
		all = append(all, requests...)
	}
	if len(all) == 0 {
		return len(list), nil
	}
	b, err := s.batch(in)
	if err != nil {
		return 0, err
	}
	answers, err := b.Do(all)
	if err != nil {
		return 0, err
	}
	for i, answer := range answers {
		if answer != nil {
			return of[i], answer
		}
	}
	return len(list), nil
}

// batch is the socket for a device's namespace.
func (s *Site) batch(d Device) (*netlinkx.Batch, error) {
	if !d.InPod {
		return s.NodeBatch()
	}
	if s.podBatch == nil {
		b, err := netlinkx.NewBatch(s.Pod.NS)
		if err != nil {
			return nil, err
		}
		s.podBatch = b
	}
	return s.podBatch, nil
}

// put is the Put of a requester.
func put(s *Site, o requester) error {
	_, err := send(s, []Object{o})
	return err
}

func request(kind, flags int, parts ...nl.NetlinkRequestData) *nl.NetlinkRequest {
	r := nl.NewNetlinkRequest(kind, flags)
	for _, p := range parts {
		r.AddData(p)
	}
	return r
}

func (o Settings) at() Device { return o.Device }

func (o Settings) requests(s *Site) ([]*nl.NetlinkRequest, error) {
	link, err := s.Link(o.Device)
	if err != nil {
		return nil, err
	}
	if link == nil {
		return nil, errors.New("it is not there")
	}
	have := link.Attrs()
	info := nl.NewIfInfomsg(unix.AF_UNSPEC)
	info.Index = int32(have.Index)
	parts := []nl.NetlinkRequestData{info}
	if o.MAC != nil && have.HardwareAddr.String() != o.MAC.String() {
		parts = append(parts, nl.NewRtAttr(unix.IFLA_ADDRESS, o.MAC))
	}
	if o.MTU != 0 && have.MTU != o.MTU {
		parts = append(parts, nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(o.MTU))))
	}
	if o.Group != 0 && have.Group != o.Group {
		parts = append(parts, nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(o.Group)))
	}
	if o.Alias != "" && have.Alias != o.Alias {
		parts = append(parts, nl.NewRtAttr(unix.IFLA_IFALIAS, []byte(o.Alias)))
	}
	// At once: the kernel forgets neighbours when ARP is turned off.
	if o.NoARP && have.RawFlags&unix.IFF_NOARP == 0 {
		info.Flags, info.Change = info.Flags|unix.IFF_NOARP, info.Change|unix.IFF_NOARP
	}
	if have.Flags&net.FlagUp == 0 {
		info.Flags, info.Change = info.Flags|unix.IFF_UP, info.Change|unix.IFF_UP
	}
	if len(parts) == 1 && info.Change == 0 {
		return nil, nil
	}
	return []*nl.NetlinkRequest{request(unix.RTM_SETLINK, 0, parts...)}, nil
}

func (Loopback) at() Device { return Device{Name: "lo", InPod: true} }

func (Loopback) requests(*Site) ([]*nl.NetlinkRequest, error) {
	info := nl.NewIfInfomsg(unix.AF_UNSPEC)
	info.Index, info.Flags, info.Change = 1, unix.IFF_UP, unix.IFF_UP
	return []*nl.NetlinkRequest{request(unix.RTM_SETLINK, 0, info)}, nil
}

func (o PodRoute) at() Device { return o.On }

func (o PodRoute) requests(s *Site) ([]*nl.NetlinkRequest, error) {
	index, err := s.Index(o.On)
	if err != nil {
		return nil, err
	}
	scope := uint8(unix.RT_SCOPE_UNIVERSE)
	if o.Address.Is4() {
		scope = unix.RT_SCOPE_LINK
	}
	return []*nl.NetlinkRequest{routeRequest(netip.PrefixFrom(o.Address, o.Address.BitLen()), netip.Addr{}, o.Source, index, claims.TableLocal, claims.Protocol, scope, 0)}, nil
}

func (o Route) at() Device { return o.On }

func (o Route) requests(s *Site) ([]*nl.NetlinkRequest, error) {
	index, err := s.Index(o.On)
	if err != nil {
		return nil, err
	}
	return []*nl.NetlinkRequest{routeRequest(o.To, o.Via, o.Source, index, unix.RT_TABLE_MAIN, unix.RTPROT_BOOT, unix.RT_SCOPE_UNIVERSE, uint32(netlink.FLAG_ONLINK))}, nil
}

// routeRequest replaces a route. An address that is not valid is left out.
func routeRequest(to netip.Prefix, via, source netip.Addr, index, table int, protocol, scope uint8, flags uint32) *nl.NetlinkRequest {
	msg := nl.NewRtMsg()
	msg.Family, msg.Dst_len, msg.Protocol, msg.Scope, msg.Type, msg.Flags = uint8(netlinkx.Family(to.Addr())), uint8(to.Bits()), protocol, scope, unix.RTN_UNICAST, flags
	msg.Table = unix.RT_TABLE_UNSPEC
	parts := []nl.NetlinkRequestData{msg,
		nl.NewRtAttr(unix.RTA_DST, to.Addr().AsSlice()),
		nl.NewRtAttr(unix.RTA_TABLE, nl.Uint32Attr(uint32(table))),
		nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(index))),
	}
	if via.IsValid() {
		parts = append(parts, nl.NewRtAttr(unix.RTA_GATEWAY, via.AsSlice()))
	}
	if source.IsValid() {
		parts = append(parts, nl.NewRtAttr(unix.RTA_PREFSRC, source.AsSlice()))
	}
	return request(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, parts...)
}

func (o Neighbour) at() Device { return o.On }

func (o Neighbour) requests(s *Site) ([]*nl.NetlinkRequest, error) {
	index, err := s.Index(o.On)
	if err != nil {
		return nil, err
	}
	msg := &netlink.Ndmsg{Family: uint8(netlinkx.Family(o.Address)), Index: uint32(index), State: netlink.NUD_PERMANENT, Type: unix.RTN_UNICAST}
	return []*nl.NetlinkRequest{request(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, msg,
		nl.NewRtAttr(unix.NDA_DST, o.Address.AsSlice()), nl.NewRtAttr(unix.NDA_LLADDR, o.MAC))}, nil
}

func (o Address) at() Device { return o.On }

func (o Address) requests(s *Site) ([]*nl.NetlinkRequest, error) {
	index, err := s.Index(o.On)
	if err != nil {
		return nil, err
	}
	msg := nl.NewIfAddrmsg(netlinkx.Family(o.Address))
	msg.Index, msg.Prefixlen = uint32(index), uint8(o.Address.BitLen())
	// It is usable at once: nobody else can have it, so there is nothing to detect
	// (duplicate address detection takes seconds).
	if o.Address.Is6() {
		msg.IfAddrmsg.Flags |= unix.IFA_F_NODAD
	}
	return []*nl.NetlinkRequest{request(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, msg,
		nl.NewRtAttr(unix.IFA_LOCAL, o.Address.AsSlice()), nl.NewRtAttr(unix.IFA_ADDRESS, o.Address.AsSlice()))}, nil
}
