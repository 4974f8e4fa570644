// Package podapi is what terwayctl asks an agent about its pods, and what the agent answers: HTTP on the socket of "terwayd ask", with
// JSON. It must never say anything of pods that the agent has not wired.
//
// Either end may be of another version than the other: fields are only added.
package podapi

import (
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// PathBandwidth is answered with a Bandwidth.
const PathBandwidth = "/pods/bandwidth"

// maxPods is the largest number of pods that is read: more than a node can have.
const maxPods = 10_000

// A Bandwidth is what the queues of a node's limited pods have counted. Who wants rates asks twice.
type Bandwidth struct {
	// Uptime is how long the agent has run when it read the counters, in nanoseconds: no clock that somebody sets.
	Uptime time.Duration `json:"uptime"`
	// Pods are those with a limit, and no others.
	Pods []Pod `json:"pods"`
}

// A Pod has a Queue for each direction that is limited and can be read.
type Pod struct {
	// Pod is NAMESPACE/NAME.
	Pod     string `json:"pod"`
	Ingress *Queue `json:"ingress,omitempty"`
	Egress  *Queue `json:"egress,omitempty"`
}

// A Queue is what limits one direction.
type Queue struct {
	// Limit is in bits per second.
	Limit uint64 `json:"limit"`
	// Bytes have passed it since it was made, with Ethernet headers; Dropped packets have not, because it was full.
	Bytes   uint64 `json:"bytes"`
	Dropped uint64 `json:"dropped"`
}

// ReadBandwidth reads what an agent answered.
func ReadBandwidth(r io.Reader) (b Bandwidth, err error) {
	if err := json.NewDecoder(r).Decode(&b); err != nil {
		return b, fmt.Errorf("read the agent's answer: %w", err)
	}
	if len(b.Pods) > maxPods {
		return b, fmt.Errorf("the agent has counters of %d pods: want %d at most", len(b.Pods), maxPods)
	}
	return b, nil
}
