package main

import (
	"fmt"
	"os"
)

// connectionChecks are client-go's settings (k8s.io/apimachinery/pkg/util/net) for connections to the API server: how many seconds
// without a word one may be until it is asked whether it lives, and how long its answer may take until another is made.
//
// By default that takes 45 s. When the network of a replica's node was away, its policy hub and its webhook know nothing newer for
// as long, and pods of nodes that follow this hub start without a network.
var connectionChecks = map[string]string{
	"HTTP2_READ_IDLE_TIMEOUT_SECONDS": "5",
	"HTTP2_PING_TIMEOUT_SECONDS":      "5",
}

// noticeDeadConnections sets connectionChecks for all clients that are made from now on. What the environment has stays.
func noticeDeadConnections() error {
	for name, seconds := range connectionChecks {
		if os.Getenv(name) != "" {
			continue
		}
		if err := os.Setenv(name, seconds); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return nil
}
