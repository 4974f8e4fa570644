package object

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
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

// Name implements Object.
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

// Put implements Object.
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

// Name implements Object.
func (o Settings) Name() string { return o.String() }

// Have implements Object.
func (o Settings) Have(s *Site) (string, error) {
	link, err := s.Link(o.Device)
	if err != nil || link == nil {
		return "", err // the object that makes the device reports it
	}
	at := link.Attrs()
	switch {
	case o.Group != 0 && at.Group != o.Group:
		return fmt.Sprintf("%s is in group %#x instead of %#x", o, at.Group, o.Group), nil
	case o.MAC != nil && at.HardwareAddr.String() != o.MAC.String():
		return fmt.Sprintf("%s has MAC %s instead of %s", o, at.HardwareAddr, o.MAC), nil
	case o.MTU != 0 && at.MTU != o.MTU:
		return fmt.Sprintf("%s has MTU %d instead of %d", o, at.MTU, o.MTU), nil
	case at.Flags&net.FlagUp == 0:
		return fmt.Sprintf("%s is down", o), nil
	case o.NoARP && at.RawFlags&unix.IFF_NOARP == 0:
		return fmt.Sprintf("%s answers ARP", o), nil
	}
	for _, c := range o.Conf {
		if problem, err := (Sysctl{InPod: o.InPod, Setting: c}).Have(s); err != nil || problem != "" {
			return problem, err
		}
	}
	return "", nil
}

// Put implements Object.
func (o Settings) Put(s *Site) error { return put(s, o) }

// Loopback is lo of the pod, up. The pod may set it down again.
type Loopback struct{ stays }

// Name implements Object.
func (Loopback) Name() string { return "lo of the pod" }

// Have implements Object.
func (Loopback) Have(*Site) (string, error) { return "", nil }

// Put implements Object.
func (o Loopback) Put(s *Site) error { return put(s, o) }

// PodRoute is the host route to a pod in the table of local pods.
type PodRoute struct {
	On      Device
	Address netip.Addr
	// Source is the node's address that local processes use, if any.
	Source netip.Addr
}

// Name implements Object.
func (o PodRoute) Name() string {
	return fmt.Sprintf("route to %s dev %s in table %d", o.Address, o.On.Name, claims.TableLocal)
}

func (o PodRoute) route(index int) *netlink.Route {
	r := &netlink.Route{
		Family: netlinkx.Family(o.Address), Table: claims.TableLocal, Protocol: claims.Protocol, Type: unix.RTN_UNICAST,
		LinkIndex: index, Dst: netipx.AddrIPNet(o.Address),
	}
	if o.Address.Is4() {
		r.Scope = unix.RT_SCOPE_LINK
	}
	return r
}

// Have implements Object.
func (o PodRoute) Have(s *Site) (string, error) {
	index, err := s.Index(o.On)
	if err != nil {
		return "", err
	}
	if index != 0 && slices.ContainsFunc(s.View.Pods[o.Address], func(r netlink.Route) bool {
		return r.LinkIndex == index && (!o.Source.IsValid() || netlinkx.Addr(r.Src) == o.Source)
	}) {
		return "", nil
	}
	return o.Name() + " is missing", nil
}

// Put implements Object.
func (o PodRoute) Put(s *Site) error { return put(s, o) }

// Del implements Object. It includes the device: the address may already be another pod's, whose
// route must stay.
func (o PodRoute) Del(s *Site) error {
	index, err := s.Index(o.On)
	if err != nil || index == 0 {
		return err
	}
	if err := s.Node.RouteDel(o.route(index)); err != nil && !netlinkx.Gone(err) {
		return fmt.Errorf("remove: %w", err)
	}
	return nil
}

// Route is a route in the pod's main table, by a device of the pod.
type Route struct {
	stays
	On  Device
	To  netip.Prefix
	Via netip.Addr
	// Source may be left out.
	Source netip.Addr
}

// Name implements Object.
func (o Route) Name() string {
	to := "default route"
	if o.To.Bits() != 0 {
		to = "route to " + o.To.String()
	}
	return fmt.Sprintf("%s via %s of the pod", to, o.Via)
}

// Have implements Object.
func (o Route) Have(s *Site) (string, error) {
	link, err := s.Link(o.On)
	if err != nil || link == nil {
		return "", err
	}
	routes, err := s.routes(link, netlinkx.Family(o.Via))
	if err != nil {
		return "", err
	}
	want := netlink.Route{Dst: netipx.PrefixIPNet(o.To)}
	if slices.ContainsFunc(routes, func(r netlink.Route) bool {
		return netlinkx.SameDst(r, want) && r.Type == unix.RTN_UNICAST && netlinkx.Addr(r.Gw) == o.Via
	}) {
		return "", nil
	}
	return o.Name() + " is missing", nil
}

// Put implements Object.
func (o Route) Put(s *Site) error { return put(s, o) }

// Neighbour is a permanent neighbour: it needs no ARP or ND.
type Neighbour struct {
	stays
	On      Device
	Address netip.Addr
	MAC     net.HardwareAddr
}

// Name implements Object.
func (o Neighbour) Name() string {
	if o.On.InPod {
		return fmt.Sprintf("neighbour %s of the pod", o.Address)
	}
	return fmt.Sprintf("neighbour %s dev %s", o.Address, o.On.Name)
}

// Have implements Object.
func (o Neighbour) Have(s *Site) (string, error) {
	index, err := s.Index(o.On)
	if err != nil || index == 0 {
		return "", err
	}
	n, ok, err := s.neighbour(o.On, index, o.Address)
	if err != nil || ok && n.HardwareAddr.String() == o.MAC.String() {
		return "", err
	}
	return o.Name() + " is missing", nil
}

// Put implements Object.
func (o Neighbour) Put(s *Site) error { return put(s, o) }

// Address is an address of the pod.
type Address struct {
	stays
	On      Device
	Address netip.Addr
	// Vacate removes it from another device that has it, for kernels' device types that allow an
	// address on only one device; it may be nil.
	Vacate func(netip.Addr) error
}

// Name implements Object.
func (o Address) Name() string {
	return fmt.Sprintf("address %s of the pod's %s", o.Address, o.On.Name)
}

// Have implements Object.
func (o Address) Have(s *Site) (string, error) {
	link, err := s.Link(o.On)
	if err != nil || link == nil {
		return "", err
	}
	addrs, err := s.addresses(link, netlinkx.Family(o.Address))
	if err != nil || slices.ContainsFunc(addrs, func(x netlink.Addr) bool { return netlinkx.Addr(x.IP) == o.Address }) {
		return "", err
	}
	return o.Name() + " is missing", nil
}

// Put implements Object.
func (o Address) Put(s *Site) error {
	err := put(s, o)
	if o.Vacate != nil && errors.Is(err, unix.EADDRINUSE) {
		if err = o.Vacate(o.Address); err == nil {
			err = put(s, o)
		}
	}
	return err
}
