package vpcsim

import (
	"context"
	"net"

	"terway.dev/terway/internal/vpcsim/state"
)

// Fabric is the data plane of the simulated cloud: instances as namespaces, ENIs
// as devices. Package fabric implements it; without one the simulator only answers calls.
type Fabric interface {
	// Apply makes the data plane what view says. It is called synchronously after
	// each change, never twice at once, with rising revisions; the API answers after
	// it returns. An error is retried with the then newest view, so Apply is
	// idempotent and picks up what an earlier call left half done.
	Apply(ctx context.Context, view *state.View) error
	// Listen opens a listener inside an instance's namespace. The instance exists
	// since the last Apply. The address (100.100.100.200, …) is made local there by Listen.
	// A listener of an instance that stops or goes away fails its Accept.
	Listen(instanceID, network, addr string) (net.Listener, error)
	// Notify has lost called whenever a device went that Apply did not take: a guest
	// destroyed the namespace into which it had moved an ENI, for example. Real cards
	// come back to the instance then, and the next Apply brings them.
	Notify(lost func())
	// Close releases what the process holds.
	Close() error
}
