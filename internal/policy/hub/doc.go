// Package hub gives every node its part of the compiled policies, over one stream for each node
// (package wire). Each replica of the controller has a Hub; it is told what changes in the cluster
// (Hub.Apply), compiles, and sends nodes the difference to what they have.
//
// It owns the compiler, the streams, and the addresses that nodes tell before the API server knows
// them. It must never take a node's name from what the node says: the token says it
// (Authenticator). It leaves to others to read a cluster, and keeps nothing on disk.
//
// # Streams
//
// A stream has no queue. A change marks it, and what is sent is the difference between the part at
// that time and what the node has. One revision is on the way at a time: what changes until the
// node answers goes into the next difference. So a slow node costs no more than a fast one, and is
// never further behind than one difference.
//
// What a node has are names, and a name is a hash of the content. A node says them when it connects,
// so a replica needs to know nothing of what another replica sent.
package hub
