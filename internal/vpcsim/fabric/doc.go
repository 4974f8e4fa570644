// Package fabric is the data plane of the simulated VPC: an instance is a network namespace, an
// ENI is a device in it, and one eBPF program switches between them.
//
// One namespace, "<prefix>fabric", is the switch. Each ENI is a veth: the end with the ENI's
// MAC is in the instance's namespace; the other end, the port, is in the switch, with the
// program (bpf/vpcsim_fabric.c) on its ingress. The program delivers by a map of addresses that
// Apply writes from the API's state; it learns nothing from frames. It answers ARP and
// neighbour solicitations itself, drops what the ENI may not send and what the security groups
// do not accept, and redirects the rest to the target's device by bpf_redirect_peer. It never
// changes a TTL or a payload, and an address, a port or a checksum only for a load balancer.
//
// The package owns the namespaces that it made (marked by an alias on lo), the veths, the
// programs and the maps. It must never decide what the cloud contains (package state does),
// touch the root network namespace, or configure more of a guest than DHCP would: the primary
// ENI's first address and default route.
//
// # Restart
//
// Filters and maps live in the kernel: a filter on the lo of the switch's namespace holds the
// maps even when there is no port, so nothing is pinned. A new Fabric with the same prefix
// finds the maps by that filter and the ports by their alias, and Apply changes only what
// differs. While no process runs, frames are delivered by the last Apply. Established flows
// continue.
//
// # Security groups
//
// Rules of an ENI's groups are merged by priority, drop before accept on a tie; the groups'
// defaults (members of a normal group reach each other, normal groups accept outgoing traffic)
// come last. A flow is judged from its initiator's side, by the initiator's egress and the
// responder's ingress rules, and remembered for 910 s after its last packet. When rules or
// memberships of either end change, the next packet causes the flow to be judged again, still
// from its initiator's side: established connections survive a change that accepts them and
// stop after one that does not.
//
// # Load balancers
//
// A balancer's address is one more kind of address in the map that each packet is looked up in,
// so what goes elsewhere pays nothing for balancers. A listener has a table of slots that Go
// computes (schedule.go); the program picks one for a new connection, by a counter or a hash, or
// compares all by their open connections. It remembers the choice by the client's and the
// listener's addresses and ports, and in the flow, by which it finds replies. So a backend sees
// the client's address, and its security groups judge it; the client's rules see the
// balancer's address.
//
// One namespace, "<prefix>slb-<vpc>", has the addresses of all balancers of a VPC and an
// address of 100.64.0.0/10. Its kernel refuses what no listener takes, and whoever checks
// backends' health or serves a proxy does it there; security groups let pass what it sends.
// Another one, "<prefix>internet", is outside: it reaches public addresses of balancers, and
// only their replies reach it.
//
// A connection keeps its backend until it is closed or idle, whatever becomes of the backend,
// unless its listener drains or goes; a UDP flow moves when its backend is removed or unhealthy.
// If the backend would see two connections under the same addresses and ports, because a client
// uses one port for two listeners, the later one gets another backend, or is refused if there is
// none; a connection that the backend has not answered keeps no later one away. A client that is
// its own backend is dropped ("hairpin"). ICMP errors of backends reach clients as they are, so a
// client's socket does not see them. A balancer's security groups and access lists judge
// connections when they begin.
//
// # Conditions for a frame
//
// Source: the ENI's MAC, and one of its addresses or prefixes, or (SourceDestCheck off) an
// address that the route table of its vSwitch routes to this ENI. Without Strict an ENI with
// SourceDestCheck off may send from any address. Destination: an ENI of the same VPC with the
// address, a balancer, else the longest match in the vSwitch's route table. Length: at most the smaller MTU
// of both ends; of a GSO frame each segment counts. Later IPv4 and IPv6 fragments pass if the
// first one came before them. VLAN-tagged frames are dropped.
package fabric
