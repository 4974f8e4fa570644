package fabric_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"terway.dev/terway/internal/vpcsim/fabric"
)

// deadline limits waits; no test asserts a duration.
const deadline = 20 * time.Second

// connection is a TCP connection between two instances, with both ends.
type connection struct {
	t              *testing.T
	client, server net.Conn
}

func connect(t *testing.T, w *world, from, to int, address string) *connection {
	t.Helper()
	c, err := tryConnect(w, from, to, address, deadline)
	if err != nil {
		t.Fatalf("%v; counters %+v %+v", err, w.counters(from), w.counters(to))
	}
	c.t = t
	t.Cleanup(c.close)
	return c
}

func tryConnect(w *world, from, to int, address string, timeout time.Duration) (*connection, error) {
	l, err := w.f.Listen(fmt.Sprintf("i-%d", to), "tcp", address)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		defer close(accepted)
		if c, err := l.Accept(); err == nil {
			accepted <- c
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	client, err := w.f.Dial(ctx, fmt.Sprintf("i-%d", from), "tcp", address)
	if err != nil {
		return nil, err
	}
	server, ok := <-accepted
	if !ok {
		client.Close()
		return nil, errors.New("the connection was not accepted")
	}
	return &connection{client: client, server: server}, nil
}

func (c *connection) close() {
	c.client.Close()
	c.server.Close()
}

// exchange sends the payload in both directions.
func (c *connection) exchange(payload []byte) {
	c.t.Helper()
	if err := c.tryExchange(payload, deadline); err != nil {
		c.t.Fatal(err)
	}
}

func (c *connection) tryExchange(payload []byte, timeout time.Duration) error {
	for _, way := range [][2]net.Conn{{c.client, c.server}, {c.server, c.client}} {
		end := time.Now().Add(timeout)
		if err := errors.Join(way[0].SetDeadline(end), way[1].SetDeadline(end)); err != nil {
			return err
		}
		sent := make(chan error, 1)
		go func() {
			_, err := way[0].Write(payload)
			sent <- err
		}()
		got := make([]byte, len(payload))
		_, err := io.ReadFull(way[1], got)
		if err := errors.Join(err, <-sent); err != nil {
			return err
		}
		if !bytes.Equal(got, payload) {
			return errors.New("the payload was changed on the way")
		}
	}
	return nil
}

// udpEcho sends a datagram to an echo server in the other instance and returns the answer.
func udpEcho(t *testing.T, w *world, from, to int, address, text string) string {
	t.Helper()
	host := net.JoinHostPort(address, "7002")
	ready := make(chan struct{})
	path := w.ns(to)
	server, err := fabric.ListenPacketInNS(path, host)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		close(ready)
		buf := make([]byte, 2000)
		n, peer, err := server.ReadFrom(buf)
		if err == nil {
			_, _ = server.WriteTo(buf[:n], peer)
		}
	}()
	<-ready
	client, err := w.f.Dial(context.Background(), fmt.Sprintf("i-%d", from), "udp", host)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Write([]byte(text)); err != nil {
		return err.Error()
	}
	buf := make([]byte, 2000)
	n, err := client.Read(buf)
	if err != nil {
		return err.Error()
	}
	return string(buf[:n])
}

// waitForProgramEnd: the kernel frees a program after a grace period.
func waitForProgramEnd(t *testing.T, id ebpf.ProgramID) {
	t.Helper()
	for end := time.Now().Add(deadline); time.Now().Before(end); {
		p, err := ebpf.NewProgramFromID(id)
		if err != nil {
			return
		}
		p.Close()
		time.Sleep(10 * time.Millisecond) // the pause between two checks
	}
	t.Errorf("the program %d is still loaded", id)
}

// udpTo sends datagrams and returns the socket's error.
func udpTo(t *testing.T, w *world, from int, address string) error {
	t.Helper()
	client, err := w.f.Dial(context.Background(), fmt.Sprintf("i-%d", from), "udp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.SetDeadline(time.Now().Add(impatience)); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	_, err = client.Read(make([]byte, 1))
	return err
}

func isRefused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }
