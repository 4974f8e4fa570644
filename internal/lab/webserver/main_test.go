package main

import (
	"context"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"terway.dev/terway/internal/lab/load"
)

// asServer makes this test program the server.
const asServer = "WEBSERVER"

func TestMain(m *testing.M) {
	if os.Getenv(asServer) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// during sends requests to a server with some arguments, ends the server by SIGTERM, and returns
// what became of the requests until it had exited.
func during(t *testing.T, connections int, args ...string) *load.Report {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	cmd := exec.Command(os.Args[0], append([]string{"--listen", address}, args...)...)
	cmd.Env, cmd.Stderr = append(os.Environ(), asServer+"=1"), os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	dial := func(ctx context.Context) (net.Conn, error) { return (&net.Dialer{}).DialContext(ctx, "tcp", address) }
	for {
		c, err := dial(t.Context())
		if err == nil {
			c.Close()
			break
		}
		select {
		case err := <-exited:
			t.Fatalf("the server ended: %v", err)
		case <-time.After(5 * time.Millisecond):
		}
	}
	ended := make(chan struct{})
	o := load.Options{URL: "http://web/", Rate: 50, Connections: connections, Timeout: 5 * time.Second, Dial: func(ctx context.Context) (net.Conn, error) {
		select {
		case <-ended: // a load balancer would choose another pod: nothing is sent any more
			return nil, os.ErrClosed
		default:
			return dial(ctx)
		}
	}}
	send, err := load.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond)
	close(ended)
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-exited:
		if err != nil {
			t.Errorf("at SIGTERM: %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("SIGTERM does not end it")
	}
	time.Sleep(200 * time.Millisecond) // each connection has had its turn
	r := send.Stop()
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if r.Sent == 0 {
		t.Fatal("nothing was sent")
	}
	for pod := range r.Pods {
		if pod != name {
			t.Errorf("pod %q answered, want %q", pod, name)
		}
	}
	return r
}

// others are the failures but for those of requests that were due after the signal and had no
// connection.
func others(r *load.Report) (list []load.Failure) {
	for _, f := range r.Failures {
		if f.Local != "" {
			list = append(list, f)
		}
	}
	return list
}

// A server that exits at once breaks each connection that is open, and the answers that it was
// giving.
func TestExit(t *testing.T) {
	t.Parallel()
	if list := others(during(t, 3)); len(list) != 3 {
		t.Errorf("%d of 3 connections failed: %v", len(list), list)
	}
	cut := 0
	for _, f := range others(during(t, 0, "--delay", "1s", "--at-sigterm", "exit")) {
		switch {
		case f.Cause == load.EOF && f.Bytes > 0 && f.Pod != "":
			cut++
		case f.Cause != load.EOF && f.Cause != load.Reset || f.Bytes > 0:
			t.Errorf("%s: want an answer that ends too early, with its pod", f)
		}
	}
	if cut == 0 {
		t.Error("no answer was cut off")
	}
}

// A server that drains breaks nothing, also when its answers take long.
func TestDrain(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{}, {"--delay", "500ms"}} {
		for _, connections := range []int{0, 3} {
			if list := others(during(t, connections, append(args, "--at-sigterm", "drain")...)); len(list) > 0 {
				t.Errorf("%v over %d connections: %v", args, connections, list)
			}
		}
	}
}

func TestWrongArgument(t *testing.T) {
	cmd := exec.Command(os.Args[0], "--at-sigterm", "wait")
	cmd.Env = append(os.Environ(), asServer+"=1")
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), `"wait": must be exit or drain`) {
		t.Errorf("%s, %v", out, err)
	}
}
