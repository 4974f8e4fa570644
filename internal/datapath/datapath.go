// Package datapath has the values that the agent, which knows the desired state, passes to package
// node, which programs it: desired nodes, ENIs and pods, and errors.
//
// The packages below it own what they put into the kernel and nothing else: they find their objects
// by their own names, tables, priorities and marks, rebuild them from the desired state, and remove
// what is no longer desired. They store nothing on disk: the agent's journal is the only memory.
package datapath

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/bandwidth"
)

// Node is the node-wide part of the desired state.
type Node struct {
	// Addresses are the node's own addresses (kubelet's node IPs).
	Addresses []netip.Addr
	// ENIs are the attached, usable ENIs.
	ENIs []ENI
	// VPCCIDRs and ServiceCIDRs are never masqueraded.
	VPCCIDRs     []netip.Prefix
	ServiceCIDRs []netip.Prefix
	// HostStackCIDRs are reached through the node's network stack, also by pods whose packets
	// bypass it otherwise (a DNS cache of the node, for example).
	HostStackCIDRs []netip.Prefix
	// Kind is the kind of new pods with shared ENIs: what it needs on the node is made before the
	// first pod starts.
	Kind string
	// ENIMbit is the rate in Mbit/s that each ENI may send, at which pods' priorities take effect; 0:
	// they have none.
	ENIMbit int
	// MasqueradeOutside makes pod traffic to anywhere else leave with the node's address by the
	// node's own default route.
	MasqueradeOutside bool
}

// Families returns the address families in use, AF_INET and AF_INET6 in this order: IPv4 must not
// fail on a kernel without IPv6.
func (n Node) Families() []int {
	has := func(is func(netip.Addr) bool) bool {
		return slices.ContainsFunc(n.Addresses, is) || slices.ContainsFunc(n.ENIs, func(e ENI) bool { return slices.ContainsFunc(e.Gateways, is) })
	}
	var list []int
	if has(netip.Addr.Is4) {
		list = append(list, unix.AF_INET)
	}
	if has(netip.Addr.Is6) {
		list = append(list, unix.AF_INET6)
	}
	return list
}

// Equal reports whether both nodes are programmed in the same way. Every ADD calls it.
func (n Node) Equal(o Node) bool {
	return n.Kind == o.Kind && n.ENIMbit == o.ENIMbit && n.MasqueradeOutside == o.MasqueradeOutside && slices.Equal(n.Addresses, o.Addresses) &&
		slices.Equal(n.VPCCIDRs, o.VPCCIDRs) && slices.Equal(n.ServiceCIDRs, o.ServiceCIDRs) && slices.Equal(n.HostStackCIDRs, o.HostStackCIDRs) &&
		slices.EqualFunc(n.ENIs, o.ENIs, ENI.equal)
}

func (e ENI) equal(o ENI) bool {
	return e.ID == o.ID && e.Device == o.Device && e.MTU == o.MTU && slices.Equal(e.MAC, o.MAC) &&
		slices.Equal(e.CIDRs, o.CIDRs) && slices.Equal(e.Gateways, o.Gateways)
}

// Clone returns a copy that shares no memory with the node.
func (n Node) Clone() Node {
	n.Addresses, n.ENIs = slices.Clone(n.Addresses), slices.Clone(n.ENIs)
	n.VPCCIDRs, n.ServiceCIDRs, n.HostStackCIDRs = slices.Clone(n.VPCCIDRs), slices.Clone(n.ServiceCIDRs), slices.Clone(n.HostStackCIDRs)
	for i := range n.ENIs {
		e := &n.ENIs[i]
		e.MAC, e.CIDRs, e.Gateways = slices.Clone(e.MAC), slices.Clone(e.CIDRs), slices.Clone(e.Gateways)
	}
	return n
}

// ENI is a secondary network interface with a device on the node.
type ENI struct {
	ID  string
	MAC net.HardwareAddr
	// CIDRs and Gateways are the vSwitch's, pairwise.
	CIDRs    []netip.Prefix
	Gateways []netip.Addr
	// Device is the name of the link with the ENI's MAC.
	Device string
	// MTU in bytes; 0 keeps the device's own.
	MTU int
}

