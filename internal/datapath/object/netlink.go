package object

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"go4.org/netipx"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/netlinkx"
	"terway.dev/terway/internal/sysctl"
)

// Sysctl is a setting of one of the two namespaces. In the pod's it is put with the pod; the pod
// may change it afterwards.
type Sysctl struct {
	stays
	InPod bool
	sysctl.Setting
}

func (o Sysctl) Name() string { return "sysctl net/" + o.Path }

// Have implements Object; View.ReadSysctls has read the value.
func (o Sysctl) Have(s *Site) (string, error) {
	if o.InPod {
		return "", nil
	}
	v, read := s.View.sysctls[o.Path]
	if !read {
		return "", fmt.Errorf("%s: not read (View.ReadSysctls)", o.Name())
	}
	if !v.differs {
		return "", v.err
	}
	return fmt.Sprintf("sysctl net/%s is not %s", o.Path, o.Value), nil
}

func (o Sysctl) Put(s *Site) error {
	_, err := writeSysctls(s, []Object{o})
	return err
}

// writeSysctls writes the sysctls at the beginning of a list that are of one namespace, n of them,
// in one visit to it; done is n, or 0 after an error.
func writeSysctls(s *Site, list []Object) (done int, err error) {
	var settings []sysctl.Setting
	first := list[0].(Sysctl)
	for _, o := range list {
		next, ok := o.(Sysctl)
		if !ok || next.InPod != first.InPod {
			break
		}
		settings = append(settings, next.Setting)
	}
	ns := s.NodeNS
	if first.InPod {
		if s.Pod == nil {
			return len(settings), nil
		}
		ns = s.Pod.NS
	}
	if _, err := sysctl.Set(s.ProcSys, ns, settings); err != nil {
		return 0, err // it names those that failed
	}
	return len(settings), nil
}

// Settings are those of an existing device, which is set up when they are put.
type Settings struct {
	stays
	Device
	// MAC is ignored if nil, MTU and Group if 0, and Alias if "".
	MAC   net.HardwareAddr
	MTU   int
	Group uint32
	// NoARP: the device takes no part in ARP and ND.
	NoARP bool
	// Alias is for people: `ip link` shows it. A difference causes no repair.
	Alias string
	// Conf are settings of the device below net/ipv4/conf: those of devconf. They are put by
	// netlink with all the rest: the kernel need not create and open a file of a new device. The
	// pod may change those of its devices afterwards.
	Conf []sysctl.Setting
}

func (o Settings) Name() string { return o.String() }

func (o Settings) Have(s *Site) (string, error) {
	link, err := s.Link(o.Device)
	if err != nil || link == nil {
		return "", err // the object that makes the device reports it
	}
	changes, err := o.changes(link.Attrs())
	if err != nil {
		return "", err
	}
	for _, c := range changes {
		if c.wrong != "" {
			return fmt.Sprintf("%s %s", o, c.wrong), nil
		}
	}
	for _, c := range o.Conf {
		if problem, err := (Sysctl{InPod: o.InPod, Setting: c}).Have(s); err != nil || problem != "" {
			return problem, err
		}
	}
	return "", nil
}

func (o Settings) Put(s *Site) error {
	_, err := send(s, []Object{o})
	return err
}

// Loopback returns lo of the pod, up. The pod may set it down again.
func Loopback() Object {
	return requested{
		on: Device{Name: "lo", InPod: true}, name: "lo of the pod", sets: up.what,
		have:    func(*Site, int) (bool, error) { return true, nil },
		request: func(index int) *nl.NetlinkRequest { return linkRequest(index, []change{up}) },
	}
}

// PodRoute returns the host route to a pod's address in the table of local pods. Source is the
// node's address that local processes use, if any. It is deleted by address and device: the address
// may already be another pod's, whose route must stay.
func PodRoute(on Device, a, source netip.Addr) Object {
	to, scope := netip.PrefixFrom(a, a.BitLen()), uint8(unix.RT_SCOPE_UNIVERSE)
	if a.Is4() {
		scope = unix.RT_SCOPE_LINK
	}
	return requested{
		on: on, name: fmt.Sprintf("route to %s dev %s in table %d", a, on.Name, claims.TableLocal), sets: sourceText(source),
		have: func(s *Site, index int) (bool, error) {
			return index != 0 && slices.ContainsFunc(s.View.Pods[a], func(r netlink.Route) bool {
				return r.LinkIndex == index && (!source.IsValid() || netlinkx.Addr(r.Src) == source)
			}), nil
		},
		request: func(index int) *nl.NetlinkRequest {
			return routeRequest(to, netip.Addr{}, source, index, claims.TableLocal, claims.Protocol, scope, 0)
		},
		del: func(s *Site, index int) error {
			return s.Node.RouteDel(&netlink.Route{
				Family: netlinkx.Family(a), Table: claims.TableLocal, Protocol: claims.Protocol, Type: unix.RTN_UNICAST,
				Scope: netlink.Scope(scope), LinkIndex: index, Dst: netipx.PrefixIPNet(to),
			})
		},
	}
}

