package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// to dials an address of this machine.
func to(address string) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", address)
	}
}

// serve accepts connections on loopback and calls f for each.
func serve(t *testing.T, f func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go f(c)
		}
	}()
	return l.Addr().String()
}

// reads reads what has come of a request.
func reads(c net.Conn) { _, _ = c.Read(make([]byte, 4096)) }

const answer = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npod-1\n"

// first runs a load until it has a failure, and returns the first one.
func first(t *testing.T, o Options) Failure {
	t.Helper()
	l, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	for failed := false; !failed; time.Sleep(time.Millisecond) {
		l.mu.Lock()
		failed = len(l.report.Failures) > 0
		l.mu.Unlock()
		if t.Context().Err() != nil {
			t.Fatal("no request failed")
		}
	}
	r := l.Stop()
	if r.Err() == nil {
		t.Error("a failed request is no error")
	}
	return r.Failures[0]
}

// Each cause of a failure is found, with what was known of the connection.
func TestCauses(t *testing.T) {
	closed := serve(t, func(net.Conn) {})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := l.Addr().String()
	l.Close()
	// after answers one request and then does something with the connection.
	after := func(f func(*net.TCPConn)) string {
		return serve(t, func(c net.Conn) {
			reads(c)
			_, _ = io.WriteString(c, answer)
			reads(c)
			f(c.(*net.TCPConn))
			c.Close()
		})
	}
	for name, c := range map[string]struct {
		address     string
		connections int
		want        Failure
		says        string
	}{
		"refused":            {nobody, 0, Failure{Cause: Refused}, "refused after"},
		"refused, keeping":   {nobody, 1, Failure{Cause: Refused}, "no connection"},
		"time-out":           {closed, 0, Failure{Cause: TimeOut}, "time-out after"},
		"reset":              {serve(t, func(c net.Conn) { reads(c); _ = c.(*net.TCPConn).SetLinger(0); c.Close() }), 0, Failure{Cause: Reset}, "reset after"},
		"EOF":                {serve(t, func(c net.Conn) { reads(c); c.Close() }), 0, Failure{Cause: EOF}, "EOF after 0 bytes"},
		"EOF in the answer":  {serve(t, func(c net.Conn) { reads(c); _, _ = io.WriteString(c, answer[:len(answer)-3]); c.Close() }), 0, Failure{Cause: EOF, Bytes: int64(len(answer) - 3), Pod: "pod"}, "while pod answered"},
		"status":             {serve(t, func(c net.Conn) { reads(c); _, _ = io.WriteString(c, "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n") }), 0, Failure{Cause: Status, Status: 503}, "status 503"},
		"other":              {serve(t, func(c net.Conn) { reads(c); _, _ = io.WriteString(c, "SSH-2.0-OpenSSH\r\n") }), 0, Failure{Cause: Other}, "malformed"},
		"EOF after answers":  {after(func(*net.TCPConn) {}), 1, Failure{Cause: EOF, Pod: "pod-1", Answered: 1}, "a connection of 1 answers, the last by pod-1"},
		"reset after answer": {after(func(c *net.TCPConn) { _ = c.SetLinger(0) }), 1, Failure{Cause: Reset, Pod: "pod-1", Answered: 1}, "the last by pod-1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := first(t, Options{Dial: to(c.address), URL: "http://web/", Rate: 50, Connections: c.connections, Timeout: 500 * time.Millisecond})
			if !strings.Contains(f.String(), c.says) || f.At.IsZero() || f.After <= 0 {
				t.Errorf("%q: want %q, and a time", f, c.says)
			}
			if f.Cause != c.want.Cause || f.Status != c.want.Status || f.Bytes != c.want.Bytes || f.Pod != c.want.Pod || f.Answered != c.want.Answered {
				t.Errorf("%+v, want %+v", f, c.want)
			}
		})
	}
}

// What the kernel says in several ways has one cause.
func TestCausesOfErrors(t *testing.T) {
	for _, c := range []struct {
		err  error
		want Cause
	}{
		{fmt.Errorf("write: %w", syscall.EPIPE), Reset},
		{fmt.Errorf("connect: %w", syscall.ETIMEDOUT), TimeOut},
		{fmt.Errorf("connect: %w", context.DeadlineExceeded), TimeOut},
		{io.ErrUnexpectedEOF, EOF},
		{syscall.EHOSTUNREACH, Other},
		{errors.New("what"), Other},
	} {
		if got := cause(c.err); got != c.want {
			t.Errorf("%v: %s, want %s", c.err, got, c.want)
		}
	}
}

