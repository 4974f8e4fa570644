// Command webserver is the server of the lab's pods whose load balancers are checked: it answers
// each request with its host name, which is the pod's name, and ends as programs do, the
// careless and the careful.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// What the server does at SIGTERM.
const (
	// atOnce: it exits, whatever it was doing.
	atOnce = "exit"
	// drain: it finishes what it answers, tells each client with its next answer that the
	// connection ends, and exits when no connection is left.
	drain = "drain"
)

func main() {
	listen := flag.String("listen", ":8080", "the address to listen on")
	end := flag.String("at-sigterm", atOnce, atOnce+": exit at once; "+drain+": answer what comes with \"Connection: close\", and exit when no connection is left")
	delay := flag.Duration("delay", 0, "how long the second half of an answer takes")
	flag.Parse()
	if *end != atOnce && *end != drain {
		fail(fmt.Errorf("--at-sigterm %q: must be %s or %s", *end, atOnce, drain))
	}
	name, err := os.Hostname()
	if err != nil {
		fail(err)
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, os.Interrupt)
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		fail(err)
	}
	s := server{name: name, delay: *delay, open: map[net.Conn]bool{}, ending: make(chan struct{}), drained: make(chan struct{})}
	web := &http.Server{Handler: &s, ConnState: s.track}
	go func() { fail(web.Serve(l)) }()
	<-signals
	if *end == drain {
		s.end()
		<-s.drained
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "webserver:", err)
	os.Exit(1)
}

// server answers requests.
type server struct {
	name    string
	delay   time.Duration
	ending  chan struct{} // closed when it drains
	drained chan struct{} // closed when it has

	mu   sync.Mutex
	open map[net.Conn]bool
}

// end begins to drain.
func (s *server) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.ending)
	s.look()
}

// track keeps the connections that are open.
func (s *server) track(c net.Conn, state http.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch state {
	case http.StateNew:
		s.open[c] = true
	case http.StateClosed:
		delete(s.open, c)
		s.look()
	}
}

// look closes drained when the server drains and no connection is left. The caller holds mu.
func (s *server) look() {
	if !isClosed(s.ending) || len(s.open) > 0 || isClosed(s.drained) {
		return
	}
	close(s.drained)
}

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// ServeHTTP answers with two lines: the name, and after the delay the client's address with
// those in X-Forwarded-For. /healthz does not wait.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if isClosed(s.ending) {
		w.Header().Set("Connection", "close")
	}
	fmt.Fprintln(w, s.name)
	if s.delay > 0 && r.URL.Path != "/healthz" {
		_ = http.NewResponseController(w).Flush()
		sleep(r.Context(), s.delay)
	}
	_, _ = io.WriteString(w, r.RemoteAddr+" "+r.Header.Get("X-Forwarded-For")+"\n")
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
