package balance

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"terway.dev/terway/internal/vpcsim/state"
)

func direct(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, network, to.String())
}

func local(t *testing.T, l net.Addr) netip.AddrPort {
	t.Helper()
	a, err := netip.ParseAddrPort(l.String())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// deadline limits waits; no test asserts a duration.
const deadline = 20 * time.Second

// follow runs a Checker with one listener and returns its reports.
func follow(t *testing.T, l *state.BalancerListener, dial Dial) (*Checker, <-chan state.BackendHealth) {
	news := make(chan state.BackendHealth, 100)
	c := NewChecker(func(list []state.BackendHealth) {
		for _, n := range list {
			news <- n
		}
	})
	t.Cleanup(c.Close)
	c.Set([]Listener{{*l, dial}})
	return c, news
}

func wait(t *testing.T, news <-chan state.BackendHealth) state.BackendHealth {
	t.Helper()
	var n state.BackendHealth
	select {
	case n = <-news:
	case <-time.After(deadline):
		t.Fatal("no report")
	}
	return n
}

func listenerFor(kind string, to netip.AddrPort) *state.BalancerListener {
	return &state.BalancerListener{
		ListenerId: "l", HealthCheck: &state.BalancerHealthCheck{Type: kind, Interval: 10 * time.Millisecond, Timeout: 2 * time.Second, Healthy: 3, Unhealthy: 2},
		Backends: []state.BalancerBackend{{Key: "k", Address: to.Addr(), Port: to.Port(), Weight: 100}},
	}
}

func TestVerdictsChangeAfterSoManyResultsInARow(t *testing.T) {
	var checks, fail atomic.Int32
	dial := func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
		n := checks.Add(1)
		if fail.Load() == 2 || fail.Load() == 1 && n%2 == 0 {
			return nil, errors.New("refused")
		}
		a, _ := net.Pipe()
		return a, nil
	}
	l := listenerFor(state.CheckTCP, netip.MustParseAddrPort("10.0.0.1:80"))
	_, news := follow(t, l, dial)
	if n := wait(t, news); n.Health != state.Healthy || n.ListenerId != "l" || n.Key != "k" || checks.Load() < 3 {
		t.Errorf("after %d checks: %+v", checks.Load(), n)
	}
	fail.Store(1)
	for begin := checks.Load(); checks.Load() < begin+20; {
		select {
		case n := <-news:
			t.Fatalf("results that alternate: %+v", n)
		case <-time.After(time.Millisecond):
		}
	}
	fail.Store(2)
	if n := wait(t, news); n.Health != state.Unhealthy || n.Reason != state.ReasonConnectFailed {
		t.Errorf("%+v", n)
	}
	fail.Store(0)
	if n := wait(t, news); n.Health != state.Healthy || n.Reason != "" {
		t.Errorf("%+v", n)
	}
}

// A verdict that a restarted process knows is no news.
func TestKnownVerdictIsNoNews(t *testing.T) {
	var checks atomic.Int32
	dial := func(context.Context, string, netip.AddrPort) (net.Conn, error) {
		checks.Add(1)
		return nil, errors.New("refused")
	}
	l := listenerFor(state.CheckTCP, netip.MustParseAddrPort("10.0.0.1:80"))
	l.Backends[0].Health = state.Unhealthy
	c, news := follow(t, l, dial)
	for checks.Load() < 10 {
		select {
		case n := <-news:
			t.Fatalf("reported: %+v", n)
		case <-time.After(time.Millisecond):
		}
	}
	c.Set(nil)
	for range 20 { // a check that is under way may end
		time.Sleep(5 * time.Millisecond)
	}
	before := checks.Load()
	time.Sleep(100 * time.Millisecond)
	if now := checks.Load(); now != before {
		t.Errorf("%d checks after the listener went", now-before)
	}
}

