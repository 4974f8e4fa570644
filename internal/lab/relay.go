package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"

	"terway.dev/terway/internal/kernel"
)

// Relay accepts TCP connections on l, a listener of this machine, and joins each to a
// connection to the address to, made in the network namespace at netns. So this machine reaches
// the API server without an address in the VPC.
func Relay(ctx context.Context, l net.Listener, netns, to string) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		in, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("relay to %s: %w", to, err)
		}
		wg.Go(func() {
			out, err := DialIn(ctx, netns, "tcp", to)
			if err != nil {
				slog.Warn("relay", "to", to, "err", err)
				in.Close()
				return
			}
			join(ctx, in, out)
		})
	}
}

// DialIn connects from a network namespace.
func DialIn(ctx context.Context, netns, network, addr string) (net.Conn, error) {
	var conn net.Conn
	err := kernel.InNSAt(netns, func() (err error) {
		// The address is literal, so this thread itself makes the socket.
		conn, err = (&net.Dialer{}).DialContext(ctx, network, addr)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("connect to %s in %s: %w", addr, netns, err)
	}
	return conn, nil
}

// join copies in both directions; each ends by itself, as for a half-closed connection.
func join(ctx context.Context, a, b net.Conn) {
	stop := context.AfterFunc(ctx, func() { a.Close(); b.Close() })
	defer stop()
	defer a.Close()
	defer b.Close()
	var wg sync.WaitGroup
	for _, pair := range [][2]net.Conn{{a, b}, {b, a}} {
		wg.Go(func() {
			_, err := io.Copy(pair[0], pair[1])
			if cw, ok := pair[0].(interface{ CloseWrite() error }); ok && err == nil {
				err = cw.CloseWrite()
			}
			if err != nil && !errors.Is(err, net.ErrClosed) {
				slog.Debug("relay", "err", err)
				pair[0].Close()
				pair[1].Close()
			}
		})
	}
	wg.Wait()
}
