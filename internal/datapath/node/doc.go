// Package node programs one node: the node-wide objects (packages routing, nft and firewall) and
// the objects of each pod, of any kind. docs/datapath-route.md shows the path of a packet and how
// to inspect every object; the numbers are in package claims.
//
// The number of `ip rule`s depends only on the ENIs, not on the pods. A pod has two devices, a
// route, a neighbour and a map element for each address, and what its Kind and the node's Features
// add. All of it is data (package object): one list of objects for a pod, from which the pod is
// added, checked, repaired and deleted. A Kind says how a pod's devices are made and where others
// may attach (Points); a Feature adds objects to the pods of every kind. The package knows none of
// them by name.
//
// It owns, in the node's network namespace and nowhere else:
//   - devices named tw<11 hex digits> of the group or the MAC made for them,
//   - rules and routes with protocol 84 in its own tables,
//   - the nftables tables `inet terway`, `ip terway-nat` and `ip6 terway-nat`,
//   - state, MTU, one host-scope address and sysctls of the ENIs it is given,
//
// and eth0 inside each pod's namespace. It must not change or remove anything else, run a program,
// or store anything on disk: after a restart the kernel and the agent's journal have all the state.
package node
