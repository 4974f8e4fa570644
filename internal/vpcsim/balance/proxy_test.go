package balance

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"terway.dev/terway/internal/vpcsim/state"
)

// site is an HTTP listener with backends that answer with their names.
type site struct {
	t        *testing.T
	proxy    *Proxy
	listener state.BalancerListener
	url      string
	backends []*httptest.Server
}

func newSite(t *testing.T, backends int, change func(*state.BalancerListener)) *site {
	s := &site{t: t, listener: state.BalancerListener{
		ListenerId: "lb-1/http/80", Protocol: state.ProtocolHTTP, Port: 80, Scheduler: state.SchedulerRR,
		HTTP: &state.BalancerHTTP{IdleTimeout: time.Minute, RequestTimeout: deadline},
	}}
	for n := range backends {
		web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/headers":
				_ = r.Header.Write(w)
				fmt.Fprintf(w, "Host: %s\r\n", r.Host)
			case "/echo":
				_, _ = io.Copy(w, r.Body)
			case "/slow":
				<-r.Context().Done()
			default:
				http.SetCookie(w, &http.Cookie{Name: "app", Value: "its own"})
				c, _ := r.Cookie("app")
				fmt.Fprintf(w, "%d %s", n, c)
			}
		}))
		t.Cleanup(web.Close)
		s.backends = append(s.backends, web)
		a := local(t, web.Listener.Addr())
		s.listener.Backends = append(s.listener.Backends, state.BalancerBackend{Key: fmt.Sprint("k", n), Address: a.Addr(), Port: a.Port(), Weight: 100})
	}
	if change != nil {
		change(&s.listener)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.url = "http://" + l.Addr().String()
	s.proxy = serve(t, l, s.listener)
	return s
}

