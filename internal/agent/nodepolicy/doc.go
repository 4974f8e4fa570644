// Package nodepolicy is the agent's side of network policies: it follows the policy hub (package
// policy/node), writes what the hub says of the pods that are wired here into the kernel's maps (package
// policymap), compares the maps, and holds a pod's start until the nodes that must know it do.
//
// A pod without an endpoint in the maps is closed. What the hub says of a pod counts only as long as the pod
// has the address here: a new pod must not get the rules of the one that had its address before. A pod that
// has started and that the hub does not name gets an endpoint without rules if its namespace is open.
//
// The package must never touch a device, and never take rules away because no hub answers.
package nodepolicy
