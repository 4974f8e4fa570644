package node

import (
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/linkkind"
	"terway.dev/terway/internal/datapath/object"
	"terway.dev/terway/internal/datapath/routing"
)

// Kind is a way to wire a pod. Choose, Sync and Teardown hold the node's lock, Prepare and the
// methods of objects their pod's. Describe, Devices, Objects and Points only describe: they read and
// change nothing in the kernel, and may be called for the same pod at the same time, as may all the
// others. A Kind that embeds Plain implements only the differences.
type Kind interface {
	// Name is the kind's name in datapath.Pod.Kind and NodeNetwork.status.datapath.
	Name() string
	// Start is called once, with the node that has the kind.
	Start(*Node)
	// Choose sets the kind of the node's new pods: ENIs can be prepared for it.
	Choose(kind string)
	// Describe completes the desired state of a pod. After an error, which names what is wrong or
	// missing, the pod is described as far as possible.
	Describe(*Pod) error
	// Prepare reads what a new pod needs, before anything is made.
	Prepare(*object.Site, *Pod) error
	// Devices are the pod's two devices. Deleting them moves the node's device to the group of
	// devices that must not send and are deleted together (Node.Retire).
	Devices(*Pod) object.Object
	// Objects are the objects that the kind adds.
	Objects(*Pod) Added
	// Points are where others may attach to a pod.
	Points(*Pod) []Point
	// Alive reports whether the pod behind a device of the node still has its own device, though
	// its namespace may not be visible.
	Alive(h *netlink.Handle, link netlink.Link) (bool, error)

	// Receiver returns the device, beside the ENI's own, by which the host stack receives what the
	// VPC delivers to pods of the ENI; empty if there is none.
	Receiver(routing.ENI) string
	// Sync corrects the kind's objects on ENIs, removes those of devices that are gone and those on
	// other links, and returns what it repaired.
	Sync(h *netlink.Handle, links []netlink.Link, enis []routing.ENI) ([]string, error)
	// ENIProblem names the first missing or wrong object of an ENI, or "".
	ENIProblem(*netlink.Handle, routing.ENI) (string, error)
	// Spoofed returns how many packets programs dropped for a source that is not the pod's.
	Spoofed() (uint64, error)
	// Capacity says for people how many connections the kind can track; it is empty if only the
	// kernel does.
	Capacity() string
	// Teardown removes everything from the node, except pods.
	Teardown(*netlink.Handle, []netlink.Link) error
	// Close releases the node; pods stay wired.
	Close() error
}

// Added are the objects that a kind adds to a pod.
type Added struct {
	// First are put when the devices have just been made, and are down: for objects that take the
	// kernel some time.
	First []object.Object
	// Before are put when the node's side is complete and the pod cannot send yet.
	Before []object.Object
	// After are put last.
	After []object.Object
}

// Feature adds objects to the pods of every kind. Its calls hold the locks that a Kind's do.
type Feature interface {
	// Name is for people.
	Name() string
	// Sync corrects the feature's node-wide objects, before it handles pods, and returns what it
	// repaired. enis are the ENIs that have devices, links all devices; without links the node may be
	// older than that of the last call, and nothing is removed.
	Sync(s *object.Site, node datapath.Node, links []netlink.Link, enis []routing.ENI) ([]string, error)
	// Objects returns a pod's objects. They are put when the node's side is complete and the pod
	// cannot send yet, and stay until the pod is deleted; those that embed object.Addressed are also
	// deleted for an address that it does not have any more. Of an unknown pod, which is to be
	// deleted, only the name of its device and its addresses are known.
	Objects(*Pod, []Point) []object.Object
	// Teardown removes everything from the node.
	Teardown(*netlink.Handle) error
}

// Guarded is an object that a pod may remove (with CAP_NET_ADMIN), and must not.
type Guarded interface {
	object.Object
	// WasThere reports whether this process has seen the object in place since it has been needed, as it
	// is needed now, and only the pod can have changed it.
	WasThere() bool
	// Enforces is what the object is for.
	Enforces() datapath.Enforced
}

// Point is an attach point at one of a pod's devices, where packets of the pod pass.
type Point struct {
	// Device is on the node or in the pod, and exists when a feature's objects are put. Its
	// queueing discipline and tc filters may be used, except the priorities of tc filters in
	// package claims.
	Device object.Device
	// FromPod: packets from the pod pass here, else packets to the pod.
	FromPod bool
	// Ingress: these packets arrive by the device, else they leave by it.
	Ingress bool
	// Removable: a pod that may configure its own network (CAP_NET_ADMIN) can remove what is
	// attached.
	Removable bool
	// Bypassed: packets on the fast path may not pass here.
	Bypassed bool
	// Queued: those of a pod whose bandwidth in this direction is limited (datapath.Pod.Limits) all
	// pass the queueing discipline nevertheless.
	Queued bool
}

// Plain is the kind on which all others build: a veth, and nothing else.
type Plain struct{ KindName string }

var _ Kind = Plain{}

// Describe implements Kind: the pod uses a shared ENI, which the node must have.
func (Plain) Describe(p *Pod) error { return p.ShareENI() }

// Points implements Kind: the node's end, which the pod cannot reach, and the pod's own.
func (Plain) Points(p *Pod) []Point {
	return []Point{
		{Device: p.Host, FromPod: true, Ingress: true},
		{Device: p.Host},
		{Device: p.Inner, FromPod: true, Removable: true},
		{Device: p.Inner, Ingress: true, Removable: true},
	}
}

// Alive implements Kind: a veth is deleted with its peer.
func (Plain) Alive(*netlink.Handle, netlink.Link) (bool, error) { return true, nil }

func (k Plain) Name() string                                                        { return k.KindName }
func (Plain) Devices(p *Pod) object.Object                                          { return Veth(p) }
func (Plain) Objects(*Pod) Added                                                    { return Added{} }
func (Plain) Start(*Node)                                                           {}
func (Plain) Choose(string)                                                         {}
func (Plain) Prepare(*object.Site, *Pod) error                                      { return nil }
func (Plain) Receiver(routing.ENI) string                                           { return "" }
func (Plain) ENIProblem(*netlink.Handle, routing.ENI) (string, error)               { return "", nil }
func (Plain) Spoofed() (uint64, error)                                              { return 0, nil }
func (Plain) Capacity() string                                                      { return "" }
func (Plain) Teardown(*netlink.Handle, []netlink.Link) error                        { return nil }
func (Plain) Close() error                                                          { return nil }
func (Plain) Sync(*netlink.Handle, []netlink.Link, []routing.ENI) ([]string, error) { return nil, nil }

// Veth returns a pair with a MAC at each end: the pod and its next hop are permanent neighbours of
// each other.
func Veth(p *Pod) *Pair {
	return &Pair{Pod: p, Kind: linkkind.Veth, Peer: nl.VETH_INFO_PEER}
}