func TestProbes(t *testing.T) {
	ok, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ok.Close()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	// It accepts and says nothing, or no HTTP.
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	odd, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer odd.Close()
	go func() {
		for {
			c, err := odd.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 1000))
			fmt.Fprint(c, "SSH-2.0-not-a-web-server\r\n")
			c.Close()
		}
	}()
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/moved":
			w.WriteHeader(http.StatusMovedPermanently)
		case r.URL.Path == "/domain" && r.Host != "www.example.com", r.URL.Path == "/get" && r.Method != http.MethodGet:
			w.WriteHeader(http.StatusBadRequest)
		case r.Header.Get("User-Agent") != "SLBHealthCheck":
			w.WriteHeader(http.StatusForbidden)
		}
	}))
	defer web.Close()
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	go func() {
		buf := make([]byte, 100)
		for {
			n, peer, err := udp.ReadFrom(buf)
			if err != nil {
				return
			}
			if string(buf[:n]) == "ping" {
				_, _ = udp.WriteTo([]byte("pong"), peer)
			}
		}
	}()
	gone, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	never := func(ctx context.Context, _ string, _ netip.AddrPort) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	http := func(uri string, change func(*state.BalancerHealthCheck)) state.BalancerHealthCheck {
		h := state.BalancerHealthCheck{Type: state.CheckHTTP, URI: uri}
		if change != nil {
			change(&h)
		}
		return h
	}
	for _, c := range []struct {
		name string
		how  state.BalancerHealthCheck
		to   net.Addr
		dial Dial
		want string
	}{
		{"tcp", state.BalancerHealthCheck{Type: state.CheckTCP}, ok.Addr(), direct, ""},
		{"tcp, closed", state.BalancerHealthCheck{Type: state.CheckTCP}, closed.Addr(), direct, state.ReasonConnectFailed},
		{"tcp, no answer", state.BalancerHealthCheck{Type: state.CheckTCP}, closed.Addr(), never, state.ReasonConnectTimeout},
		{"http", http("/", nil), web.Listener.Addr(), direct, ""},
		{"http, moved", http("/moved", nil), web.Listener.Addr(), direct, state.ReasonCodeNotMatch},
		{"http, moved and that is well", http("/moved", func(h *state.BalancerHealthCheck) { h.Codes = []string{"http_2xx", "http_3xx"} }), web.Listener.Addr(), direct, ""},
		{"http, another domain", http("/domain", nil), web.Listener.Addr(), direct, state.ReasonCodeNotMatch},
		{"http, domain", http("/domain", func(h *state.BalancerHealthCheck) { h.Domain = "www.example.com" }), web.Listener.Addr(), direct, ""},
		{"http, method", http("/get", func(h *state.BalancerHealthCheck) { h.Method = "get" }), web.Listener.Addr(), direct, ""},
		{"http, no answer", http("/", nil), mute.Addr(), direct, state.ReasonResponseTimeout},
		{"http, something else", http("/", nil), odd.Addr(), direct, state.ReasonHTTPInvalidHeader},
		{"http, closed", http("/", nil), closed.Addr(), direct, state.ReasonConnectFailed},
		{"udp, silent", state.BalancerHealthCheck{Type: state.CheckUDP, Request: "?"}, udp.LocalAddr(), direct, ""},
		{"udp, answers", state.BalancerHealthCheck{Type: state.CheckUDP, Request: "ping", Expect: "pong"}, udp.LocalAddr(), direct, ""},
		{"udp, answers something else", state.BalancerHealthCheck{Type: state.CheckUDP, Request: "ping", Expect: "pang"}, udp.LocalAddr(), direct, state.ReasonResponseTimeout},
		{"udp, no answer", state.BalancerHealthCheck{Type: state.CheckUDP, Request: "?", Expect: "pong"}, udp.LocalAddr(), direct, state.ReasonResponseTimeout},
		{"udp, closed", state.BalancerHealthCheck{Type: state.CheckUDP, Request: "?"}, gone.LocalAddr(), direct, state.ReasonConnectFailed},
	} {
		c.how.Timeout = 300 * time.Millisecond
		if got := probe(t.Context(), &c.how, local(t, c.to), c.dial); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
