package exclusive

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/vishvananda/netlink"
	"go4.org/netipx"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/linkkind"
	"terway.dev/terway/internal/kernel"
	"terway.dev/terway/internal/netlinkx"
)

// inside is a pod's namespace and the node's, open.
type inside struct {
	d    *Datapath
	pod  datapath.Pod
	ns   *netlinkx.Namespace
	node *netlink.Handle
	h    *netlink.Handle
}

func exists(path string) bool {
	if path == "" {
		return false
	}
	_, err := os.Stat(path)
	return err == nil
}

// enter opens both namespaces. The error is netlinkx.Gone when the pod's is.
func (d *Datapath) enter(pod datapath.Pod) (*inside, error) {
	ns, err := netlinkx.Enter(pod.NetNS)
	if err != nil {
		return nil, err
	}
	own, err := ns.Is(d.ns)
	if err == nil && own {
		err = fmt.Errorf("network namespace %s is the node's own", pod.NetNS)
	}
	var node *netlink.Handle
	if err == nil {
		node, err = netlinkx.Open(d.ns)
	}
	if err != nil {
		ns.Close()
		return nil, err
	}
	return &inside{d: d, pod: pod, ns: ns, node: node, h: ns.Handle}, nil
}

func (in *inside) close() {
	in.ns.Close()
	in.node.Close()
}

// device is where the pod's ENI is.
type device struct {
	link  netlink.Link
	inPod bool
}

