package fabric_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/kernel"
	"terway.dev/terway/internal/vpcsim/fabric"
)

const (
	privateVIP = "10.1.0.100"
	publicVIP  = "198.51.100.7"
	outside    = "internet"
	balancers  = "slb-vpc-1"
)

// balanced is a world with a client, i-1, and servers i-2 … behind a TCP listener on port 80 and
// a UDP listener on port 53. Each server answers on port 8080 with its name and its client's
// address, then echoes.
func balanced(t *testing.T, servers int, change func(*fabric.Balancer)) *world {
	w := newWorld(t, nil)
	for n := range servers + 1 {
		w.instance(n + 1)
	}
	// Security groups judge the client that the backend sees.
	w.top.SecurityGroups[0].Rules = []fabric.Rule{accept(1, 0, "0.0.0.0/0")}
	b := fabric.Balancer{
		ID: "lb-1", VPC: "vpc-1",
		Addresses: []fabric.BalancerAddress{{Address: addr(privateVIP)}, {Address: addr(publicVIP), Public: true}},
		Listeners: []fabric.Listener{
			{ID: "lb-1/tcp/80", Protocol: tcp, Port: 80},
			{ID: "lb-1/udp/53", Protocol: udp, Port: 53},
		},
	}
	for i := range b.Listeners {
		for n := range servers {
			b.Listeners[i].Backends = append(b.Listeners[i].Backends, backend(n+2, 100))
		}
	}
	if change != nil {
		change(&b)
	}
	w.top.Balancers = []fabric.Balancer{b}
	w.apply()
	for n := range servers {
		w.serve(n + 2)
	}
	return w
}

func backend(n, weight int) fabric.Backend {
	return fabric.Backend{Address: netip.AddrPortFrom(addr("10.1.0.%d", n), 8080), Weight: weight, Healthy: true}
}

func (w *world) listener(i int) *fabric.Listener { return &w.top.Balancers[0].Listeners[i] }

// serve starts instance n's servers. A connection ends after an echo of "bye".
func (w *world) serve(n int) {
	w.t.Helper()
	var l net.Listener
	// Not by the fabric, whose end the servers outlive.
	if err := kernel.InNSAt(w.ns(n), func() (err error) {
		l, err = net.Listen("tcp", "0.0.0.0:8080")
		return err
	}); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				fmt.Fprintf(c, "i-%d %s\n", n, c.RemoteAddr())
				buf := make([]byte, 65536)
				for {
					n, err := c.Read(buf)
					if err != nil {
						return
					}
					if _, err := c.Write(buf[:n]); err != nil || string(buf[:n]) == "bye\n" {
						return
					}
				}
			}()
		}
	}()
	u, err := fabric.ListenPacketInNS(w.ns(n), "0.0.0.0:8080")
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { u.Close() })
	go func() {
		buf := make([]byte, 65536)
		for {
			got, peer, err := u.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = u.WriteTo(append([]byte(fmt.Sprintf("i-%d %s\n", n, peer)), buf[:got]...), peer)
		}
	}()
}

// client is a connection to a server that said who it is and whom it sees.
type client struct {
	net.Conn
	server string
	sees   netip.AddrPort
}

// dial connects from a namespace; port 0 is any local port.
func (w *world) dial(id, network string, port int, to string) (*client, error) {
	w.t.Helper()
	path, err := w.f.NetNSPath(id)
	if err != nil {
		w.t.Fatal(err)
	}
	d := net.Dialer{Timeout: impatience}
	if network == "tcp" {
		d.LocalAddr = &net.TCPAddr{Port: port}
	} else {
		d.LocalAddr = &net.UDPAddr{Port: port}
	}
	// A port is used for one connection after the other.
	d.Control = func(_, _ string, raw syscall.RawConn) (err error) {
		if e := raw.Control(func(fd uintptr) {
			err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1)
		}); e != nil {
			return e
		}
		return err
	}
	c := &client{}
	err = kernel.InNSAt(path, func() (err error) {
		c.Conn, err = d.DialContext(context.Background(), network, to)
		return err
	})
	if err != nil {
		return nil, err
	}
	w.t.Cleanup(func() { c.Close() })
	if network == "udp" {
		return c, nil
	}
	if err := c.SetDeadline(time.Now().Add(deadline)); err != nil {
		return nil, err
	}
	line, err := bufio.NewReaderSize(c, 64).ReadString('\n')
	if err != nil {
		return nil, err
	}
	c.name(line)
	return c, nil
}

func (c *client) name(line string) {
	server, sees, _ := strings.Cut(strings.TrimSpace(line), " ")
	c.server = server
	c.sees, _ = netip.ParseAddrPort(sees)
}

// reset closes the connection without TIME_WAIT: its port is free at once.
func (c *client) reset() {
	_ = c.Conn.(*net.TCPConn).SetLinger(0)
	c.Close()
}

func (w *world) mustDial(id string, to string) *client {
	w.t.Helper()
	c, err := w.dial(id, "tcp", 0, to)
	if err != nil {
		w.t.Fatalf("from %s to %s: %v; counters %+v", id, to, err, w.counters(1))
	}
	return c
}

// ask sends a datagram and returns the server that answers.
func (c *client) ask(text string) (string, error) {
	if err := c.SetDeadline(time.Now().Add(impatience)); err != nil {
		return "", err
	}
	if _, err := c.Write([]byte(text)); err != nil {
		return "", err
	}
	buf := make([]byte, 65536)
	n, err := c.Read(buf)
	if err != nil {
		return "", err
	}
	line, echo, _ := strings.Cut(string(buf[:n]), "\n")
	if echo != text {
		return "", fmt.Errorf("the datagram came back as %d bytes, want %d", len(echo), len(text))
	}
	c.name(line)
	return c.server, nil
}

// echo reports whether the connection still works, by an exchange.
func (c *client) echo(payload []byte) error {
	if err := c.SetDeadline(time.Now().Add(impatience)); err != nil {
		return err
	}
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(payload)
		sent <- err
	}()
	got := make([]byte, len(payload))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if !bytes.Equal(got, payload) {
		return errors.New("the payload was changed on the way")
	}
	return <-sent
}

func (w *world) connections(n int, to string) map[string]int {
	w.t.Helper()
	got := map[string]int{}
	for range n {
		c := w.mustDial("i-1", to)
		got[c.server]++
		c.Close()
	}
	return got
}

func TestBalancerTakesBackendsInTurnsByWeight(t *testing.T) {
	w := balanced(t, 2, func(b *fabric.Balancer) {
		b.Listeners[0].Backends[0].Weight = 34
		b.Listeners[0].Backends[1].Weight = 17
	})
	if got := w.connections(9, privateVIP+":80"); got["i-2"] != 6 || got["i-3"] != 3 {
		t.Errorf("9 connections to backends with the weights 2 and 1: %v", got)
	}
	c := w.mustDial("i-1", privateVIP+":80")
	if c.sees.Addr() != addr("10.1.0.1") || c.RemoteAddr().String() != privateVIP+":80" {
		t.Errorf("the backend sees the client %v, which sees %v", c.sees, c.RemoteAddr())
	}
	if err := c.echo(bytes.Repeat([]byte("all of it, "), 100000)); err != nil {
		t.Error(err)
	}
	w.listener(0).Scheduler = fabric.RoundRobin
	w.apply()
	if got := w.connections(8, privateVIP+":80"); got["i-2"] != 4 || got["i-3"] != 4 {
		t.Errorf("8 connections in turns without weights: %v", got)
	}
}

func TestBalancerOfUDP(t *testing.T) {
	w := balanced(t, 2, nil)
	c, err := w.dial("i-1", "udp", 0, privateVIP+":53")
	if err != nil {
		t.Fatal(err)
	}
	first, err := c.ask("a question")
	if err != nil {
		t.Fatal(err)
	}
	if c.sees.Addr() != addr("10.1.0.1") {
		t.Errorf("the backend sees the client %v", c.sees)
	}
	for _, text := range []string{"another", strings.Repeat("in fragments ", 400)} {
		if again, err := c.ask(text); err != nil || again != first {
			t.Errorf("a flow's datagram of %d bytes: %s, %v, want %s", len(text), again, err, first)
		}
	}
	// The flow of a removed backend moves at once.
	w.listener(1).Backends = slices.DeleteFunc(w.listener(1).Backends, func(b fabric.Backend) bool {
		return b.Address.Addr() == w.port("eni-" + first[2:]).Addresses[0]
	})
	w.apply()
	if moved, err := c.ask("is anybody there"); err != nil || moved == first {
		t.Errorf("after its backend was removed a flow is at %q, %v", moved, err)
	}
	if ours, err := w.dial("i-1", "udp", 0, privateVIP+":54"); err != nil {
		t.Fatal(err)
	} else if _, err := ours.ask("x"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a port without a listener: %v", err)
	}
}

