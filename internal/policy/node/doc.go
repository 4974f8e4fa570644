// Package node is the node's half of the policy hub: it follows a hub (package wire says how), keeps
// on disk what it was told, and gives it to a Consumer.
//
// It owns the state's file and the stream. It must never judge a packet, know a kernel, or forget
// what it has because no hub answers: running pods keep the rules they have.
//
// # On disk
//
// The file has the resources as they came, also those that this version does not understand, with a
// checksum. It is written whole and in one step, at once when something has changed, and under many
// changes in a row once a second. A file that is damaged or of an unknown version is as good as none: the
// hub sends everything.
package node