// Pod is a pod's desired wiring.
type Pod struct {
	// Sandbox is the container runtime's sandbox id; with IfName it is the key.
	Sandbox string
	// IfName is the interface in the pod, "eth0".
	IfName string
	// NetNS is the path of the pod's network namespace; empty when it is gone.
	NetNS string
	// Namespace and Name are the pod's in Kubernetes (for messages only).
	Namespace string
	Name      string
	// Addresses are the pod's, at most one of each family.
	Addresses []netip.Addr
	// ENI is the MAC of the ENI that carries the addresses.
	ENI string
	// Exclusive, if not nil, is that ENI, which only this pod uses: it is moved into the pod and
	// becomes IfName. Node.ENIs does not list it.
	Exclusive *ENI
	// Kind is the kind with which the pod is wired, by its name in package claims. A pod keeps it.
	Kind string
	// Limits are those of the pod's bandwidth; nil if it never had one. A limit that was removed is 0.
	Limits *bandwidth.Limits
	// Priority is that of what the pod sends by a shared ENI; empty means bandwidth.Burstable.
	Priority bandwidth.Priority
	// State is the state of the wiring.
	State State
}

// State of a pod's wiring.
type State int

const (
	// Unwired: not wired yet, no longer wired, or a call works on it. It is neither repaired nor
	// removed.
	Unwired State = iota
	// Wired: AddPod has wired it. Devices with our names in the pod are Terway's.
	Wired
)

// Wiring is what AddPod made.
type Wiring struct {
	HostIfName string
	HostMAC    net.HardwareAddr
	PodMAC     net.HardwareAddr
	MTU        int
	// Gateways are the next hops that the pod sees, one of each family.
	Gateways []netip.Addr
}

// Repair is something missing or wrong that node.Node.Sync corrected.
type Repair struct {
	// Kind is the kind whose object it is: that of the pod, or of the node's new pods for what serves all.
	Kind string
	// Piece is one of the Piece constants, or the name of a feature of pods.
	Piece string
	// What is a sentence for people.
	What string
}

// The pieces of a node.
const (
	PieceRouting  = "routing"  // rules, routing tables, sysctls and the ENIs' devices
	PieceNFTables = "nftables" // the tables of pods' sources and of masquerading
	PieceFirewall = "firewall" // that other programs' rules let pods' packets pass
	PieceENIs     = "enis"     // a kind's programs and devices on ENIs
	PiecePods     = "pods"     // all that belongs to one pod
	PieceRemains  = "remains"  // of deleted pods
)

// PodError is a problem of node.Node.Sync with one pod. The node itself is programmed and can serve
// other pods.
type PodError struct {
	// Sandbox and IfName are the pod's.
	Sandbox, IfName string
	Err             error
}

func (e *PodError) Error() string { return e.Err.Error() }
func (e *PodError) Unwrap() error { return e.Err }

// ErrNoDevice is in a PodError if the pod's exclusive ENI no longer has a device.
var ErrNoDevice = errors.New("neither on the node nor in the pod")

// Tampered is in a PodError if something was missing that only the pod can have removed, and was put back.
type Tampered struct {
	What string
	// Of is what did not hold until then.
	Of Enforced
}

func (e *Tampered) Error() string {
	return fmt.Sprintf("%s: somebody has changed that in the network namespace of the pod (CAP_NET_ADMIN), which could get around its %s until now, when it was put right", e.What, e.Of)
}

// Enforced is what a feature enforces on pods, for people.
type Enforced string

// All of them.
const (
	OfPolicies Enforced = "network policies"
	OfLimits   Enforced = "bandwidth limit"
)

// Obstacle is something on the node that may break pods' traffic and that Terway must not or could
// not change: What says what it is and what to do about it. The node is programmed.
type Obstacle struct{ What string }

func (o *Obstacle) Error() string { return o.What }

// Sort splits an error of Sync into problems of single pods, obstacles, and the rest, which
// concerns the node.
func Sort(err error) (pods []*PodError, obstacles []string, node error) {
	switch e := err.(type) {
	case nil:
		return nil, nil, nil
	case *PodError:
		return []*PodError{e}, nil, nil
	case *Obstacle:
		return nil, []string{e.What}, nil
	case interface{ Unwrap() []error }:
		for _, one := range e.Unwrap() {
			p, o, n := Sort(one)
			pods, obstacles, node = append(pods, p...), append(obstacles, o...), errors.Join(node, n)
		}
		return pods, obstacles, node
	}
	return nil, nil, err
}
