package object

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/netlinkx"
)

// requester is an Object that is put by a request to one namespace; several of them are sent at
// once.
type requester interface {
	Object
	// at returns its device.
	at() Device
	// request returns nil if the object is already right.
	request(*Site) (*nl.NetlinkRequest, error)
	// wants returns what the request sets beside what the name says, for errors; or "".
	wants() string
}

// together returns how many objects at the beginning of a list are put by one message; 0 if the
// first is not a requester.
func together(list []Object) (n int) {
	var inPod bool
	for ; n < len(list); n++ {
		r, ok := list[n].(requester)
		if !ok || n > 0 && r.at().InPod != inPod {
			break
		}
		if a, ok := list[n].(Address); ok && a.Vacate != nil {
			break // it may need a second attempt
		}
		inPod = r.at().InPod
	}
	return n
}

// send puts requesters of one namespace in one message. done is how many came before the first that
// failed, or before those that must be put again.
func send(s *Site, list []Object) (done int, err error) {
	in := list[0].(requester).at()
	if in.InPod && s.Pod == nil {
		return len(list), nil
	}
	var all []*nl.NetlinkRequest
	var of []int // which object a request belongs to
	for i, o := range list {
		r, err := o.(requester).request(s)
		if err != nil {
			return 0, named(o, err)
		}
		if r != nil {
			all, of = append(all, r), append(of, i)
		}
	}
	if len(all) == 0 {
		return len(list), nil
	}
	b, err := s.Batch(in)
	if err != nil {
		return 0, err
	}
	refused, err := b.Do(all)
	if err != nil {
		return 0, fmt.Errorf("%s and what follows it: %w", list[0].Name(), err)
	}
	for i, err := range refused {
		if err == nil {
			continue
		}
		o := list[of[i]]
		if settings, ok := o.(Settings); ok {
			if err = settings.oneByOne(s, b); err == nil {
				return of[i] + 1, nil // later requests may have failed because of it
			}
		} else if wants := o.(requester).wants(); wants != "" {
			err = fmt.Errorf("set %s: %w", wants, err)
		}
		return of[i], named(o, err)
	}
	return len(list), nil
}

// Batch returns the socket in a device's namespace for several requests at once; the pod's must be
// there.
func (s *Site) Batch(d Device) (*netlinkx.Batch, error) {
	if !d.InPod {
		return s.NodeBatch()
	}
	return s.Pod.Batch()
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

func (Loopback) at() Device { return Device{Name: "lo", InPod: true} }

func (Loopback) request(*Site) (*nl.NetlinkRequest, error) {
	return linkRequest(1, []change{up}), nil
}

func (Loopback) wants() string { return up.what }

func (o PodRoute) at() Device { return o.On }

func (o PodRoute) request(s *Site) (*nl.NetlinkRequest, error) {
	index, err := s.Index(o.On)
	if err != nil {
		return nil, err
	}
	scope := uint8(unix.RT_SCOPE_UNIVERSE)
	if o.Address.Is4() {
		scope = unix.RT_SCOPE_LINK
	}
	return routeRequest(netip.PrefixFrom(o.Address, o.Address.BitLen()), netip.Addr{}, o.Source, index, claims.TableLocal, claims.Protocol, scope, 0), nil
}

func (o PodRoute) wants() string { return sourceText(o.Source) }

func (o Route) at() Device { return o.On }

func (o Route) request(s *Site) (*nl.NetlinkRequest, error) {
	index, err := s.Index(o.On)
	if err != nil {
		return nil, err
	}
	return routeRequest(o.To, o.Via, o.Source, index, unix.RT_TABLE_MAIN, unix.RTPROT_BOOT, unix.RT_SCOPE_UNIVERSE, uint32(netlink.FLAG_ONLINK)), nil
}

func (o Route) wants() string { return sourceText(o.Source) }

func sourceText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return "source address " + a.String()
}

// routeRequest returns a request that replaces a route. An invalid address is left out.
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

func (o Neighbour) request(s *Site) (*nl.NetlinkRequest, error) {
	index, err := s.Index(o.On)
	if err != nil {
		return nil, err
	}
	msg := &netlink.Ndmsg{Family: uint8(netlinkx.Family(o.Address)), Index: uint32(index), State: netlink.NUD_PERMANENT, Type: unix.RTN_UNICAST}
	return request(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, msg,
		nl.NewRtAttr(unix.NDA_DST, o.Address.AsSlice()), nl.NewRtAttr(unix.NDA_LLADDR, o.MAC)), nil
}

func (o Neighbour) wants() string { return "MAC " + o.MAC.String() }

func (o Address) at() Device { return o.On }

func (o Address) request(s *Site) (*nl.NetlinkRequest, error) {
	index, err := s.Index(o.On)
	if err != nil {
		return nil, err
	}
	msg := nl.NewIfAddrmsg(netlinkx.Family(o.Address))
	msg.Index, msg.Prefixlen = uint32(index), uint8(o.Address.BitLen())
	// It is usable at once: no other host can have it, so duplicate address detection, which takes
	// seconds, is not needed.
	if o.Address.Is6() {
		msg.IfAddrmsg.Flags |= unix.IFA_F_NODAD
	}
	return request(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, msg,
		nl.NewRtAttr(unix.IFA_LOCAL, o.Address.AsSlice()), nl.NewRtAttr(unix.IFA_ADDRESS, o.Address.AsSlice())), nil
}

func (o Address) wants() string { return "" }
