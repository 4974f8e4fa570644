package lab

import (
	"context"
	"io"
	"net"
	"net/netip"
	"testing"

	"terway.dev/terway/internal/testutil"
)

// A client in a namespace of its own reaches the API server at the address of this machine's relay.
func TestRelayIn(t *testing.T) {
	master, outside := testutil.NewNS(t, "master"), testutil.NewNS(t, "outside")
	s := &State{APIServer: "127.0.0.1:16443", Master: Machine{NetNS: master.Path, Address: netip.MustParseAddr("127.0.0.1")}}
	var server net.Listener
	if err := master.Do(func() (err error) {
		server, err = net.Listen("tcp", s.apiServer())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		for {
			c, err := server.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "here")
			c.Close()
		}
	}()
	ask := func() (string, error) {
		c, err := DialIn(t.Context(), outside.Path, "tcp", s.APIServer)
		if err != nil {
			return "", err
		}
		defer c.Close()
		b, err := io.ReadAll(c)
		return string(b), err
	}
	if got, err := ask(); err == nil {
		t.Errorf("without a relay: %q", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stop, err := s.RelayIn(ctx, outside.Path)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ask(); err != nil || got != "here" {
		t.Errorf("%q, %v", got, err)
	}
	if err := stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
	if got, err := ask(); err == nil {
		t.Errorf("after the relay has stopped: %q", got)
	}
}