func TestBackendThatTakesNothingKeepsItsConnections(t *testing.T) {
	for name, stop := range map[string]func(*fabric.Listener){
		"weight 0":  func(l *fabric.Listener) { l.Backends[0].Weight = 0 },
		"unhealthy": func(l *fabric.Listener) { l.Backends[0].Healthy = false },
		"removed":   func(l *fabric.Listener) { l.Backends = l.Backends[1:] },
	} {
		t.Run(name, func(t *testing.T) {
			w := balanced(t, 2, nil)
			var old *client
			for old == nil || old.server != "i-2" {
				old = w.mustDial("i-1", privateVIP+":80")
			}
			stop(w.listener(0))
			w.apply()
			if got := w.connections(6, privateVIP+":80"); got["i-2"] != 0 {
				t.Errorf("new connections: %v", got)
			}
			if err := old.echo([]byte("still")); err != nil {
				t.Errorf("the old connection: %v", err)
			}
			// The same client port again, for a new connection.
			port := old.LocalAddr().(*net.TCPAddr).Port
			old.reset()
			again, err := w.dial("i-1", "tcp", port, privateVIP+":80")
			if err != nil || again.server != "i-3" {
				t.Errorf("a new connection from the same port: %+v, %v", again, err)
			}
		})
	}
}

func TestDrainEndsConnectionsOfRemovedAndUnhealthyBackends(t *testing.T) {
	for name, stop := range map[string]func(*fabric.Listener){
		"unhealthy": func(l *fabric.Listener) { l.Backends[0].Healthy = false },
		"removed":   func(l *fabric.Listener) { l.Backends = nil },
	} {
		t.Run(name, func(t *testing.T) {
			w := balanced(t, 1, func(b *fabric.Balancer) { b.Listeners[0].Drain = 3 * time.Second })
			c := w.mustDial("i-1", privateVIP+":80")
			stop(w.listener(0))
			w.apply()
			if err := c.echo([]byte("while it drains")); err != nil {
				t.Errorf("before the end of the time: %v", err)
			}
			w.apply() // another change must not begin the time anew
			err := error(nil)
			for end := time.Now().Add(deadline); err == nil && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
				err = c.echo([]byte("x"))
			}
			if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
				t.Errorf("after the time: %v, want a reset", err)
			}
		})
	}
}

func TestConnectionsOfARemovedListenerEnd(t *testing.T) {
	w := balanced(t, 1, nil)
	c := w.mustDial("i-1", privateVIP+":80")
	w.top.Balancers[0].Listeners = w.top.Balancers[0].Listeners[1:]
	w.apply()
	if err := c.echo([]byte("x")); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a connection of a listener that is gone: %v, want a reset", err)
	}
}

func TestIdleConnectionIsForgotten(t *testing.T) {
	w := balanced(t, 1, func(b *fabric.Balancer) { b.Listeners[0].Timeout = time.Second })
	c := w.mustDial("i-1", privateVIP+":80")
	if err := c.echo([]byte("x")); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2500 * time.Millisecond) // time must pass without a packet
	if err := c.echo([]byte("x")); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after its time without a packet: %v, want a reset", err)
	}
}

func TestBalancerRefusesWhatItHasNoBackendFor(t *testing.T) {
	w := balanced(t, 1, nil)
	w.mustPing(1, privateVIP)
	w.listener(0).Backends[0].Healthy = false
	w.apply()
	for _, to := range []string{privateVIP + ":80", privateVIP + ":81"} {
		if _, err := w.dial("i-1", "tcp", 0, to); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s: %v, want connection refused", to, err)
		}
	}
}

func TestClientThatIsItsOwnBackendIsDropped(t *testing.T) {
	w := balanced(t, 1, nil)
	w.dropped(2, "hairpin", func() {
		if c, err := w.dial("i-2", "tcp", 0, privateVIP+":80"); err == nil {
			t.Errorf("a client reached itself: %+v", c)
		}
	})
}

