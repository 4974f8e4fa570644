// Package nodenetwork gives each node its ENIs and addresses.
//
// It owns the spec of every NodeNetwork and all ENIs that carry the cluster's
// tag. It must never take away an address before the node has confirmed that it
// stopped using it, and never create anything in the cloud before the intent is
// recorded in the spec. Its order of steps is such that a kill between any two
// leaves something the next reconcile finishes:
//
//   - an ENI is recorded with its client token, then created with that token;
//   - an address is assigned in the cloud, then written to the spec; if the
//     write is lost the address is found on the ENI and adopted;
//   - an address is dropped from the spec, then unassigned; if the call is lost
//     the address is found on the ENI, adopted as free, and given back again.
package nodenetwork

// The tags on every ENI that the controller creates.
const (
	TagCreator = "creator"
	TagCluster = "terway.dev/cluster"
	TagNode    = "terway.dev/node"
	TagToken   = "terway.dev/token"

	creator = "terway"
)
