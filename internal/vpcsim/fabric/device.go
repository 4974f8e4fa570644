package fabric

import (
	"context"
	"crypto/sha1"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"go4.org/netipx"
	"golang.org/x/sys/unix"
	"terway.dev/terway/internal/netlinkx"
)

// device is a port in the switch's namespace; its peer is the ENI in the guest.
type device struct {
	eni      string
	instance string
	mac      string
	name     string
	ifindex  uint32
	up       bool
}

// portMTU is the MTU of the port: frames that are too long must reach the program to be
// counted.
const portMTU = 65535

// portName fits the kernel's limit; the alias has the ENI's id.
func portName(eni string) string {
	sum := sha1.Sum([]byte(eni))
	return fmt.Sprintf("p%x", sum[:6])
}

// portAlias returns the alias of a port. It is set when the rest of the device is complete: a
// port without it is left over from a crash.
func portAlias(eni, instance, mac string) string {
	return "vpcsim-port " + eni + " " + instance + " " + mac
}

// observe finds existing ports and removes incomplete ones.
func (f *Fabric) observe() error {
	links, err := netlinkx.List(context.Background(), "the ports", f.handle.LinkList)
	if err != nil {
		return err
	}
	f.devices = map[string]*device{}
	for _, link := range links {
		attrs := link.Attrs()
		if attrs.Name == "lo" {
			continue
		}
		fields := strings.Fields(attrs.Alias)
		if len(fields) != 4 || fields[0] != "vpcsim-port" || f.devices[fields[1]] != nil {
			f.opts.Logger.Info("removing an unfinished port", "device", attrs.Name)
			if err := f.deleteLink(attrs.Index); err != nil {
				return fmt.Errorf("remove the unfinished port %s: %w", attrs.Name, err)
			}
			continue
		}
		f.devices[fields[1]] = &device{
			eni: fields[1], instance: fields[2], mac: fields[3],
			name: attrs.Name, ifindex: uint32(attrs.Index), up: attrs.Flags&net.FlagUp != 0,
		}
	}
	for index := range f.attached {
		gone := true
		for _, d := range f.devices {
			gone = gone && d.ifindex != index
		}
		if gone {
			delete(f.attached, index)
		}
	}
	return nil
}

func (f *Fabric) deleteLink(ifindex int) error {
	err := f.handle.LinkDel(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: ifindex}})
	if netlinkx.Gone(err) {
		return nil
	}
	return err
}

// createPort makes the veth with the ENI's end in the guest, like a hot-plug. The port is set
// up before the guest's end, which so has a carrier from the start; no frame passes until the
// maps have the port.
func (f *Fabric) createPort(in *Instance, p *Port, vs *VSwitch) error {
	mac := net.HardwareAddr(p.MAC[:])
	d := &device{eni: p.ENI, instance: in.ID, mac: mac.String(), name: portName(p.ENI), up: in.Running}
	err := withHandle(f.namespaces[in.ID], func(guest *netlink.Handle, ns netns.NsHandle) error {
		guestName, err := f.createVeth(guest, ns, d.name, mac, p)
		if err != nil {
			return err
		}
		link, err := f.handle.LinkByName(d.name)
		if err != nil {
			return fmt.Errorf("find the port %s: %w", d.name, err)
		}
		d.ifindex = uint32(link.Attrs().Index)
		if err := attach(f.handle, int(d.ifindex), f.program.FabricPort); err != nil {
			return err
		}
		if d.up {
			if err := f.handle.LinkSetUp(link); err != nil {
				return fmt.Errorf("set the port %s up: %w", d.name, err)
			}
		}
		if p.Primary {
			if err := configurePrimary(guest, guestName, p, vs); err != nil {
				return err
			}
		}
		if err := f.handle.LinkSetAlias(link, portAlias(p.ENI, in.ID, d.mac)); err != nil {
			return fmt.Errorf("mark the port %s: %w", d.name, err)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("plug ENI %s into instance %s: %w", p.ENI, in.ID, err)
	}
	f.attached[d.ifindex] = true
	f.devices[p.ENI] = d
	return nil
}

// createVeth names the guest's end with the lowest free eth<N>; a guest may take a name at any
// time.
func (f *Fabric) createVeth(guest *netlink.Handle, ns netns.NsHandle, name string, mac net.HardwareAddr, p *Port) (string, error) {
	first := 1
	if p.Primary {
		first = 0
	}
	for range 8 {
		guestName, err := freeName(guest, first)
		if err != nil {
			return "", err
		}
		veth := netlink.NewVeth(netlink.NewLinkAttrs())
		veth.Name = name
		veth.MTU = portMTU
		veth.HardwareAddr = virtualMAC[:]
		veth.PeerName = guestName
		veth.PeerHardwareAddr = mac
		veth.PeerMTU = uint32(p.MTU)
		veth.PeerNamespace = netlink.NsFd(ns)
		err = f.handle.LinkAdd(veth)
		if err == nil {
			return guestName, nil
		}
		if !errors.Is(err, unix.EEXIST) {
			return "", fmt.Errorf("make the veth %s with %s: %w", name, guestName, err)
		}
	}
	return "", fmt.Errorf("make the veth %s: the guest took every name that was free", name)
}

func freeName(guest *netlink.Handle, first int) (string, error) {
	links, err := netlinkx.List(context.Background(), "the guest's devices", guest.LinkList)
	if err != nil {
		return "", err
	}
	taken := map[string]bool{}
	for _, link := range links {
		taken[link.Attrs().Name] = true
		for _, alt := range link.Attrs().AltNames {
			taken[alt] = true
		}
	}
	for n := first; ; n++ {
		if name := fmt.Sprintf("eth%d", n); !taken[name] {
			return name, nil
		}
	}
}

// configurePrimary configures what DHCP configures in a guest: the first address of each
// family, the subnet, the default route.
func configurePrimary(guest *netlink.Handle, name string, p *Port, vs *VSwitch) error {
	link, err := guest.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	if err := guest.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	var done4, done6 bool
	for _, a := range p.Addresses {
		bits, gateway, done := vs.CIDR.Bits(), vs.Gateway, &done4
		if a.Is6() {
			bits, gateway, done = vs.CIDR6.Bits(), vs.Gateway6, &done6
			if !gateway.IsValid() {
				gateway = virtualLinkLocal
			}
		}
		if *done || bits < 0 {
			continue
		}
		*done = true
		addr := &netlink.Addr{IPNet: netipx.PrefixIPNet(netip.PrefixFrom(a, bits))}
		if a.Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := guest.AddrReplace(link, addr); err != nil {
			return fmt.Errorf("give %s the address %s: %w", name, a, err)
		}
		if !gateway.IsValid() {
			continue
		}
		var all netip.Prefix
		if all, err = gateway.Prefix(0); err != nil {
			return fmt.Errorf("gateway %s: %w", gateway, err)
		}
		route := &netlink.Route{
			LinkIndex: link.Attrs().Index,
			Dst:       netipx.PrefixIPNet(all),
			Gw:        gateway.AsSlice(),
		}
		if err := guest.RouteReplace(route); err != nil {
			return fmt.Errorf("route %s through %s: %w", name, gateway, err)
		}
	}
	return nil
}
