// Package cnicall is the protocol between the CNI plugin and the node's agent, over a unix
// socket.
//
// A connection carries one call: the plugin sends a Request as JSON and keeps the connection
// open, the agent answers with a Reply as JSON and closes it. If the plugin ends first, the
// call's context ends. Both sides ignore unknown fields, so plugin and agent can have different
// versions.
//
// The plugin is a program that is executed for each ADD and DEL of each pod, so its start-up
// time is part of each pod's start. gRPC, whose libraries include HTTP and TLS, takes longer
// than all of the agent's work ("make bench-cni").
//
// The package must never validate or decide anything: that is done in one place, in the agent
// (package request). Package server is the other side.
package cnicall

// Request is a CNI call: the environment (CNI specification 1.1, "Parameters") and the
// network configuration from standard input.
type Request struct {
	Verb        string `json:"verb"`                  // CNI_COMMAND
	ContainerID string `json:"containerID,omitempty"` // CNI_CONTAINERID
	NetNS       string `json:"netns,omitempty"`       // CNI_NETNS
	IfName      string `json:"ifName,omitempty"`      // CNI_IFNAME
	Args        string `json:"args,omitempty"`        // CNI_ARGS
	Path        string `json:"path,omitempty"`        // CNI_PATH
	Config      []byte `json:"config,omitempty"`      // standard input, unchanged
}

// Reply is a result or an error.
type Reply struct {
	// Result is JSON; empty for calls without a result.
	Result []byte `json:"result,omitempty"`
	// Error is nil on success.
	Error *Error `json:"error,omitempty"`
}

// Error is a CNI error ("Error" in the CNI specification).
type Error struct {
	Code    uint   `json:"code"`
	Msg     string `json:"msg"`
	Details string `json:"details,omitempty"`
}

// Versions are the versions of the CNI specification that configurations may have.
var Versions = []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"}

// Codes of errors in the CNI specification, "Error" and, for STATUS, "STATUS".
const (
	CodeIOFailure       = 5  // I/O failure
	CodeDecodingFailure = 6  // failed to decode content
	CodeTryAgainLater   = 11 // try again later
	CodeNotAvailable    = 50 // the plugin is not available: it cannot service ADD
)

// Largest is the maximum size of a message in bytes. A GC lists every pod of the node.
const Largest = 4 << 20
