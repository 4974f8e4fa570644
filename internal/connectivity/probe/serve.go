// Package probe sends the probes of package connectivity, and serves in the pods that they go to. The
// hidden command "terwayd probe" runs it, as terwayd is in the product's image, which every node has.
//
// It must not judge, and needs no right: no capability, no account, no file.
package probe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// size is what an exchange sends, in bytes: no network carries it in one packet.
const size = 16 << 10

// most is how many marks a server keeps: more than a run sends.
const most = 100_000

// server answers probes.
type server struct {
	mu   sync.Mutex
	seen map[string]bool
}

// Serve answers probes by TCP and UDP on a port until the context is done.
func Serve(ctx context.Context, address string) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("serve probes: %w", err)
	}
	packets, err := lc.ListenPacket(ctx, "udp", l.Addr().String())
	if err != nil {
		return errors.Join(fmt.Errorf("serve probes: %w", err), l.Close())
	}
	return (&server{seen: map[string]bool{}}).serve(ctx, l, packets)
}

func (s *server) serve(ctx context.Context, l net.Listener, packets net.PacketConn) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /seen", func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		marks := []string{}
		for m := range s.seen {
			marks = append(marks, m)
		}
		_ = json.NewEncoder(w).Encode(marks) // nobody is left to be told
	})
	mux.HandleFunc("POST /exchange", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 2*size))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		_, _ = w.Write(body) // the sender sees what is missing
	})
	h := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute, IdleTimeout: time.Minute}
	stop := context.AfterFunc(ctx, func() { _ = errors.Join(h.Close(), packets.Close()) })
	defer stop()
	go s.datagrams(packets)
	if err := h.Serve(l); ctx.Err() == nil {
		return fmt.Errorf("serve probes: %w", err)
	}
	return nil
}

// datagrams notes the mark of each datagram, and sends it back.
func (s *server) datagrams(packets net.PacketConn) {
	buf := make([]byte, 64)
	for {
		n, from, err := packets.ReadFrom(buf)
		if err != nil {
			return // closed
		}
		s.mu.Lock()
		if len(s.seen) < most {
			s.seen[string(buf[:n])] = true
		}
		s.mu.Unlock()
		_, _ = packets.WriteTo(buf[:n], from) // the sender sees that it is missing
	}
}

// Seen writes the marks that the server of this pod has had, as a list in JSON.
func Seen(ctx context.Context, address string, out io.Writer) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/seen", nil)
	if err != nil {
		return err
	}
	answer, err := direct(nil).Do(r)
	if err != nil {
		return fmt.Errorf("ask this pod's server: %w", err)
	}
	defer answer.Body.Close()
	_, err = io.Copy(out, answer.Body)
	return err
}

// direct is a client without proxies and without connections that are kept. It uses conn if there is one.
func direct(conn net.Conn) *http.Client {
	t := &http.Transport{DisableKeepAlives: true}
	if conn != nil {
		t.DialContext = func(context.Context, string, string) (net.Conn, error) { return conn, nil }
	}
	return &http.Client{Transport: t}
}