func TestAccessLists(t *testing.T) {
	w := balanced(t, 1, nil)
	ranges := func(list ...string) (out []netip.Prefix) {
		for _, s := range list {
			out = append(out, netip.MustParsePrefix(s))
		}
		return out
	}
	for _, c := range []struct {
		list fabric.AccessList
		want bool
	}{
		{fabric.AccessList{Allow: true, Ranges: ranges("10.1.0.1/32", "172.16.0.0/12")}, true},
		{fabric.AccessList{Allow: true, Ranges: ranges("10.1.0.2/32")}, false},
		{fabric.AccessList{Allow: true}, false},
		{fabric.AccessList{Ranges: ranges("10.1.0.2/32")}, true},
		{fabric.AccessList{Ranges: ranges("10.0.0.0/8")}, false},
	} {
		w.listener(0).Access = &c.list
		w.apply()
		before := w.counters(1).Drops["access-list"]
		_, err := w.dial("i-1", "tcp", 0, privateVIP+":80")
		if (err == nil) != c.want || (w.counters(1).Drops["access-list"] > before) == c.want {
			t.Errorf("%+v: %v, %+v", c.list, err, w.counters(1).Drops)
		}
	}
}

func TestSecurityGroupsOfABalancerAndOfItsBackends(t *testing.T) {
	w := balanced(t, 1, nil)
	w.top.Balancers[0].SecurityGroups = []string{"sg-lb"}
	rule := accept(1, tcp, "10.1.0.1/32")
	rule.Ports = fabric.PortRange{From: 80, To: 80}
	w.top.SecurityGroups = append(w.top.SecurityGroups, fabric.SecurityGroup{ID: "sg-lb", Rules: []fabric.Rule{rule}})
	w.apply()
	w.mustDial("i-1", privateVIP+":80")
	w.top.SecurityGroups[1].Rules = nil
	w.apply()
	w.dropped(1, "security-group", func() {
		if _, err := w.dial("i-1", "tcp", 0, privateVIP+":80"); err == nil {
			t.Error("the balancer's group accepts nothing, and the connection succeeds")
		}
	})
	w.top.Balancers[0].SecurityGroups = nil
	w.top.SecurityGroups[0].InnerAccept = false
	rule.Ports = fabric.PortRange{From: 8080, To: 8080}
	w.top.SecurityGroups[0].Rules = []fabric.Rule{rule}
	w.apply()
	w.mustDial("i-1", privateVIP+":80")
	w.top.SecurityGroups[0].Rules[0].Ports = fabric.PortRange{From: 80, To: 80}
	w.apply()
	w.dropped(1, "security-group", func() {
		if _, err := w.dial("i-1", "tcp", 0, privateVIP+":80"); err == nil {
			t.Error("the backend's group does not accept its port, and the connection succeeds")
		}
	})
}

// The client port of a balanced connection is used again for a direct one: its replies do not
// come from the balancer.
func TestDirectConnectionAfterABalancedOne(t *testing.T) {
	w := balanced(t, 1, nil)
	const port = 40000
	for range 3 {
		for _, to := range []string{privateVIP + ":80", "10.1.0.2:8080"} {
			c, err := w.dial("i-1", "tcp", port, to)
			if err != nil {
				t.Fatalf("to %s: %v", to, err)
			}
			if err := c.echo([]byte("x")); err != nil {
				t.Errorf("to %s: %v", to, err)
			}
			c.reset()
		}
	}
}

