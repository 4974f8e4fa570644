// Package fabric is the data plane of the simulated VPC: an instance is a network namespace, an
// ENI is a device in it, and one eBPF program switches between them.
//
// One namespace, "<prefix>fabric", is the switch. Each ENI is a veth: the end with the ENI's
// MAC is in the instance's namespace; the other end, the port, is in the switch, with the
// program (bpf/vpcsim_fabric.c) on its ingress. The program delivers by a map of addresses that
// Apply writes from the API's state; it learns nothing from frames. It answers ARP and
// neighbour solicitations itself, drops what the ENI may not send and what the security groups
// do not accept, and redirects the rest to the target's device by bpf_redirect_peer. It never
// changes a TTL, a checksum or a payload.
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
// # Conditions for a frame
//
// Source: the ENI's MAC, and one of its addresses or prefixes, or (SourceDestCheck off) an
// address that the route table of its vSwitch routes to this ENI. Without Strict an ENI with
// SourceDestCheck off may send from any address. Destination: an ENI of the same VPC with the
// address, else the longest match in the vSwitch's route table. Length: at most the smaller MTU
// of both ends; of a GSO frame each segment counts. Later IPv4 and IPv6 fragments pass if the
// first one came before them. VLAN-tagged frames are dropped.
package fabric
