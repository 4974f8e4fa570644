// Package route is the datapath that any supported kernel can run: a veth for
// each pod, policy routing on the node, and one nftables table that maps a
// packet's (device, source address) to the mark of the ENI which carries it.
//
// The number of `ip rule`s depends on the ENIs and never on the pods. A pod is
// one veth, one route, one neighbour and one map element per address. How a
// packet travels and how to look at every object is in docs/datapath-route.md;
// every number that it claims for itself is in package claims.
//
// The package owns, in the node's network namespace and nowhere else:
//   - veths named tw<11 hex digits> that carry the MAC made from that name,
//   - rules and routes with protocol 84 in its own tables,
//   - the nftables tables `inet terway`, `ip terway-nat` and `ip6 terway-nat`,
//   - state, MTU, one host-scope address and sysctls of the ENIs it is given,
//
// and the wiring of eth0 inside each pod's namespace. It must never change or
// remove anything else, run a program, or remember anything on disk: after a
// restart the kernel and the agent's journal say all there is to know.
package route
