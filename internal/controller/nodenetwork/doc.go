// Package nodenetwork gives each node its ENIs and addresses.
//
// It owns the spec of every NodeNetwork and all ENIs that carry the cluster's
// tag. It must never take away an address before the node has confirmed that it
// stopped using it, never offer one that is not assigned, and never create
// anything in the cloud before the intent is recorded in the spec. Its order of
// steps is such that a kill between any two leaves something that the next
// reconcile finishes:
//
//   - an ENI is recorded with its client token, then created with that token;
//   - an address is assigned in the cloud, then written to the spec; if the write
//     is lost the address is found on the ENI and adopted;
//   - an address that the node has confirmed is marked Unassigning, then
//     unassigned, then dropped from the spec; a repeated unassignment does no harm.
//     The mark is written under the optimistic lock, so that a leader that was
//     deposed without knowing cannot take back what its successor offers again;
//   - an ENI is marked Detaching, then detached, deleted and dropped.
//
// The cloud is compared with the spec when a process first sees a node, after an
// error, and when the sweep finds a difference. What the cloud's lists say may be
// seconds old, so a difference counts only when it is still there Settle later.
package nodenetwork

// The tags on every ENI that the controller creates.
const (
	TagCreator = "creator"
	TagCluster = "terway.dev/cluster"
	TagNode    = "terway.dev/node"
	TagToken   = "terway.dev/token"
	// TagOwn marks an ENI that serves one pod.
	TagOwn = "terway.dev/own"

	creator = "terway"
)
