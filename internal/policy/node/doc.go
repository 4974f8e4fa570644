// Package node is the node's side of the policy hub: it connects to a hub (package wire has the
// protocol), keeps the received state on disk, and gives it to a Consumer.
//
// It owns the state file and the stream. It must never judge a packet or use the kernel, and
// never drop its state because no hub can be reached: running pods keep their rules.
//
// # On disk
//
// The file has the resources as they were received, including those that this version does not
// understand, with a checksum. It is replaced atomically: at once after a change, and at most
// once a second under many changes. A damaged file or one of an unknown version counts as none:
// the hub then sends everything.
package node