// Route returns a route in the pod's main table, by a device of the pod. Source may be left out.
func Route(on Device, to netip.Prefix, via, source netip.Addr) Object {
	what := "default route"
	if to.Bits() != 0 {
		what = "route to " + to.String()
	}
	want := netlink.Route{Dst: netipx.PrefixIPNet(to)}
	return requested{
		on: on, name: fmt.Sprintf("%s via %s of the pod", what, via), sets: sourceText(source),
		have: func(s *Site, index int) (bool, error) {
			routes, err := inPod(s, "routes", index, netlinkx.Family(via), (*netlink.Handle).RouteList)
			return index == 0 || slices.ContainsFunc(routes, func(r netlink.Route) bool {
				return netlinkx.SameDst(r, want) && r.Type == unix.RTN_UNICAST && netlinkx.Addr(r.Gw) == via
			}), err
		},
		request: func(index int) *nl.NetlinkRequest {
			return routeRequest(to, via, source, index, unix.RT_TABLE_MAIN, unix.RTPROT_BOOT, unix.RT_SCOPE_UNIVERSE, uint32(netlink.FLAG_ONLINK))
		},
	}
}

// Neighbour returns a permanent neighbour: it needs no ARP or ND. It is deleted on the node, where a
// device may stay without it.
func Neighbour(on Device, a netip.Addr, mac net.HardwareAddr) Object {
	o := requested{
		on: on, name: fmt.Sprintf("neighbour %s dev %s", a, on.Name), sets: "MAC " + mac.String(),
		have: func(s *Site, index int) (bool, error) {
			return index == 0 || s.View.neighs[neighKey{index, a}].String() == mac.String(), nil
		},
		request: func(index int) *nl.NetlinkRequest {
			msg := &netlink.Ndmsg{Family: uint8(netlinkx.Family(a)), Index: uint32(index), State: netlink.NUD_PERMANENT, Type: unix.RTN_UNICAST}
			return request(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, msg,
				nl.NewRtAttr(unix.NDA_DST, a.AsSlice()), nl.NewRtAttr(unix.NDA_LLADDR, mac))
		},
		del: func(s *Site, index int) error {
			return s.Node.NeighDel(&netlink.Neigh{Family: netlinkx.Family(a), LinkIndex: index, IP: a.AsSlice()})
		},
	}
	if on.InPod {
		o.name, o.del = fmt.Sprintf("neighbour %s of the pod", a), nil
		o.have = func(s *Site, index int) (bool, error) {
			list, err := inPod(s, "neighbours", index, netlinkx.Family(a), func(h *netlink.Handle, link netlink.Link, family int) ([]netlink.Neigh, error) {
				return h.NeighList(link.Attrs().Index, family)
			})
			return index == 0 || slices.ContainsFunc(list, func(n netlink.Neigh) bool {
				return n.State&netlink.NUD_PERMANENT != 0 && netlinkx.Addr(n.IP) == a && n.HardwareAddr.String() == mac.String()
			}), err
		}
	}
	return o
}

// Address returns an address of the pod. removeFromOthers removes it from another device that has
// it, for kernels' device types that allow an address on only one device; it may be nil.
func Address(on Device, a netip.Addr, removeFromOthers func(netip.Addr) error) Object {
	o := requested{
		on: on, name: fmt.Sprintf("address %s of the pod's %s", a, on.Name),
		have: func(s *Site, index int) (bool, error) {
			addrs, err := inPod(s, "addresses", index, netlinkx.Family(a), (*netlink.Handle).AddrList)
			return index == 0 || slices.ContainsFunc(addrs, func(x netlink.Addr) bool { return netlinkx.Addr(x.IP) == a }), err
		},
		request: func(index int) *nl.NetlinkRequest {
			msg := nl.NewIfAddrmsg(netlinkx.Family(a))
			msg.Index, msg.Prefixlen = uint32(index), uint8(a.BitLen())
			// It is usable at once: no other host can have it, so duplicate address detection, which
			// takes seconds, is not needed.
			if a.Is6() {
				msg.IfAddrmsg.Flags |= unix.IFA_F_NODAD
			}
			return request(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, msg,
				nl.NewRtAttr(unix.IFA_LOCAL, a.AsSlice()), nl.NewRtAttr(unix.IFA_ADDRESS, a.AsSlice()))
		},
	}
	if removeFromOthers != nil {
		o.removeFromOthers = func() error { return removeFromOthers(a) }
	}
	return o
}

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
