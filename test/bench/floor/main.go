// Command floor makes and removes the kernel objects of one pod with bare netlink requests:
// without checks, locks or records, and with a given address. The benchmark of ADD and DEL uses
// it as a lower bound: no program that wires a pod in this way can be faster.
//
// It is called like a CNI plugin, in the node's network namespace, with an Order as its input.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Order describes what to wire; package bench writes it.
type Order struct {
	// Name is the node's end of the pod's veth.
	Name string
	// Address is the pod's address, Node the node's.
	Address, Node net.IP
	// Table is the nftables table with a map "pods" (ifname . ipv4_addr : mark).
	Table string
	// Device is the MAC of the ENI to move into the pod; empty for a shared one.
	Device string
	// Gateway is the pod's next hop on that ENI.
	Gateway net.IP
}

// The pods' next hop on the veth, and the table of routes to local pods, as in package route.
var gateway = net.IPv4(169, 254, 1, 1)

const localPods = 2100

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "floor:", err)
		os.Exit(1)
	}
}

func run() error {
	var o Order
	if err := json.NewDecoder(os.Stdin).Decode(&o); err != nil {
		return err
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	c, err := nftables.New()
	if err != nil {
		return err
	}
	path := os.Getenv("CNI_NETNS")
	if os.Getenv("CNI_COMMAND") == "DEL" {
		return o.remove(h, c, path)
	}
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return err
	}
	ph, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	return o.add(h, ph, c, ns)
}

func (o *Order) element() (*nftables.Set, []nftables.SetElement, error) {
	key, err := nftables.ConcatSetType(nftables.TypeIFName, nftables.TypeIPAddr)
	if err != nil {
		return nil, nil, err
	}
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, o.Name)
	set := &nftables.Set{
		Table: &nftables.Table{Family: nftables.TableFamilyINet, Name: o.Table}, Name: "pods",
		KeyType: key, DataType: nftables.TypeMark, IsMap: true, Concatenation: true,
	}
	return set, []nftables.SetElement{{Key: append(name, o.Address.To4()...), Val: binaryutil.NativeEndian.PutUint32(1)}}, nil
}

func host(ip net.IP) *net.IPNet { return &net.IPNet{IP: ip.To4(), Mask: net.CIDRMask(32, 32)} }

func neighbour(ip net.IP, mac net.HardwareAddr, index int) *netlink.Neigh {
	return &netlink.Neigh{LinkIndex: index, State: netlink.NUD_PERMANENT, IP: ip.To4(), HardwareAddr: mac}
}

func (o *Order) add(h, ph *netlink.Handle, c *nftables.Conn, ns netns.NsHandle) error {
	// udev does not change a MAC that was set explicitly, so a careful program sets one.
	a := o.Address.To4()
	outer, inner := net.HardwareAddr{0x0a, 0, a[0], a[1], a[2], a[3]}, net.HardwareAddr{0x0e, 0, a[0], a[1], a[2], a[3]}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr, attrs.Flags = o.Name, 1500, outer, net.FlagUp
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerNamespace, veth.PeerHardwareAddr = "eth0", netlink.NsFd(ns), inner
	if o.Device != "" {
		veth.PeerName = "veth1"
	}
	if err := h.LinkAdd(veth); err != nil {
		return err
	}
	there, err := h.LinkByName(o.Name)
	if err != nil {
		return err
	}
	here, err := ph.LinkByName(veth.PeerName)
	if err != nil {
		return err
	}
	i, j := there.Attrs().Index, here.Attrs().Index
	set, element, err := o.element()
	if err != nil {
		return err
	}
	out := &netlink.Route{LinkIndex: j, Gw: gateway.To4(), Flags: int(netlink.FLAG_ONLINK)}
	if o.Device != "" {
		out.Dst = host(o.Node)
	}
	err = errors.Join(
		h.RouteAdd(&netlink.Route{Table: localPods, LinkIndex: i, Scope: unix.RT_SCOPE_LINK, Dst: host(o.Address), Src: o.Node.To4()}),
		h.NeighAdd(neighbour(o.Address, inner, i)),
		c.SetAddElements(set, element), c.Flush(),
		ph.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 1}}),
		ph.LinkSetUp(here),
		ph.AddrAdd(here, &netlink.Addr{IPNet: host(o.Address)}),
		ph.NeighAdd(neighbour(gateway, outer, j)),
		ph.RouteAdd(out),
	)
	if err != nil || o.Device == "" {
		return err
	}
	eni, err := byMAC(h, o.Device)
	if err != nil {
		return err
	}
	if err := errors.Join(h.LinkSetDown(eni), h.LinkSetNsFd(eni, int(ns))); err != nil {
		return err
	}
	if eni, err = byMAC(ph, o.Device); err != nil {
		return err
	}
	return errors.Join(ph.LinkSetName(eni, "eth0"), ph.LinkSetUp(eni), ph.AddrAdd(eni, &netlink.Addr{IPNet: host(o.Address)}),
		ph.RouteAdd(&netlink.Route{LinkIndex: eni.Attrs().Index, Gw: o.Gateway.To4(), Flags: int(netlink.FLAG_ONLINK)}))
}

func byMAC(h *netlink.Handle, mac string) (netlink.Link, error) {
	links, err := h.LinkList()
	for errors.Is(err, netlink.ErrDumpInterrupted) {
		links, err = h.LinkList()
	}
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		if l.Attrs().HardwareAddr.String() == mac {
			return l, nil
		}
	}
	return nil, fmt.Errorf("no device has the MAC %s", mac)
}

func (o *Order) remove(h *netlink.Handle, c *nftables.Conn, path string) error {
	set, element, err := o.element()
	if err != nil {
		return err
	}
	if err := errors.Join(c.SetDeleteElements(set, element), c.Flush()); err != nil {
		return err
	}
	link, err := h.LinkByName(o.Name)
	if err != nil {
		return err
	}
	if err := h.LinkDel(link); err != nil || o.Device == "" {
		return err
	}
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return err
	}
	own, err := netns.Get()
	if err != nil {
		return err
	}
	ph, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	eni, err := byMAC(ph, o.Device)
	if err != nil {
		return err
	}
	return errors.Join(ph.LinkSetDown(eni), ph.LinkSetName(eni, "e"+o.Name), ph.LinkSetNsFd(eni, int(own)))
}