// One client port, two addresses of the balancer: the same backend would see one connection.
func TestOnePortToTwoAddressesOfABalancer(t *testing.T) {
	w := balanced(t, 2, nil)
	const port = 40000
	first, err := w.dial("i-1", "tcp", port, privateVIP+":80")
	if err != nil {
		t.Fatal(err)
	}
	second, err := w.dial("i-1", "tcp", port, publicVIP+":80")
	if err != nil {
		t.Fatal(err)
	}
	if first.server == second.server {
		t.Errorf("both have the backend %s", first.server)
	}
	for _, c := range []*client{first, second} {
		if err := c.echo([]byte("x")); err != nil {
			t.Error(err)
		}
	}
	w.listener(0).Backends = w.listener(0).Backends[:1]
	w.apply()
	if _, err := w.dial("i-1", "tcp", 40001, privateVIP+":80"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.dial("i-1", "tcp", 40001, publicVIP+":80"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("without another backend: %v, want connection refused", err)
	}
}

// A server that closed first is in TIME_WAIT, in which it refuses the same client port by another
// address of the balancer: another backend is asked.
func TestBackendInTimeWaitIsAvoided(t *testing.T) {
	w := balanced(t, 2, nil)
	for port := 40000; port < 40008; port++ {
		first, err := w.dial("i-1", "tcp", port, privateVIP+":80")
		if err != nil {
			t.Fatal(err)
		}
		// The server ends when it has echoed "bye", the client after it.
		if err := first.echo([]byte("bye\n")); err != nil {
			t.Fatal(err)
		}
		if n, err := first.Read(make([]byte, 1)); err != io.EOF {
			t.Fatalf("%d bytes, %v, want the end of the connection", n, err)
		}
		first.Close()
		w.connections(1, privateVIP+":80") // the next turn is that of the same backend again
		second, err := w.dial("i-1", "tcp", port, publicVIP+":80")
		if err != nil {
			t.Fatal(err)
		}
		if second.server == first.server {
			t.Errorf("port %d: %s, which is in TIME_WAIT, got the next connection", port, first.server)
		}
	}
}

// The client of a backend that did not answer may use its port again by another address of the
// balancer, even if there is no other backend.
func TestPortOfAnUnansweredConnection(t *testing.T) {
	w := balanced(t, 1, nil)
	const port = 40000
	w.up(2, false)
	if _, err := w.dial("i-1", "tcp", port, privateVIP+":80"); !os.IsTimeout(err) {
		t.Fatalf("while the server is away: %v, want a time-out", err)
	}
	w.up(2, true)
	c, err := w.dial("i-1", "tcp", port, publicVIP+":80")
	if err != nil {
		t.Fatalf("once it is back: %v", err)
	}
	if err := c.echo([]byte("x")); err != nil {
		t.Error(err)
	}
}

// up sets instance n's ENI up or down inside the instance.
func (w *world) up(n int, up bool) {
	w.t.Helper()
	if err := kernel.InNSAt(w.ns(n), func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		if up {
			return netlink.LinkSetUp(l)
		}
		return netlink.LinkSetDown(l)
	}); err != nil {
		w.t.Fatal(err)
	}
}

func TestSourceHashAndPersistence(t *testing.T) {
	w := balanced(t, 3, func(b *fabric.Balancer) { b.Listeners[0].Scheduler = fabric.SourceHash })
	if got := w.connections(8, privateVIP+":80"); len(got) != 1 {
		t.Errorf("by source: %v", got)
	}
	w.listener(0).Scheduler = fabric.TupleHash
	w.apply()
	if got := w.connections(30, privateVIP+":80"); len(got) < 2 {
		t.Errorf("by tuple: %v", got)
	}
	w.listener(0).Scheduler, w.listener(0).Persistence = fabric.RoundRobin, time.Minute
	w.apply()
	got := w.connections(8, privateVIP+":80")
	if len(got) != 1 {
		t.Errorf("in turns with persistence: %v", got)
	}
	for i := range w.listener(0).Backends {
		b := &w.listener(0).Backends[i]
		if got["i-"+b.Address.Addr().String()[len("10.1.0."):]] > 0 {
			b.Weight = 0
		}
	}
	w.apply()
	if after := w.connections(4, privateVIP+":80"); len(after) != 1 || fmt.Sprint(after) == fmt.Sprint(got) {
		t.Errorf("when that backend takes no more: %v, before: %v", after, got)
	}
}

func TestLeastConnections(t *testing.T) {
	w := balanced(t, 2, func(b *fabric.Balancer) {
		b.Listeners[0].Scheduler = fabric.LeastConnections
		b.Listeners[0].Backends[1].Weight = 50
	})
	open := map[string][]*client{}
	for range 9 {
		c := w.mustDial("i-1", privateVIP+":80")
		open[c.server] = append(open[c.server], c)
	}
	if len(open["i-2"]) != 6 || len(open["i-3"]) != 3 {
		t.Errorf("9 open connections to backends with the weights 2 and 1: %d and %d", len(open["i-2"]), len(open["i-3"]))
	}
	for _, c := range open["i-2"] {
		c.Close()
	}
	eventually(t, "closed connections do not count", func() bool {
		c := w.mustDial("i-1", privateVIP+":80")
		defer c.Close()
		return c.server == "i-2"
	})
	if got := w.connections(4, privateVIP+":80"); got["i-2"] < 3 {
		t.Errorf("with 3 connections to i-3 only: %v", got)
	}
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(deadline); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if f() {
			return
		}
	}
	t.Fatalf("not so: %s", what)
}

