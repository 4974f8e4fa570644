package node

import (
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/linkkind"
	"terway.dev/terway/internal/datapath/object"
	"terway.dev/terway/internal/datapath/routing"
)

// Kind is a way to wire a pod. It need not care for order and races: a call for a pod holds the
// pod's turn, a call for the node its lock. A Kind that embeds Plain says only where it differs.
type Kind interface {
	// Name is what pods (datapath.Pod.Kind) and NodeNetwork.status.datapath call it.
	Name() string
	// Start is called once, with the node that has the kind.
	Start(*Node)
	// Choose says of which kind the node's new pods are: ENIs can be prepared for them.
	Choose(kind string)
	// Describe completes what a pod should look like. After an error, which names what is
	// wrong or not there, the pod can be described as far as it goes.
	Describe(*Pod) error
	// Prepare looks at what a new pod needs, before anything is made.
	Prepare(*object.Site, *Pod) error
	// Devices are the pod's two devices. To delete them is to put the node's one among those
	// that may send nothing and are deleted together (Node.Retire).
	Devices(*Pod) object.Object
	// Objects are what the kind adds.
	Objects(*Pod) Added
	// Points are where others may attach to a pod.
	Points(*Pod) []Point
	// Alive reports whether the pod behind a device of the node still has its own, though its
	// namespace may be out of sight.
	Alive(h *netlink.Handle, link netlink.Link) (bool, error)

	// Receiver is the device, beside its own, by which the host stack gets what the VPC
	// delivers to pods of an ENI; empty if there is none.
	Receiver(routing.ENI) string
	// Sync makes the ENIs' pieces right, removes what belongs to devices that are gone and
	// what others of the links have, and says what it repaired.
	Sync(h *netlink.Handle, links []netlink.Link, enis []routing.ENI) ([]string, error)
	// ENIProblem names the first piece of an ENI that is missing or wrong, or "".
	ENIProblem(*netlink.Handle, routing.ENI) (string, error)
	// Spoofed counts packets that programs dropped for a source that is not the pod's.
	Spoofed() (uint64, error)
	// Teardown removes every trace from the node, but for pods.
	Teardown(*netlink.Handle, []netlink.Link) error
	// Close lets go of the node; pods stay wired.
	Close() error
}

// Added is what a kind adds to a pod.
type Added struct {
	// First are put when the devices have just been made, and are down: what the kernel needs
	// time for.
	First []object.Object
	// Before are put when the node's side is complete and the pod cannot send yet.
	Before []object.Object
	// After are put when all else is there.
	After []object.Object
}

// Feature adds something to the pods of every kind. The calls are ordered as a Kind's are.
type Feature interface {
	// Name is for people.
	Name() string
	// Sync makes what the feature has on the node once right, before any pod is looked at, and
	// says what it repaired.
	Sync(h *netlink.Handle, node datapath.Node) ([]string, error)
	// Objects are a pod's. They are put when the node's side is complete and the pod cannot
	// send yet, and are there until the pod is deleted. Of a pod that nobody knows any more,
	// which is to be deleted, only the name of its device and its addresses are known.
	Objects(*Pod, []Point) []object.Object
	// Teardown removes every trace from the node.
	Teardown(*netlink.Handle) error
}

// Point is a place at one of a pod's devices that sees packets of the pod.
type Point struct {
	// Device is on the node or in the pod, and is there when a feature's objects are put. Its
	// queueing discipline and its tc filters are free to use, but for the priorities of tc
	// filters that package claims has for our own.
	Device object.Device
	// FromPod: it sees what the pod sends, else what comes to the pod.
	FromPod bool
	// Ingress says that these packets come in by the device, else they go out by it.
	Ingress bool
	// Removable: a pod that may configure its own network (CAP_NET_ADMIN) can take away what
	// is put there.
	Removable bool
	// Bypassed: packets of a flow that is known to go directly may not pass here.
	Bypassed bool
}

// Plain is the kind that all others build on: the two ends of a veth, and nothing else.
type Plain struct{ KindName string }

var _ Kind = Plain{}

// Name implements Kind.
func (k Plain) Name() string { return k.KindName }

// Start implements Kind.
func (Plain) Start(*Node) {}

// Choose implements Kind.
func (Plain) Choose(string) {}

// Describe implements Kind: the pod shares an ENI, which the node must have.
func (Plain) Describe(p *Pod) error { return p.ShareENI() }

// Prepare implements Kind.
func (Plain) Prepare(*object.Site, *Pod) error { return nil }

// Devices implements Kind.
func (Plain) Devices(p *Pod) object.Object { return Veth(p) }

// Objects implements Kind.
func (Plain) Objects(*Pod) Added { return Added{} }

// Points implements Kind: the node's end, out of the pod's reach, and the pod's own.
func (Plain) Points(p *Pod) []Point {
	return []Point{
		{Device: p.Host, FromPod: true, Ingress: true},
		{Device: p.Host},
		{Device: p.Inner, FromPod: true, Removable: true},
		{Device: p.Inner, Ingress: true, Removable: true},
	}
}

// Alive implements Kind: a veth goes with its other end.
func (Plain) Alive(*netlink.Handle, netlink.Link) (bool, error) { return true, nil }

// Receiver implements Kind.
func (Plain) Receiver(routing.ENI) string { return "" }

// Sync implements Kind.
func (Plain) Sync(*netlink.Handle, []netlink.Link, []routing.ENI) ([]string, error) { return nil, nil }

// ENIProblem implements Kind.
func (Plain) ENIProblem(*netlink.Handle, routing.ENI) (string, error) { return "", nil }

// Spoofed implements Kind.
func (Plain) Spoofed() (uint64, error) { return 0, nil }

// Teardown implements Kind.
func (Plain) Teardown(*netlink.Handle, []netlink.Link) error { return nil }

// Close implements Kind.
func (Plain) Close() error { return nil }

// Veth is a cable with a MAC at each end: the pod and its next hop are permanent neighbours of
// each other.
func Veth(p *Pod) *Pair {
	return &Pair{Pod: p, Kind: linkkind.Veth, Peer: nl.VETH_INFO_PEER}
}
