package route

import (
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/routing"
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
	// Sync makes the ENIs' pieces right, removes what belongs to devices that are gone
	// and what others of the links have, and says what it repaired.
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

// Linker is a Pairer that makes the devices of its pods itself. The node's device has the
// pod's name (Place.Device) and is known by it, by its group or by its alias.
type Linker interface {
	Pairer
	// Link makes the two devices of a pod, down, or finds them. One that is not what it
	// should be is made anew; one that somebody else made in the pod is an error.
	Link(h, pod *netlink.Handle, ns netns.NsHandle, p Place) (host, inner netlink.Link, err error)
	// Leave takes the addresses from the device in the pod, if there is one: from then on
	// nothing reaches it. What it returns removes the device, in the background.
	Leave(pod datapath.Pod) (rest func() error, err error)
	// Vacate takes an address from devices of other pods that still have it; device is the
	// one of the pod that is to get it.
	Vacate(device string, a netip.Addr) error
	// Receiver is the device by which the host stack gets what the VPC delivers to pods of
	// an ENI; empty if the node has no such pods.
	Receiver(eni ENIPlace) string
}

// Pairer is an Extension whose pods have other devices than the two ends of a veth.
type Pairer interface {
	Extension
	Pair() Pair
}

// Place is a wired pod as an Extension needs it.
type Place struct {
	// Device and Index are the node's end of the pod's devices.
	Device string
	Index  int
	// NetNS and IfName say where the other one is. NetNS may be gone.
	NetNS, IfName string
	MTU           int
	// HostMAC and PodMAC are nil if the pair has none.
	HostMAC, PodMAC net.HardwareAddr
	Addresses       []netip.Addr
	// ENI is zero if the pod's ENI is not attached.
	ENI ENIPlace
}

// ENIPlace is an attached ENI.
type ENIPlace = routing.ENI

// extension is the one that the pod asked for, or nil.
func (d *Datapath) extension(w wiring) Extension {
	return d.extensionOf(w.pod)
}

// place is the pod's; link is nil while it has no device on the node.
func (w wiring) place(link netlink.Link) Place {
	p := Place{
		Device: w.name, NetNS: w.pod.NetNS, IfName: w.pod.IfName,
		HostMAC: w.hostMAC, PodMAC: w.podMAC, Addresses: w.pod.Addresses, ENI: w.eni,
	}
	if link != nil {
		p.Index, p.MTU = link.Attrs().Index, link.Attrs().MTU
	}
	if w.mtu != 0 {
		p.MTU = w.mtu
	}
	return p
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

func (d *Datapath) extensionOf(pod datapath.Pod) Extension {
	for _, ext := range d.exts {
		if ext.Name() == pod.Datapath {
			return ext
		}
	}
	return nil
}

// pairOf is the kind of the pod's devices.
func (d *Datapath) pairOf(pod datapath.Pod) Pair {
	if p, ok := d.extensionOf(pod).(Pairer); ok {
		return p.Pair()
	}
	return Veth
}

// linker is the extension that makes the pod's devices, or nil.
func (d *Datapath) linker(pod datapath.Pod) Linker {
	l, _ := d.extensionOf(pod).(Linker)
	return l
}

// leave is the linker's part of a pod's end.
func (d *Datapath) leave(pod datapath.Pod) error {
	l := d.linker(pod)
	if l == nil {
		return nil
	}
	rest, err := l.Leave(pod)
	if rest != nil {
		d.reaper.later(rest)
	}
	return err
}