func serve(t *testing.T, l net.Listener, listener state.BalancerListener) *Proxy {
	p := NewProxy(l, "lb-1", listener, direct, slog.New(slog.DiscardHandler))
	ended := make(chan error, 1)
	go func() { ended <- p.Serve() }()
	t.Cleanup(func() {
		p.Close()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return p
}

func (s *site) get(c *http.Client, path string, header http.Header) (int, string) {
	s.t.Helper()
	r, err := http.NewRequest(http.MethodGet, s.url+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	r.Host = "www.example.com"
	for name, values := range header {
		r.Header[name] = values
	}
	answer, err := c.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return answer.StatusCode, string(body)
}

// The requests of one connection of a client go to all backends, and a backend that takes no
// more gets none.
func TestEachRequestIsBalanced(t *testing.T) {
	s := newSite(t, 2, nil)
	client := &http.Client{}
	count := func() map[byte]int {
		got := map[byte]int{}
		for range 6 {
			code, body := s.get(client, "/", nil)
			if code != http.StatusOK {
				t.Fatalf("%d %s", code, body)
			}
			got[body[0]]++
		}
		return got
	}
	if got := count(); got['0'] != 3 || got['1'] != 3 {
		t.Errorf("in turns: %v", got)
	}
	s.listener.Backends[0].Weight = 0
	s.proxy.Set(s.listener)
	if got := count(); got['1'] != 6 {
		t.Errorf("with weight 0: %v", got)
	}
	s.listener.Backends[0].Weight, s.listener.HealthCheck = 100, &state.BalancerHealthCheck{}
	s.listener.Backends[1].Health = state.Healthy
	s.proxy.Set(s.listener)
	if got := count(); got['1'] != 6 {
		t.Errorf("with a backend without a verdict: %v", got)
	}
	// One that refuses connections and that no check has found yet: another one answers.
	s.listener.Backends[0].Health = state.Healthy
	s.backends[0].Close()
	s.proxy.Set(s.listener)
	if got := count(); got['1'] != 6 {
		t.Errorf("with a backend that is gone: %v", got)
	}
	s.backends[1].Close()
	if code, _ := s.get(client, "/", nil); code != http.StatusBadGateway {
		t.Errorf("with no backend that answers: %d", code)
	}
	s.listener.Backends = nil
	s.proxy.Set(s.listener)
	if code, _ := s.get(client, "/", nil); code != http.StatusServiceUnavailable {
		t.Errorf("without a backend: %d", code)
	}
}

func TestSchedulersOfProxies(t *testing.T) {
	for scheduler, fine := range map[string]func(map[byte]int) bool{
		state.SchedulerWRR: func(m map[byte]int) bool { return m['0'] == 6 && m['1'] == 3 },
		state.SchedulerWLC: func(m map[byte]int) bool { return m['0']+m['1'] == 9 },
		state.SchedulerSCH: func(m map[byte]int) bool { return len(m) == 1 },
	} {
		s := newSite(t, 2, func(l *state.BalancerListener) { l.Scheduler = scheduler; l.Backends[1].Weight = 50 })
		got := map[byte]int{}
		for range 9 {
			_, body := s.get(&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, "/", nil)
			got[body[0]]++
		}
		if !fine(got) {
			t.Errorf("%s: %v", scheduler, got)
		}
	}
}

func TestForwardedHeaders(t *testing.T) {
	s := newSite(t, 1, nil)
	_, body := s.get(http.DefaultClient, "/headers", http.Header{"X-Forwarded-For": {"192.0.2.1"}, "X-Forwarded-Proto": {"forged"}})
	for _, line := range []string{"X-Forwarded-For: 192.0.2.1, 127.0.0.1", "Host: www.example.com"} {
		if !strings.Contains(body, line+"\r\n") {
			t.Errorf("no %q in:\n%s", line, body)
		}
	}
	for _, name := range []string{"Slb-Id", "X-Forwarded-Port"} {
		if strings.Contains(body, name) {
			t.Errorf("%s is in:\n%s", name, body)
		}
	}
	h := *s.listener.HTTP
	h.ForwardedProto, h.ForwardedPort, h.ForwardedClientPort, h.ForwardedAddress, h.ForwardedID = true, true, true, true, true
	s.listener.HTTP = &h
	s.proxy.Set(s.listener)
	_, body = s.get(http.DefaultClient, "/headers", nil)
	for _, line := range []string{"X-Forwarded-Proto: http", "X-Forwarded-Port: 80", "X-Forwarded-Clientsrcport: ", "Slb-Ip: 127.0.0.1", "Slb-Id: lb-1"} {
		if !strings.Contains(body, line) {
			t.Errorf("no %q in:\n%s", line, body)
		}
	}
}

func TestStickySessions(t *testing.T) {
	for _, kind := range []string{stickyInsert, stickyServer} {
		s := newSite(t, 3, func(l *state.BalancerListener) {
			l.HTTP.StickySession, l.HTTP.CookieTimeout, l.HTTP.Cookie = kind, time.Hour, "app"
		})
		jar, err := cookiejar.New(nil)
		if err != nil {
			t.Fatal(err)
		}
		client := &http.Client{Jar: jar}
		_, first := s.get(client, "/", nil)
		for range 4 {
			if _, body := s.get(client, "/", nil); body[0] != first[0] || body[2:] != "app=\"its own\"" {
				t.Errorf("%s: at first %q, then %q", kind, first, body)
			}
		}
		s.listener.Backends[first[0]-'0'].Weight = 0
		s.proxy.Set(s.listener)
		_, moved := s.get(client, "/", nil)
		if moved[0] == first[0] {
			t.Errorf("%s: a backend with weight 0 answers", kind)
		}
		if _, body := s.get(client, "/", nil); body[0] != moved[0] {
			t.Errorf("%s: moved to %q, then %q", kind, moved, body)
		}
	}
}

func TestSlowBackendIsAnError(t *testing.T) {
	s := newSite(t, 1, func(l *state.BalancerListener) { l.HTTP.RequestTimeout = 100 * time.Millisecond })
	if code, _ := s.get(http.DefaultClient, "/slow", nil); code != http.StatusGatewayTimeout {
		t.Errorf("%d", code)
	}
}

func TestBodiesPass(t *testing.T) {
	s := newSite(t, 2, nil)
	payload := bytes.Repeat([]byte("all of it, "), 100000)
	answer, err := http.Post(s.url+"/echo", "text/plain", bytes.NewReader(payload))
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if got, err := io.ReadAll(answer.Body); err != nil || !bytes.Equal(got, payload) {
		t.Errorf("%d of %d bytes, %v", len(got), len(payload), err)
	}
}

// tcp serves a TCP listener with one backend, which handles connections so; dial connects to the listener.
func tcp(t *testing.T, handle func(net.Conn)) (p *Proxy, listener state.BalancerListener, dial func() (net.Conn, error)) {
	t.Helper()
	back, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { back.Close() })
	go func() {
		for {
			c, err := back.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				handle(c)
			}()
		}
	}()
	front, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	to := local(t, back.Addr())
	listener = state.BalancerListener{Protocol: state.ProtocolTCP, Backends: []state.BalancerBackend{{Key: "k", Address: to.Addr(), Port: to.Port(), Weight: 1}}}
	return serve(t, front, listener), listener, func() (net.Conn, error) {
		c, err := net.Dial("tcp", front.Addr().String())
		if err != nil {
			return nil, err
		}
		t.Cleanup(func() { c.Close() })
		return c, c.SetDeadline(time.Now().Add(deadline))
	}
}

// A TCP listener whose backends do not see the client's address.
func TestTCPProxy(t *testing.T) {
	p, listener, dial := tcp(t, func(c net.Conn) {
		all, _ := io.ReadAll(c) // until the client has ended its half
		slices.Reverse(all)
		_, _ = c.Write(all)
	})
	c, err := dial()
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(c, "abc")
	_ = c.(*net.TCPConn).CloseWrite()
	if got, err := io.ReadAll(c); err != nil || string(got) != "cba" {
		t.Errorf("%q, %v", got, err)
	}
	listener.Backends = nil
	p.Set(listener)
	c, err = dial()
	if err == nil { // it may be refused before it is known to be open
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("without a backend: %v", err)
	}
}

// Close ends connections that are open at both ends, and returns.
func TestCloseEndsConnections(t *testing.T) {
	p, _, dial := tcp(t, func(c net.Conn) { _, _ = io.Copy(c, c) })
	c, err := dial()
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(c, "a")
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	closed := make(chan struct{})
	go func() { p.Close(); close(closed) }()
	select {
	case <-closed:
	case <-time.After(deadline):
		t.Fatal("Close does not return while a connection is open")
	}
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the client's connection is open: %v", err)
	}
}
