package world

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"terway.dev/terway/internal/testutil"
)

// Serve answers each line of each TCP connection with its own name and the client's address as it
// sees it.
func Serve(ns *testutil.NS, address string) {
	l := ns.Listen("tcp", address)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // closed at the end of the test
			}
			go func() {
				defer conn.Close()
				host, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
				for lines := bufio.NewScanner(conn); lines.Scan(); {
					fmt.Fprintf(conn, "%s %s\n", ns.Name, host)
				}
			}()
		}
	}()
}

// Answer is Serve's answer.
type Answer struct{ Server, Client string }

// Patience is how long a connection may take before it counts as failed.
const Patience = 3 * time.Second

// Ask connects, makes three requests and returns the last answer. The server has closed the
// connection, too, when it returns: none of its packets are in flight any more.
func Ask(ns *testutil.NS, address string) (a Answer, err error) {
	conn, err := ns.Dial("tcp", "", address, Patience)
	if err != nil {
		return a, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(Patience)); err != nil {
		return a, err
	}
	lines := bufio.NewReader(conn)
	for range 3 {
		if _, err := fmt.Fprintln(conn, "who is it?"); err != nil {
			return a, err
		}
		line, err := lines.ReadString('\n')
		if err != nil {
			return a, err
		}
		a.Server, a.Client, _ = strings.Cut(strings.TrimSpace(line), " ")
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return a, err
	}
	if _, err := lines.ReadByte(); err != io.EOF {
		return a, fmt.Errorf("after the last answer: %v, want the end of the connection", err)
	}
	return a, nil
}

// MustReach asserts which server answers and which client address it sees.
func MustReach(t testing.TB, from *testutil.NS, address string, server *testutil.NS, client netip.Addr) {
	t.Helper()
	got, err := Ask(from, address)
	if err != nil {
		t.Errorf("%s → %s: %v", from.Name, address, err)
		return
	}
	if want := (Answer{server.Name, client.String()}); got != want {
		t.Errorf("%s → %s: got %+v, want %+v", from.Name, address, got, want)
	}
}

// MustNotReach asserts that no server answers.
func MustNotReach(t testing.TB, from *testutil.NS, address string) {
	t.Helper()
	conn, err := from.Dial("tcp", "", address, 500*time.Millisecond)
	if err == nil {
		conn.Close()
		t.Errorf("%s → %s: connected, want none", from.Name, address)
	}
}

// At returns the address with the port, as Dial needs it.
func At(a netip.Addr, port int) string { return netip.AddrPortFrom(a, uint16(port)).String() }

// Serving makes the pod answer on port 80.
func Serving(p *Pod) *Pod {
	Serve(p.NS, At(p.V4, 80))
	return p
}

// SendFrom sends one datagram with a forged source address.
func SendFrom(t testing.TB, ns *testutil.NS, source, to string) {
	t.Helper()
	conn, err := ns.Dial("udp", source, to, Patience)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
}

func Accept(l net.Listener) (net.Conn, error) {
	if err := l.(*net.TCPListener).SetDeadline(time.Now().Add(Patience)); err != nil {
		return nil, err
	}
	return l.Accept()
}

func Exchange(t *testing.T, a, b net.Conn) {
	t.Helper()
	buf := make([]byte, 4)
	for _, pair := range [][2]net.Conn{{a, b}, {b, a}, {a, b}} {
		if err := pair[1].SetDeadline(time.Now().Add(Patience)); err != nil {
			t.Fatal(err)
		}
		if _, err := pair[0].Write([]byte("ping")); err != nil {
			t.Fatal(err)
		}
		if _, err := pair[1].Read(buf); err != nil {
			t.Fatal(err)
		}
	}
}

func ExchangeUDP(t *testing.T, conn net.Conn) {
	t.Helper()
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(Patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("question")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 16)
	n, err := conn.Read(buf)
	if err != nil || string(buf[:n]) != "question" {
		t.Errorf("answer %q, error %v", buf[:n], err)
	}
}

// Crossed returns how many packets with a pod's source left a node.
func (w *World) Crossed() int { return Counter(w.t, w.Fabric, "inet", "vpc", "crossed") }

// Strict returns how many packets the VPC dropped for a source on the wrong ENI.
func (w *World) Strict() int { return Counter(w.t, w.Fabric, "inet", "vpc", "strict") }

// Counter reads a named counter of nftables.
func Counter(t testing.TB, ns *testutil.NS, family, table, name string) int {
	t.Helper()
	out := ns.Run("nft", "-j", "list", "counter", family, table, name)
	var doc struct {
		Nftables []struct{ Counter *struct{ Packets int } }
	}
	if err := json.Unmarshal([]byte(out), &doc); err != nil {
		t.Fatal(err)
	}
	for _, o := range doc.Nftables {
		if o.Counter != nil {
			return o.Counter.Packets
		}
	}
	t.Fatalf("no counter in %s", out)
	return 0
}

// AskFrom connects from a given port, makes one request to Serve and resets the connection, so that
// the port can be used again.
func AskFrom(t testing.TB, from *testutil.NS, source, address string, server *testutil.NS) {
	t.Helper()
	conn, err := from.Dial("tcp", source, address, Patience)
	if err != nil {
		t.Errorf("%s from %s → %s: %v", from.Name, source, address, err)
		return
	}
	defer conn.Close()
	// Close resets the connection instead of leaving it in TIME_WAIT.
	if err := conn.(*net.TCPConn).SetLinger(0); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetDeadline(time.Now().Add(Patience)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := fmt.Fprintln(conn, "who is it?"); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 128)
		n, err := conn.Read(buf)
		if err != nil {
			t.Errorf("%s from %s → %s: %v", from.Name, source, address, err)
			return
		}
		if got := string(buf[:n]); len(got) < len(server.Name) || got[:len(server.Name)] != server.Name {
			t.Errorf("%s from %s → %s: answered by %q, want %s", from.Name, source, address, got, server.Name)
		}
	}
}

// Exchanged is one exchange with an echo server.
func Exchanged(t testing.TB, conn net.Conn, when string) {
	t.Helper()
	if err := conn.SetDeadline(time.Now().Add(Patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("ping")); err != nil {
		t.Errorf("%s: %s → %s: %v", when, conn.LocalAddr(), conn.RemoteAddr(), err)
		return
	}
	if _, err := io.ReadFull(conn, make([]byte, 4)); err != nil {
		t.Errorf("%s: %s → %s: %v", when, conn.LocalAddr(), conn.RemoteAddr(), err)
	}
}
