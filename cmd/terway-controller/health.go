package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

// serveHealth answers /healthz and /readyz until ctx is done. The manager's own health server is
// not used: the process is healthy, but not ready, while it waits for a configuration; the answer
// says why.
func serveHealth(ctx context.Context, address string, ready []func(*http.Request) error, failed func(error)) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("--health-address: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, r *http.Request) {
		for _, part := range ready {
			if err := part(r); err != nil {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
				return
			}
		}
		fmt.Fprintln(w, "ok")
	})
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	context.AfterFunc(ctx, func() { _ = s.Close() }) // the process ends: no request has to be finished
	go func() {
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			failed(fmt.Errorf("serve health: %w", err))
		}
	}()
	return nil
}
