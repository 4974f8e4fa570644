// Package balance is what load balancers of the simulated cloud do as processes: they check the
// health of backends, and serve listeners that are proxies — HTTP, and TCP whose backends do
// not see the client's address.
//
// It owns the sockets and goroutines of this. What a listener is and which backends it has,
// package state decides; packets of the other listeners never come here, but are forwarded by
// package fabric. It knows no namespaces: its caller gives it functions to connect and listen.
package balance

import (
	"context"
	"net"
	"net/netip"
)

// Dial connects to a backend from the address of the load balancers; network is tcp or udp.
type Dial func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error)
