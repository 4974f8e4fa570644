package route

import (
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// Extension adds objects to the pods and ENIs that this datapath wires, for those
// pods that ask for it by name (datapath.Pod.Datapath). It need not care for order and
// races: a call for a pod holds the pod's turn, a call for the node its lock. Each is
// given the netlink socket of the node's namespace.
//
// Without it, or with it gone, a pod is one of route: everything works, by the stack.
type Extension interface {
	// Name of the datapath that pods ask for.
	Name() string
	// Sync makes the ENIs' pieces right, removes what belongs to devices that are
	// gone, and says what it repaired.
	Sync(h *netlink.Handle, links []netlink.Link, enis []ENIPlace) ([]string, error)
	// ENIProblem names the first piece of an ENI that is missing or wrong.
	ENIProblem(h *netlink.Handle, eni ENIPlace) (string, error)
	// Wire adds to a pod whose node's side is complete and which cannot send yet.
	// Again, it repairs.
	Wire(h *netlink.Handle, p Place) error
	// Problems names what is missing or wrong of a pod.
	Problems(h *netlink.Handle, p Place) ([]string, error)
	// Unwire ends a pod's part; it comes before everything else of the pod is taken
	// away. Index 0: the device is gone. Without addresses all of the device are meant.
	Unwire(h *netlink.Handle, index int, addresses []netip.Addr) error
	// Teardown removes every trace.
	Teardown(h *netlink.Handle, links []netlink.Link) error
}

// Place is a wired pod as an Extension needs it.
type Place struct {
	// Device and Index are the node's end of the pod's veth.
	Device          string
	Index           int
	MTU             int
	HostMAC, PodMAC net.HardwareAddr
	Addresses       []netip.Addr
	// ENI is zero if the pod's ENI is not attached.
	ENI ENIPlace
}

// ENIPlace is an attached ENI.
type ENIPlace struct {
	Device   string
	Index    int
	MTU      int
	Gateways []netip.Addr
}

// extension is the one that the pod asked for, or nil.
func (d *Datapath) extension(w wiring) Extension {
	if d.ext == nil || w.pod.Datapath != d.ext.Name() {
		return nil
	}
	return d.ext
}

func (w wiring) place(link netlink.Link) Place {
	p := Place{
		Device: w.name, Index: link.Attrs().Index, MTU: link.Attrs().MTU,
		HostMAC: w.hostMAC, PodMAC: w.podMAC, Addresses: w.pod.Addresses, ENI: w.eni,
	}
	if w.mtu != 0 {
		p.MTU = w.mtu
	}
	return p
}

func (s eniState) place() ENIPlace {
	return ENIPlace{Device: s.device, Index: s.index, MTU: s.mtu, Gateways: s.gateways}
}

// extend is the extension's part of a pod.
func (d *Datapath) extend(h *netlink.Handle, w wiring, host netlink.Link) error {
	ext := d.extension(w)
	if ext == nil {
		return nil
	}
	return ext.Wire(h, w.place(host))
}

// extensionProblems are the extension's of a pod whose device exists.
func (d *Datapath) extensionProblems(h *netlink.Handle, v view, w wiring) ([]string, error) {
	ext, link := d.extension(w), v.byName[w.name]
	if ext == nil || link == nil {
		return nil, nil
	}
	return ext.Problems(h, w.place(link))
}
