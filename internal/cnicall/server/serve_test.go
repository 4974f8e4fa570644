package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"terway.dev/terway/internal/cnicall"
)

// agent serves until stop is called; stop returns after Serve has.
func agent(t *testing.T, finish time.Duration, answer func(context.Context, cnicall.Request) cnicall.Reply) (socket string, stop func()) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "socket")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := Serve(ctx, l, finish, answer); err != nil {
			t.Errorf("Serve: %v", err)
		}
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return socket, stop
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// Requests and answers arrive unchanged, whatever their size and bytes.
func TestBothWays(t *testing.T) {
	socket, _ := agent(t, time.Hour, func(_ context.Context, in cnicall.Request) cnicall.Reply {
		return cnicall.Reply{Result: in.Config, Error: &cnicall.Error{
			Code: 11, Msg: strings.Join([]string{in.Verb, in.ContainerID, in.NetNS, in.IfName, in.Args, in.Path}, " "), Details: "ä",
		}}
	})
	for _, size := range []int{0, 1, 65535, 300_000, 2_000_000} {
		in := cnicall.Request{Verb: "ADD", ContainerID: "id", NetNS: "/run/netns/x", IfName: "eth0", Args: "A=b", Path: "/opt/cni/bin", Config: bytes.Repeat([]byte{0xff}, size)}
		got, err := cnicall.Do(within(t, 20*time.Second), socket, in)
		if err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		if !bytes.Equal(got.Result, in.Config) {
			t.Errorf("%d bytes: %d came back", size, len(got.Result))
		}
		if want := (&cnicall.Error{Code: 11, Msg: "ADD id /run/netns/x eth0 A=b /opt/cni/bin", Details: "ä"}); !reflect.DeepEqual(got.Error, want) {
			t.Errorf("%d bytes: error %+v, want %+v", size, got.Error, want)
		}
	}
	if _, err := cnicall.Do(within(t, 20*time.Second), socket, cnicall.Request{Config: make([]byte, cnicall.Largest)}); err == nil || errors.As(err, new(*cnicall.BrokenError)) {
		t.Errorf("a request that is too large: %v", err)
	}
}

func TestSuccessHasNoError(t *testing.T) {
	socket, stop := agent(t, time.Hour, func(context.Context, cnicall.Request) cnicall.Reply { return cnicall.Reply{} })
	if got, err := cnicall.Do(within(t, 20*time.Second), socket, cnicall.Request{}); err != nil || !reflect.DeepEqual(got, cnicall.Reply{}) {
		t.Errorf("got %+v, %v, want an empty reply", got, err)
	}
	stop()
	if _, err := cnicall.Do(within(t, 20*time.Second), socket, cnicall.Request{}); !errors.As(err, new(*cnicall.BrokenError)) {
		t.Errorf("an agent that is gone: %v", err)
	}
}

// A peer with another protocol gets an error, whatever it sends.
func TestNotUnderstood(t *testing.T) {
	socket, _ := agent(t, time.Hour, func(context.Context, cnicall.Request) cnicall.Reply {
		t.Error("nonsense was answered")
		return cnicall.Reply{}
	})
	for _, s := range []string{"PRI * HTTP/2.0\r\n\r\n", `{"verb":7}`, `"` + strings.Repeat("x", cnicall.Largest)} {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		go conn.Write([]byte(s))
		var r cnicall.Reply
		if err := json.NewDecoder(conn).Decode(&r); err != nil || r.Error == nil || r.Error.Code != 6 {
			t.Errorf("%.20q: got %+v, %v", s, r, err)
		}
		conn.Close()
	}
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.UnixConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(conn); err != nil || len(b) > 0 {
		t.Errorf("a peer that sends nothing got %q, %v", b, err)
	}
}

// A plugin that gives up ends its call.
func TestPluginGoesAway(t *testing.T) {
	ended := make(chan struct{})
	socket, _ := agent(t, time.Hour, func(ctx context.Context, _ cnicall.Request) cnicall.Reply {
		<-ctx.Done()
		close(ended)
		return cnicall.Reply{}
	})
	if _, err := cnicall.Do(within(t, 100*time.Millisecond), socket, cnicall.Request{}); !errors.As(err, new(*cnicall.BrokenError)) {
		t.Errorf("after the deadline: %v", err)
	}
	<-ended
}

// An agent that stops lets calls at work finish, but not for ever; a peer that says
// nothing does not keep it.
func TestStop(t *testing.T) {
	at := make(chan struct{})
	finish := make(chan struct{})
	work := func(ctx context.Context, in cnicall.Request) cnicall.Reply {
		at <- struct{}{}
		select {
		case <-finish:
			return cnicall.Reply{Result: []byte("1")}
		case <-ctx.Done():
			return cnicall.Reply{Error: &cnicall.Error{Msg: "given up"}}
		}
	}
	for name, c := range map[string]struct {
		patience time.Duration
		finishes bool
	}{"finishes": {time.Hour, true}, "never ends": {time.Millisecond, false}} {
		socket, stop := agent(t, c.patience, work)
		silent, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		got := make(chan cnicall.Reply)
		go func() {
			r, err := cnicall.Do(within(t, 20*time.Second), socket, cnicall.Request{})
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			got <- r
		}()
		<-at
		if c.finishes {
			silent.Close()
			go func() { finish <- struct{}{} }()
		}
		stop()
		if r := <-got; (r.Error == nil) != c.finishes {
			t.Errorf("%s: answered %+v", name, r)
		}
		silent.Close()
	}
}

// An agent that is killed in the middle of its answer.
func TestHalfAnAnswer(t *testing.T) {
	for _, s := range []string{"", `{"result":"e`} {
		socket := filepath.Join(t.TempDir(), "socket")
		l, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			conn, err := l.Accept()
			if err == nil {
				conn.Read(make([]byte, 100))
				conn.Write([]byte(s))
				conn.Close()
			}
		}()
		if r, err := cnicall.Do(within(t, 20*time.Second), socket, cnicall.Request{}); !errors.As(err, new(*cnicall.BrokenError)) {
			t.Errorf("%q: got %+v, %v", s, r, err)
		}
		l.Close()
	}
}
