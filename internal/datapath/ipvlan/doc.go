// Package ipvlan is the kind of pods that sit on their ENI as ipvlan devices (mode
// L2), so that a known flow has no device between pod and ENI. Node-wide pieces (rules,
// tables, nftables) are package node's, and to the host stack a pod looks as it does
// there: a device of its own on the node, with a route, a neighbour and its elements.
//
//	 pod's namespace               node's namespace
//	┌───────────────┐  pair       ┌───────────────────────────────────────────────┐
//	│ eth0 ─────────┼─ ─ ─ ─ ─ ─ ─│ tw1a2b… the pod, to the host stack            │
//	│  │ from_slave │             │   │ to_slave (learns)                         │
//	└──┼────────────┘             │   ▼                                           │
//	   │ ipvlan                   │ ENI (parent of all of them)                   │
//	   └──────────────────────────┼─► slaves_eni: known flow → VPC, or a local pod │
//	                              │         else → comes in by tw1a2b…            │
//	   ◄── ipvlan, by address ────┼── eni_slaves: known flow, or from a local pod │
//	                              │         else → comes in by twv3c4d… (receiver)│
//	                              └───────────────────────────────────────────────┘
//
// What ipvlan does, and what follows from it:
//   - All devices of an ENI have its MAC. A frame to that MAC goes to the device that has
//     the IP address; if none has, it is received by the ENI. Any other unicast frame of
//     a pod leaves by the ENI, past its tc egress hook. So the pod's next hop has a MAC
//     of its own, and the hook sees all that the pod sends.
//   - The host stack cannot send to a pod by the ENI: that would leave. Hence a device on
//     the node too; it could be one for all pods, but one for each makes a pod the same
//     thing as in route: its source is checked, it is taken out of use, repaired and
//     removed by the same code.
//   - What the VPC delivers for a pod's address ipvlan gives to the pod, past the host
//     stack, though it may be the answer to what the stack translated. So the ingress hook
//     comes first and gives the packet to the stack unless its flow is known to be
//     direct. It cannot come in by the ENI (ipvlan would take it) nor by the pod's
//     device (it is not from the pod), hence one receiver device for each ENI.
//   - A new flow always asks the stack, and goes directly once the stack sent it on as it
//     was (bpf/connection.h). So Services, NodePorts, hostPorts, the node's own addresses,
//     addresses that a node-local daemon put on the node, masquerade: all that the stack
//     answers or translates stays with it, IPv4 and IPv6, and no list of CIDRs is kept.
//   - Devices of a pod's namespace vanish with it, and with their ENI: a pod whose ENI is
//     detached has no device any more.
//
// The pod's device has an index that follows from the pod's key and that no other pod of
// the node has: by it the program at the device knows whose source addresses are right.
// An index also lets the kernel create the device inside the pod's namespace under a name
// that the node has too.
//
// The package owns, beside what package node says of a pod's device and namespace:
// devices named twv<10 hex digits>, the programs of bpf/ipvlan.c and their maps, and the
// filters that hold them. It must never touch other ipvlan devices of an ENI.
//
// Limits: mode shared only. Pods reach no more than their next hop on layer 2 (no
// multicast, no broadcast). A pod that may configure its own network (CAP_NET_ADMIN)
// can take the program from its device, or make another device on the ENI, and then send
// from addresses of its ENI's other pods; the VPC drops all others.
package ipvlan