// Requests go over as many connections as were asked for, and a connection that the server ends
// with an answer is no failure.
func TestConnections(t *testing.T) {
	var opened atomic.Int64
	web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/last" {
			w.Header().Set("Connection", "close")
		}
		fmt.Fprintln(w, "pod-1")
	}))
	web.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			opened.Add(1)
		}
	}
	web.Start()
	defer web.Close()
	for _, c := range []struct {
		path        string
		connections int
	}{{"/", 0}, {"/last", 3}, {"/", 3}} {
		opened.Store(0)
		l, err := Start(Options{Dial: to(web.Listener.Addr().String()), URL: web.URL + c.path, Rate: 200, Connections: c.connections, Timeout: 5 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		for n := 0; n < 12; time.Sleep(time.Millisecond) {
			l.mu.Lock()
			n = l.report.Sent
			l.mu.Unlock()
		}
		r := l.Stop()
		if err := r.Err(); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
		want := r.Sent
		if c.path == "/" && c.connections > 0 {
			want = c.connections
		}
		p := r.Pods["pod-1"]
		if r.Connections != want || int(opened.Load()) != want || p == nil || p.Answers != r.Sent || p.Connections != want || p.Last.IsZero() {
			t.Errorf("%+v: %s; the server saw %d connections, want %d; %+v", c, r.Summary(), opened.Load(), want, p)
		}
		if r.P50 <= 0 || r.P99 < r.P50 || r.Longest < r.P99 {
			t.Errorf("%+v: p50 %s, p99 %s, longest %s", c, r.P50, r.P99, r.Longest)
		}
	}
}

// A connection that a pod closes as it ends is told from one that it resets while it goes on.
func TestFailuresOfLivingPods(t *testing.T) {
	at := time.Now()
	r := Report{Sent: 3, Pods: map[string]*Pod{"ends": {Last: at.Add(-time.Second)}, "lives": {Last: at.Add(time.Second)}},
		Failures: []Failure{{At: at, Cause: EOF, Answered: 3, Pod: "ends"}, {At: at, Cause: Refused}}}
	if err := r.OfLiving(); err != nil {
		t.Errorf("of a pod that ended, and of none: %v", err)
	}
	r.Failures = append(r.Failures, Failure{At: at, Cause: Reset, Answered: 2, Pod: "lives"})
	if err := r.OfLiving(); err == nil || !strings.Contains(err.Error(), "lives") || strings.Contains(err.Error(), "ends") {
		t.Errorf("of a pod that lives: %v", err)
	}
}

// Failures of connections that were used before are told from those of new ones.
func TestFailuresOfNewConnections(t *testing.T) {
	r := Report{Sent: 2, Failures: []Failure{{Cause: EOF, Answered: 3, Pod: "a"}}}
	if err := r.OfNew(); err != nil {
		t.Errorf("a connection that was used: %v", err)
	}
	r.Failures = append(r.Failures, Failure{Cause: Refused})
	if err := r.OfNew(); err == nil || !strings.Contains(err.Error(), "refused") || strings.Contains(err.Error(), "EOF") {
		t.Errorf("a new connection: %v", err)
	}
	if got, want := r.Summary(), "2 requests over 0 connections, answered by 0 pods, 2 failed (1 EOF, 1 refused)"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if none := (&Report{}); none.Err() == nil || none.OfNew() == nil {
		t.Error("no request at all is no error")
	}
}

func TestOptions(t *testing.T) {
	good := Options{Dial: to("127.0.0.1:1"), URL: "http://web/", Rate: 1, Timeout: time.Second}
	for want, change := range map[string]func(*Options){
		"rate 0":         func(o *Options) { o.Rate = 0 },
		"connections -1": func(o *Options) { o.Connections = -1 },
		"timeout 0s":     func(o *Options) { o.Timeout = 0 },
		`request "%"`:    func(o *Options) { o.URL = "%" },
	} {
		o := good
		change(&o)
		if _, err := Start(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
