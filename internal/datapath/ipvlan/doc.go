// Package ipvlan is the kind of pods with ipvlan devices (mode L2) on their ENI, so that the
// fast path has no device between pod and ENI. Node-wide objects (rules, tables, nftables) belong to
// package node, and to the host stack a pod looks like other pods: a device on the node, with a
// route, a neighbour and its elements.
//
//	 pod's namespace               node's namespace
//	┌───────────────┐  pair       ┌───────────────────────────────────────────────┐
//	│ eth0 ─────────┼─ ─ ─ ─ ─ ─ ─│ tw1a2b… the pod, to the host stack            │
//	│  │ from_slave │             │   │ to_slave (learns)                         │
//	└──┼────────────┘             │   ▼                                           │
//	   │ ipvlan                   │ ENI (parent of all of them)                   │
//	   └──────────────────────────┼─► slaves_eni: fast path → VPC, or a local pod  │
//	                              │         else → comes in by tw1a2b…            │
//	   ◄── ipvlan, by address ────┼── eni_slaves: fast path, or from a local pod  │
//	                              │         else → comes in by twv3c4d… (receiver)│
//	                              └───────────────────────────────────────────────┘
//
// Properties of ipvlan, and their consequences:
//
//   - All devices of an ENI have its MAC. A frame to that MAC is delivered to the device that has the
//     IP address; if none has, the ENI receives it. Any other unicast frame of a pod leaves by the ENI,
//     through its tc egress hook. So the pod's next hop has its own MAC, and the hook sees everything
//     that the pod sends.
//   - The host stack cannot send to a pod by the ENI: that would leave the node. So there is a device
//     on the node too. One for all pods would be enough, but with one for each a pod looks as in route:
//     the same code checks its source, and retires, repairs and deletes it.
//   - ipvlan delivers what the VPC sends to a pod's address to the pod, bypassing the host stack, though
//     it may be the answer to a translated packet. So the ingress hook runs first and passes the packet
//     to the stack unless its connection is on the fast path. It cannot enter the stack by the ENI (ipvlan would take
//     it) nor by the pod's device (it is not from the pod), so there is one receiver device for each
//     ENI.
//   - A new connection always takes the slow path, and the fast path once the stack has forwarded it unchanged
//     (bpf/connection.h). So Services, NodePorts, hostPorts, the node's own addresses, addresses of
//     node-local daemons, masquerade: everything that the stack answers or translates stays with it,
//     IPv4 and IPv6, without a list of CIDRs.
//   - Devices of a pod's namespace are deleted with it, and with their ENI: a pod whose ENI is detached
//     has no device any more.
//
// The pod's device has an index that is derived from the pod's key and unique on the node: it tells
// the program at the device which source addresses are right. An explicit index also lets the
// kernel create the device inside the pod's namespace under a name that exists on the node too.
//
// While policies are on the programs are those of bpf/policed_ipvlan.c. What a pod has written past the program at its device
// (PACKET_QDISC_BYPASS) has tc_index 0. By a frame to the ENI's own MAC, or to many, it comes in by another pod's device, by
// the pod's one on the node or by the receiver, and passes no hook of the ENI: so there are programs there too, which drop it.
//
// Beside what package node owns of a pod's device and namespace, the package owns: devices named
// twv<10 hex digits>, the programs of bpf/ipvlan.c and their maps, and the filters that hold them.
// It must not touch other ipvlan devices of an ENI.
//
// Limits: only mode shared. On layer 2 pods reach only their next hop (no multicast, no broadcast).
// A pod that may configure its own network (CAP_NET_ADMIN) can remove the program from its device,
// or create another device on the ENI, and then send from addresses of its ENI's other pods; the
// VPC drops all others. Removed programs are put back, and while they enforce policies the pod's event says so.
package ipvlan
