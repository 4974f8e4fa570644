// Package datapath is the small interface behind which a node's packets are
// programmed. One folder below it implements one way (route, ebpf, …).
//
// A datapath owns what it puts into the kernel and nothing else: it finds its
// objects by its own names, tables, priorities and marks, rebuilds them from the
// desired state it is given, and removes what is no longer desired. It keeps no
// state of its own on disk: the agent's journal is the only memory.
package datapath

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// Datapath wires pods of one node.
type Datapath interface {
	// Name is the value of NodeNetwork.status.datapath.
	Name() string
	// AddPod wires a pod: after it returns the pod can send and receive. Calling
	// it again for the same pod gives the same result; after an unfinished call it
	// starts afresh. Calls for different pods run concurrently.
	AddPod(ctx context.Context, node Node, pod Pod) (Wiring, error)
	// DelPod removes what AddPod made. Absence of anything, the pod's namespace
	// included, is no error. When it returns, no packet reaches the address by way
	// of this pod any more.
	DelPod(ctx context.Context, pod Pod) error
	// CheckPod returns an error that names the first missing or wrong piece.
	CheckPod(ctx context.Context, node Node, pod Pod) error
	// Sync makes the kernel agree with the whole desired state: node-wide pieces
	// (rules, tables, nftables), each ENI's, each pod's host side, and removes
	// pieces of pods and ENIs that are not in it. It returns one line for each
	// repair it made. It never touches anything the datapath does not own: pods of
	// other datapaths (Pod.Datapath) may be in the list and are left alone. A pod
	// with an empty HostIfName is being wired or unwired by a concurrent call: its
	// pieces are neither repaired nor removed.
	Sync(ctx context.Context, node Node, pods []Pod) (repairs []string, err error)
	// Teardown removes every trace of the datapath from the node.
	Teardown(ctx context.Context) error
}

// Node is the node-wide part of the desired state.
type Node struct {
	// Addresses are the node's own addresses (kubelet's node IPs).
	Addresses []netip.Addr
	// ENIs are the attached, usable ENIs.
	ENIs []ENI
	// VPCCIDRs and ServiceCIDRs are never masqueraded.
	VPCCIDRs     []netip.Prefix
	ServiceCIDRs []netip.Prefix
	// HostStackCIDRs are reached through the node's network stack also by pods whose
	// packets go past it otherwise (a DNS cache of the node, for example).
	HostStackCIDRs []netip.Prefix
	// MasqueradeOutside makes pod traffic to anywhere else leave with the node's
	// address by the node's own default route.
	MasqueradeOutside bool
}

// Families are the address families in use, AF_INET and AF_INET6 in this order: IPv4 rules on
// a kernel without IPv6 must not fail for it.
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

// Clone shares no memory with the node.
func (n Node) Clone() Node {
	n.Addresses, n.ENIs = slices.Clone(n.Addresses), slices.Clone(n.ENIs)
	n.VPCCIDRs, n.ServiceCIDRs, n.HostStackCIDRs = slices.Clone(n.VPCCIDRs), slices.Clone(n.ServiceCIDRs), slices.Clone(n.HostStackCIDRs)
	for i := range n.ENIs {
		e := &n.ENIs[i]
		e.MAC, e.CIDRs, e.Gateways = slices.Clone(e.MAC), slices.Clone(e.CIDRs), slices.Clone(e.Gateways)
	}
	return n
}

// ENI is a secondary network interface that is a device of the node.
type ENI struct {
	ID  string
	MAC net.HardwareAddr
	// CIDRs and Gateways are the vSwitch's, pairwise.
	CIDRs    []netip.Prefix
	Gateways []netip.Addr
	// Device is the link's name, found by MAC.
	Device string
	// MTU in bytes; 0 means the device's own.
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
	// Own, if not nil, is that ENI, which the pod has for itself: it is moved into
	// the pod and becomes IfName. Node.ENIs does not list it.
	Own *ENI
	// Datapath is the name of the one that wires it; empty means the one that is called.
	Datapath string
	// HostIfName is set once wired (Wiring.HostIfName).
	HostIfName string
}

// WiredBy is the pod; its datapath is the named one if it does not say which.
func (p Pod) WiredBy(name string) Pod {
	if p.Datapath == "" {
		p.Datapath = name
	}
	return p
}

// WiredBy is that of each pod.
func WiredBy(name string, pods []Pod) []Pod {
	list := make([]Pod, len(pods))
	for i, p := range pods {
		list[i] = p.WiredBy(name)
	}
	return list
}

// Wiring is what AddPod made.
type Wiring struct {
	HostIfName string
	HostMAC    net.HardwareAddr
	PodMAC     net.HardwareAddr
	MTU        int
	// Gateways are the next hops that the pod sees, one of each family.
	Gateways []netip.Addr
}

// PodError is trouble that Sync has with one pod. The node itself is programmed
// and can serve others.
type PodError struct {
	// Sandbox and IfName are the pod's.
	Sandbox, IfName string
	Err             error
}

func (e *PodError) Error() string { return e.Err.Error() }
func (e *PodError) Unwrap() error { return e.Err }

// ErrNoDevice is in a PodError if the ENI that the pod has for itself has no device any more.
var ErrNoDevice = errors.New("neither on the node nor in the pod")

// Obstacle is something on the node that is in pods' way and that a datapath may not change,
// or could not: What says what it is and what to do about it. The node is programmed.
type Obstacle struct{ What string }

func (o *Obstacle) Error() string { return o.What }

// Sort takes an error of Sync apart: trouble of single pods, obstacles, and the rest, which
// is the node's.
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
