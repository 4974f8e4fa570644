// Package apiserver has what the agent's and the controller's connections to the API server have in common.
package apiserver

import (
	"fmt"
	"os"
)

// checks are client-go's settings (k8s.io/apimachinery/pkg/util/net) for a connection by HTTP/2: after how many seconds without a
// frame it sends a ping, and after how many without an answer it makes another connection. Its defaults are 30 and 15.
//
// After the network of a node was away, its connection may be dead, and nothing is watched until that is noticed. Meanwhile an
// agent has none of the addresses that the controller gives the node, and a policy hub knows no new pod: those of nodes that
// follow the hub start closed.
var checks = map[string]string{
	"HTTP2_READ_IDLE_TIMEOUT_SECONDS": "5",
	"HTTP2_PING_TIMEOUT_SECONDS":      "5",
}

// NoticeDeadConnections has the clients that are made from now on notice within 10 s that their connection is dead. What the
// environment has stays.
func NoticeDeadConnections() error {
	for name, seconds := range checks {
		if os.Getenv(name) != "" {
			continue
		}
		if err := os.Setenv(name, seconds); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return nil
}