func TestOutsideReachesPublicAddressesOnly(t *testing.T) {
	w := balanced(t, 1, nil)
	c := w.mustDial(outside, publicVIP+":80")
	if c.sees.Addr() != fabric.Outside.Addr() || c.server != "i-2" {
		t.Errorf("%s sees %v", c.server, c.sees)
	}
	if err := c.echo(bytes.Repeat([]byte("from far away, "), 10000)); err != nil {
		t.Error(err)
	}
	u, err := w.dial(outside, "udp", 0, publicVIP+":53")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.ask("x"); err != nil {
		t.Error(err)
	}
	if _, err := w.dial(outside, "tcp", 0, publicVIP+":81"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a port without a listener: %v", err)
	}
	for _, to := range []string{privateVIP + ":80", "10.1.0.2:8080", fabric.BalancerSource.Addr().String() + ":80"} {
		if c, err := w.dial(outside, "tcp", 0, to); err == nil {
			t.Errorf("%s answers: %+v", to, c)
		}
	}
	before := w.counters(2).Drops["no-route"]
	if c, err := w.dial("i-2", "tcp", 0, fabric.Outside.Addr().String()+":80"); err == nil || w.counters(2).Drops["no-route"] == before {
		t.Errorf("an instance reaches the outside: %+v, %v", c, err)
	}
	w.mustDial("i-1", publicVIP+":80")
}

// The namespace of balancers reaches backends whatever their security groups accept, and serves
// what a listener leaves to it.
func TestNamespaceOfBalancers(t *testing.T) {
	w := balanced(t, 1, func(b *fabric.Balancer) { b.Listeners[0].Proxy = true })
	w.top.SecurityGroups[0].InnerAccept, w.top.SecurityGroups[0].Rules = false, nil
	w.apply()
	probe := w.mustDial(balancers, "10.1.0.2:8080")
	if !netip.MustParsePrefix("100.64.0.0/10").Contains(probe.sees.Addr()) {
		t.Errorf("the backend sees a probe from %v", probe.sees)
	}
	if err := probe.echo([]byte("x")); err != nil {
		t.Error(err)
	}
	for _, vip := range []string{privateVIP, publicVIP} {
		l, err := w.f.Listen(balancers, "tcp", vip+":80")
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				fmt.Fprintf(c, "proxy %s\n", c.RemoteAddr())
				go func() { _, _ = io.Copy(c, c) }()
			}
		}()
	}
	for id, vip := range map[string]string{"i-1": privateVIP, outside: publicVIP} {
		c := w.mustDial(id, vip+":80")
		if c.server != "proxy" {
			t.Errorf("%s is answered by %s", id, c.server)
		}
		if err := c.echo([]byte("x")); err != nil {
			t.Error(err)
		}
	}
}

func TestRestartKeepsBalancedConnections(t *testing.T) {
	w := balanced(t, 3, nil)
	var all []*client
	for range 6 {
		all = append(all, w.mustDial("i-1", privateVIP+":80"), w.mustDial(outside, publicVIP+":80"))
	}
	exchange := func(when string) {
		t.Helper()
		for _, c := range all {
			if err := c.echo([]byte(when)); err != nil {
				t.Errorf("%s: a connection to %s: %v", when, c.server, err)
			}
		}
	}
	exchange("before")
	if err := w.f.Close(); err != nil {
		t.Fatal(err)
	}
	exchange("while no process runs")
	w.mustDial("i-1", privateVIP+":80")
	w.f = w.open()
	w.apply()
	exchange("after")
	w.listener(0).Backends = w.listener(0).Backends[1:]
	w.apply()
	exchange("after a change")
}

func TestBalancersComeAndGo(t *testing.T) {
	w := balanced(t, 1, nil)
	w.mustDial("i-1", privateVIP+":80")
	for range 2 {
		w.apply()
	}
	w.mustDial("i-1", publicVIP+":80")
	// One address less: it is unknown at once, the other one goes on.
	w.top.Balancers[0].Addresses = w.top.Balancers[0].Addresses[:1]
	w.apply()
	w.dropped(1, "no-route", func() { w.mustNotPing(1, publicVIP) })
	w.mustDial("i-1", privateVIP+":80")
	if left, _ := kernelState(t, w.opts.Prefix); len(left) != 4 { // the switch, two instances, the balancers
		t.Errorf("namespaces: %v", left)
	}
	w.top.Balancers = nil
	w.apply()
	w.dropped(1, "no-route", func() { w.mustNotPing(1, privateVIP) })
	if left, _ := kernelState(t, w.opts.Prefix); len(left) != 3 {
		t.Errorf("namespaces: %v", left)
	}
	// An ENI may have the address now.
	w.port("eni-2").Addresses = append(w.port("eni-2").Addresses, addr(privateVIP))
	w.apply()
	w.run(2, "ip", "addr", "add", privateVIP+"/32", "dev", "eth0")
	w.mustPing(1, privateVIP)
}
