package world

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/testutil"
)

// Echo echoes on a port of each of the pod's addresses, TCP and UDP.
func (p *Pod) Echo(port int) {
	for _, a := range p.Spec.Addresses {
		EchoOn(p.NS, At(a, port))
		go Reflect(p.ListenPacket("udp", At(a, port)))
	}
}

// Echo does the same on the node's addresses.
func (n *Node) Echo(port int) {
	for _, a := range []netip.Addr{n.V4, n.V6} {
		EchoOn(n.NS, At(a, port))
		go Reflect(n.ListenPacket("udp", At(a, port)))
	}
}

// EchoOn sends back what it receives, on each TCP connection until the test ends.
func EchoOn(ns *testutil.NS, address string) { go AcceptAll(ns.Listen("tcp", address)) }

func copyBack(conn net.Conn) {
	defer conn.Close()
	_, _ = io.Copy(conn, conn)
}

// Bulk sends megabytes to an echo server and compares the answer: large packets arrive whole or in
// parts, with valid checksums.
func Bulk(t testing.TB, from *testutil.NS, address string) {
	t.Helper()
	conn, err := from.Dial("tcp", "", address, Patience)
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * Patience)); err != nil {
		t.Error(err)
		return
	}
	const size = 4 << 20
	sent, got := sha256.New(), sha256.New()
	failed := make(chan error, 1)
	go func() {
		source := rand.NewChaCha8([32]byte{byte(size >> 20)})
		_, err := io.CopyN(io.MultiWriter(conn, sent), source, size)
		failed <- err
	}()
	_, err = io.CopyN(got, conn, size)
	if err := errors.Join(err, <-failed); err != nil {
		t.Errorf("%s → %s: %v", from.Name, address, err)
		return
	}
	if !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
		t.Errorf("%s → %s: what came back is not what was sent", from.Name, address)
	}
}

// Talking exchanges a line repeatedly until it is stopped; each must be answered.
type Talking struct {
	name string
	conn net.Conn
	stop chan struct{}
	n    atomic.Int64
	err  error
	done chan struct{} // closed when it has ended
}

// answered is how long an exchange on a connection may take before it counts as lost. It is long, because it must not be what a machine
// without processor time, whose programs wait for seconds, does not keep: a lost datagram, or a connection that is cut, has no answer ever.
const answered = 10 * Patience

// StartTalk connects to an echo server and starts.
func StartTalk(t testing.TB, from *testutil.NS, network, address string) *Talking {
	t.Helper()
	conn, err := from.Dial(network, "", address, answered)
	if err != nil {
		t.Fatal(err)
	}
	return talkOn(fmt.Sprintf("%s %s → %s", network, from.Name, address), conn)
}

// StartRepeatingTalk does so, and sends a ping again that has no answer after a while, as TCP does by itself: for
// what may lose a few packets.
func StartRepeatingTalk(t testing.TB, from *testutil.NS, network, address string) *Talking {
	t.Helper()
	conn, err := from.Dial(network, "", address, answered)
	if err != nil {
		t.Fatal(err)
	}
	if network == "udp" {
		conn = &repeating{Conn: conn}
	}
	return talkOn(fmt.Sprintf("%s %s → %s", network, from.Name, address), conn)
}

// repeating is a connection whose last datagram is sent again while there is no answer. An answer that comes late counts for the next
// one.
type repeating struct {
	net.Conn
	last  []byte
	until time.Time
}

func (c *repeating) SetDeadline(at time.Time) error {
	c.until = at
	return c.Conn.SetWriteDeadline(at)
}

func (c *repeating) Write(b []byte) (int, error) {
	c.last = bytes.Clone(b)
	return c.Conn.Write(b)
}

func (c *repeating) Read(b []byte) (int, error) {
	for {
		again := time.Now().Add(100 * time.Millisecond)
		if again.After(c.until) {
			again = c.until
		}
		if err := c.Conn.SetReadDeadline(again); err != nil {
			return 0, err
		}
		n, err := c.Conn.Read(b)
		if !errors.Is(err, os.ErrDeadlineExceeded) || !time.Now().Before(c.until) {
			return n, err
		}
		if _, err := c.Conn.Write(c.last); err != nil {
			return 0, err
		}
	}
}

// StartTalkFrom does so by TCP from a port that other connections may have too.
func StartTalkFrom(t testing.TB, from *testutil.NS, source, address string) *Talking {
	t.Helper()
	conn, err := sharing(from, source, address)
	if err != nil {
		t.Fatal(err)
	}
	return talkOn(fmt.Sprintf("%s (%s) → %s", from.Name, source, address), conn)
}

func talkOn(name string, conn net.Conn) *Talking {
	k := &Talking{name: name, conn: conn, stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(k.done)
		buf := make([]byte, 4)
		for k.err == nil {
			select {
			case <-k.stop:
				return
			default:
			}
			if k.err = conn.SetDeadline(time.Now().Add(answered)); k.err == nil {
				if _, k.err = conn.Write([]byte("ping")); k.err == nil {
					_, k.err = io.ReadFull(conn, buf)
				}
			}
			k.n.Add(1)
		}
	}()
	return k
}

// More waits for so many more exchanges, or until none can come.
func (k *Talking) More(exchanges int64) {
	for start := k.n.Load(); k.n.Load() < start+exchanges; {
		select {
		case <-k.done:
			return
		case <-time.After(time.Millisecond):
		}
	}
}

// Talk makes so many exchanges on one connection.
func Talk(t testing.TB, from *testutil.NS, network, address string, exchanges int64) {
	t.Helper()
	k := StartTalk(t, from, network, address)
	k.More(exchanges)
	k.End(t)
}

// End stops it and returns the error, if any.
func (k *Talking) End(t testing.TB) {
	t.Helper()
	close(k.stop)
	<-k.done
	if k.err != nil {
		t.Errorf("%s: after %d exchanges: %v", k.name, k.n.Load(), k.err)
	}
	if err := k.conn.Close(); err != nil {
		t.Error(err)
	}
}

// sharing connects from a port that other connections use too.
func sharing(ns *testutil.NS, source, to string) (conn net.Conn, err error) {
	err = ns.Do(func() error {
		local, err := net.ResolveTCPAddr("tcp", source)
		if err != nil {
			return err
		}
		d := net.Dialer{LocalAddr: local, Timeout: answered, Control: func(_, _ string, c syscall.RawConn) (err error) {
			if failed := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) }); failed != nil {
				return failed
			}
			return err
		}}
		conn, err = d.Dial("tcp", to)
		return err
	})
	return conn, err
}

func AcceptAll(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return // closed
		}
		go copyBack(conn)
	}
}
