// Package hub sends every node its part of the compiled policies, over one stream for each node
// (package wire). Each replica of the controller has a Hub. The Hub is told what changes in the
// cluster (Hub.Apply), compiles it, and sends each node the difference to what the node has.
//
// It owns the compiler, the streams, and the addresses that nodes report before the API server
// has them. It must never trust a node's own statement of its name: the name is taken from the
// token (Authenticator). It does not read the cluster, and keeps nothing on disk.
//
// # Streams
//
// A stream has no queue. A change marks the stream, and the hub sends the difference between
// the current part and what the node has. Only one revision is in flight: changes that come
// before the node's answer go into the next difference. So a slow node costs no more than a
// fast one, and is never more than one difference behind.
//
// A node's state is a list of names, and a name is a hash of the content. The node sends the
// list when it connects, so a replica needs no knowledge of what another replica sent.
package hub
