package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/healthz"
)

// serveHealth answers /healthz and /readyz until ctx is done. It is not the
// manager's, because the process is healthy while it waits for a configuration,
// and not ready.
func serveHealth(ctx context.Context, address string, ready healthz.Checker, failed func(error)) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("--health-address: %w", err)
	}
	mux := http.NewServeMux()
	for path, check := range map[string]healthz.Checker{"/healthz": healthz.Ping, "/readyz": ready} {
		h := http.StripPrefix(path, &healthz.Handler{Checks: map[string]healthz.Checker{"controller": check}})
		mux.Handle(path, h)
		mux.Handle(path+"/", h)
	}
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	context.AfterFunc(ctx, func() { _ = s.Close() }) // nobody waits for an answer of a process that ends
	go func() {
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			failed(fmt.Errorf("serve health: %w", err))
		}
	}()
	return nil
}
