package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

func TestHealth(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := serveHealth(t.Context(), address, nil, nil); err == nil || !strings.Contains(err.Error(), "--health-address") {
		t.Errorf("an address that is taken: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	wrong := errors.New("there is no ConfigMap")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ready := []func(*http.Request) error{func(*http.Request) error { return nil }, func(*http.Request) error { return wrong }}
	if err := serveHealth(ctx, address, ready, func(err error) { t.Error(err) }); err != nil {
		t.Fatal(err)
	}
	get := func(path string) (int, string) {
		r, err := http.Get("http://" + address + path)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		return r.StatusCode, string(body)
	}
	if code, _ := get("/healthz"); code != http.StatusOK {
		t.Errorf("/healthz: %d while it waits", code)
	}
	if code, body := get("/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "no ConfigMap") {
		t.Errorf("/readyz: %d, %q", code, body)
	}
	wrong = nil
	if code, _ := get("/readyz"); code != http.StatusOK {
		t.Errorf("/readyz: %d", code)
	}
}

// "off" turns metrics off, as with terwayd.
func TestMetricsOff(t *testing.T) {
	if o := metricsOptions("off", nil); o.BindAddress != "0" || o.SecureServing {
		t.Errorf("%+v, want that nothing is served", o)
	}
	if o := metricsOptions("127.0.0.1:10363", nil); o.BindAddress != "127.0.0.1:10363" {
		t.Errorf("%+v, want the address", o)
	}
}