// find looks for the ENI's device: in the pod, else on the node; the error is
// datapath.ErrNoDevice when it is nowhere. A pod may change the
// MAC; the device of a wired pod that has no permanent address is then known by its name.
func (in *inside) find(ctx context.Context) (device, error) {
	for _, where := range []struct {
		h     *netlink.Handle
		inPod bool
	}{{in.h, true}, {in.node, false}} {
		link, err := byMAC(ctx, where.h, in.pod.Own.MAC)
		if err != nil {
			return device{}, err
		}
		if link != nil {
			return device{link, where.inPod}, nil
		}
	}
	if in.pod.HostIfName != "" {
		link, err := in.h.LinkByName(in.pod.IfName)
		if err == nil && !linkkind.IsStacked(link) && len(link.Attrs().PermHWAddr) == 0 {
			return device{link, true}, nil
		}
		if err != nil && !netlinkx.Gone(err) {
			return device{}, fmt.Errorf("look for the pod's %s: %w", in.pod.IfName, err)
		}
	}
	return device{}, fmt.Errorf("ENI %s (MAC %s) is %w", in.pod.Own.ID, in.pod.Own.MAC, datapath.ErrNoDevice)
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

// wire moves the device into the pod if it is not there, and makes it what it should be.
func (in *inside) wire(ctx context.Context, own device) error {
	link, name := own.link, in.pod.IfName
	if other, err := in.h.LinkByName(name); err == nil && (!own.inPod || other.Attrs().Index != link.Attrs().Index) {
		return fmt.Errorf("the pod's network namespace %s already has a device %s with MAC %s that was not made by this datapath",
			in.pod.NetNS, name, other.Attrs().HardwareAddr)
	}
	if !own.inPod {
		if err := in.node.LinkSetDown(link); err != nil {
			return fmt.Errorf("set ENI device %s down: %w", link.Attrs().Name, err)
		}
		if err := in.node.LinkSetNsFd(link, int(in.ns.NS)); err != nil {
			return fmt.Errorf("move ENI device %s into the pod: %w", link.Attrs().Name, err)
		}
		var err error
		if link, err = byMAC(ctx, in.h, in.pod.Own.MAC); err != nil {
			return err
		}
		if link == nil {
			return fmt.Errorf("ENI %s has gone while it was moved into the pod", in.pod.Own.ID)
		}
	}
	attrs := link.Attrs()
	if attrs.Name != name {
		if err := in.h.LinkSetDown(link); err != nil {
			return fmt.Errorf("set the pod's %s down: %w", attrs.Name, err)
		}
		if err := in.h.LinkSetName(link, name); err != nil {
			return fmt.Errorf("name the pod's %s %s: %w", attrs.Name, name, err)
		}
	}
	if err := in.resetMAC(link); err != nil {
		return err
	}
	if err := in.sysctls(); err != nil {
		return err
	}
	if mtu := in.pod.Own.MTU; mtu != 0 && attrs.MTU != mtu {
		if err := in.h.LinkSetMTU(link, mtu); err != nil {
			return fmt.Errorf("set MTU %d of the pod's %s: %w", mtu, name, err)
		}
	}
	if err := in.h.LinkSetUp(link); err != nil {
		return fmt.Errorf("set the pod's %s up: %w", name, err)
	}
	for _, a := range in.pod.Addresses {
		addr := &netlink.Addr{IPNet: netipx.AddrIPNet(a)}
		if a.Is6() {
			addr.Flags = unix.IFA_F_NODAD // the VPC gives no address twice
		}
		if err := in.h.AddrReplace(link, addr); err != nil {
			return fmt.Errorf("add address %s to the pod's %s: %w", a, name, err)
		}
		if err := in.h.RouteReplace(in.defaultRoute(a, attrs.Index)); err != nil {
			return fmt.Errorf("add default route via %s to the pod's %s: %w", gateway(in.pod.Own, a), name, err)
		}
	}
	return nil
}

// resetMAC gives the device in the pod the MAC of the ENI again. Not every driver
// changes it while the device is up.
func (in *inside) resetMAC(link netlink.Link) error {
	mac := in.pod.Own.MAC
	if bytes.Equal(link.Attrs().HardwareAddr, mac) {
		return nil
	}
	if err := in.h.LinkSetDown(link); err != nil {
		return fmt.Errorf("set the pod's %s down: %w", link.Attrs().Name, err)
	}
	if err := in.h.LinkSetHardwareAddr(link, mac); err != nil {
		return fmt.Errorf("set MAC %s of the pod's %s: %w", mac, link.Attrs().Name, err)
	}
	return nil
}

func (in *inside) defaultRoute(a netip.Addr, index int) *netlink.Route {
	all := netipx.PrefixIPNet(netip.PrefixFrom(a, 0).Masked())
	return &netlink.Route{
		LinkIndex: index, Dst: all, Gw: gateway(in.pod.Own, a).AsSlice(), Flags: int(netlink.FLAG_ONLINK),
	}
}

// sysctls of the device. Answers to pods of the same node come in by the ENI and go
// out by it, what the node sends comes in by the veth: no strict check of the reverse path.
func (in *inside) sysctls() error {
	name := in.pod.IfName
	list := []struct{ path, value string }{{"ipv4/conf/" + name + "/rp_filter", "2"}}
	if slices.ContainsFunc(in.pod.Addresses, netip.Addr.Is6) {
		list = append(list, struct{ path, value string }{"ipv6/conf/" + name + "/disable_ipv6", "0"},
			struct{ path, value string }{"ipv6/conf/" + name + "/accept_ra", "0"},
			struct{ path, value string }{"ipv6/conf/" + name + "/accept_dad", "0"})
	}
	return kernel.InNS(in.ns.NS, func() error {
		for _, s := range list {
			if err := os.WriteFile(filepath.Join(in.d.procSys, "net", s.path), []byte(s.value), 0); err != nil {
				return fmt.Errorf("set sysctl net/%s in the pod: %w", s.path, err)
			}
		}
		return nil
	})
}

// problems names what is missing or wrong.
func (in *inside) problems(ctx context.Context) ([]string, error) {
	own, err := in.find(ctx)
	if err != nil {
		return nil, err
	}
	name := in.pod.IfName
	attrs := own.link.Attrs()
	if !own.inPod {
		return []string{fmt.Sprintf("ENI device %s is on the node, not in the pod", attrs.Name)}, nil
	}
	if attrs.Name != name {
		return []string{fmt.Sprintf("ENI device of the pod is called %s instead of %s", attrs.Name, name)}, nil
	}
	var list []string
	if mac := in.pod.Own.MAC; !bytes.Equal(attrs.HardwareAddr, mac) {
		list = append(list, fmt.Sprintf("device %s of the pod has MAC %s instead of %s", name, attrs.HardwareAddr, mac))
	}
	if attrs.Flags&net.FlagUp == 0 {
		list = append(list, fmt.Sprintf("device %s of the pod is down", name))
	}
	if mtu := in.pod.Own.MTU; mtu != 0 && attrs.MTU != mtu {
		list = append(list, fmt.Sprintf("device %s of the pod has MTU %d instead of %d", name, attrs.MTU, mtu))
	}
	for _, a := range in.pod.Addresses {
		family := netlink.FAMILY_V4
		if a.Is6() {
			family = netlink.FAMILY_V6
		}
		addrs, err := netlinkx.List(ctx, "addresses of the pod", func() ([]netlink.Addr, error) { return in.h.AddrList(own.link, family) })
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(addrs, func(x netlink.Addr) bool { return x.IP.Equal(a.AsSlice()) }) {
			list = append(list, fmt.Sprintf("address %s of the pod's %s is missing", a, name))
		}
		routes, err := netlinkx.List(ctx, "routes of the pod", func() ([]netlink.Route, error) { return in.h.RouteList(own.link, family) })
		if err != nil {
			return nil, err
		}
		gw := gateway(in.pod.Own, a)
		if !slices.ContainsFunc(routes, func(r netlink.Route) bool {
			ones := 0
			if r.Dst != nil {
				ones, _ = r.Dst.Mask.Size()
			}
			return ones == 0 && r.Gw.Equal(gw.AsSlice())
		}) {
			list = append(list, fmt.Sprintf("default route via %s of the pod is missing", gw))
		}
	}
	return list, nil
}

// giveBack brings the ENI's device back to the node. What is not there is no error:
// with the namespace the kernel has brought it back.
func (d *Datapath) giveBack(ctx context.Context, pod datapath.Pod) error {
	if pod.NetNS == "" {
		return nil
	}
	in, err := d.enter(pod)
	if netlinkx.Gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer in.close()
	own, err := in.find(ctx)
	if errors.Is(err, datapath.ErrNoDevice) || err == nil && !own.inPod {
		return nil
	}
	if err != nil {
		return err
	}
	link := own.link
	if err := in.h.LinkSetDown(link); err != nil {
		return fmt.Errorf("set the pod's %s down: %w", link.Attrs().Name, err)
	}
	if err := in.resetMAC(link); err != nil {
		return err
	}
	// Its name in the pod is taken on the node.
	name := nodeName(pod.Own.MAC)
	if err := in.h.LinkSetName(link, name); err != nil {
		return fmt.Errorf("name the pod's %s %s: %w", link.Attrs().Name, name, err)
	}
	if err := in.h.LinkSetNsFd(link, int(d.ns)); err != nil {
		return fmt.Errorf("move ENI device %s back to the node: %w", name, err)
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
