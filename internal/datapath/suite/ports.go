package suite

import (
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/testutil"
)

// asked connects from a port of one's own, asks Serve once and lets go at once, so that
// the port can be used again.
func asked(t testing.TB, from *testutil.NS, source, address string, server *testutil.NS) {
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

// A client uses the same port of its own for an endpoint and for a Service that leads
// to it, in turn: each connection is its own, though all look alike to the endpoint.
func onePortForServiceAndEndpoint(t *testing.T, k Kit) {
	// Conntrack, too, takes them apart as long as it remembers; then it does not.
	for _, forget := range []bool{false, true} {
		t.Run(fmt.Sprintf("conntrack forgets: %v", forget), func(t *testing.T) { onePort(t, k, forget) })
	}
}

func onePort(t *testing.T, k Kit, forget bool) {
	_, n0, n1 := servicesWorld(t, k)
	client, near, far := n0.AddPod(1, "4", "6"), n0.AddPod(1, "4", "6"), n1.AddPod(1, "4", "6")
	for _, endpoint := range []*Pod{near, far} {
		Serve(endpoint.NS, At(endpoint.V4, 80))
		Serve(endpoint.NS, At(endpoint.V6, 80))
		n0.KubeProxy(Service{ClusterIP: ClusterIP, Endpoint: endpoint.V4}, Service{ClusterIP: ClusterIP6, Endpoint: endpoint.V6})
		for range 2 {
			for _, c := range []struct {
				source string
				to     []string
			}{
				{At(client.V4, 40001), []string{At(endpoint.V4, 80), At(ClusterIP, 80)}},
				{At(client.V6, 40001), []string{At(endpoint.V6, 80), At(ClusterIP6, 80)}},
			} {
				for _, to := range c.to {
					asked(t, client.NS, c.source, to, endpoint.NS)
					if forget {
						n0.Forget()
					}
				}
			}
		}
	}
}

// Two connections at once from one port of the client's, to an endpoint and to a Service
// that leads to it: conntrack gives one of them another port towards the endpoint.
func onePortAtTheSameTime(t *testing.T, k Kit) {
	_, n0, n1 := servicesWorld(t, k)
	client, near, far := n0.AddPod(1, "4", "6"), n0.AddPod(1, "4", "6"), n1.AddPod(1, "4", "6")
	for i, endpoint := range []*Pod{near, far} {
		endpoint.Echo(7)
		n0.KubeProxy(Service{ClusterIP: ClusterIP, Port: 7, Endpoint: endpoint.V4}, Service{ClusterIP: ClusterIP6, Port: 7, Endpoint: endpoint.V6})
		for j, c := range []struct {
			source netip.Addr
			to     []netip.Addr
		}{
			{client.V4, []netip.Addr{endpoint.V4, ClusterIP}}, {client.V4, []netip.Addr{ClusterIP, endpoint.V4}},
			{client.V6, []netip.Addr{endpoint.V6, ClusterIP6}}, {client.V6, []netip.Addr{ClusterIP6, endpoint.V6}},
		} {
			port := 41000 + 10*i + j
			var talks []*Talking
			for _, to := range c.to {
				k := StartTalkFrom(t, client.NS, At(c.source, port), At(to, 7))
				k.More(20)
				talks = append(talks, k)
			}
			for _, k := range talks {
				k.More(20)
			}
			for _, k := range talks {
				k.End(t)
			}
		}
	}
}

// sharing connects from a port that other connections use too.
func sharing(ns *testutil.NS, source, to string) (conn net.Conn, err error) {
	err = ns.Do(func() error {
		local, err := net.ResolveTCPAddr("tcp", source)
		if err != nil {
			return err
		}
		d := net.Dialer{LocalAddr: local, Timeout: Patience, Control: func(_, _ string, c syscall.RawConn) (err error) {
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

// An address of the VPC becomes a Service and stops being one: the next connection,
// and for UDP the next while, goes by what is so then.
func serviceAtAnAddressOfTheVPC(t *testing.T, k Kit) {
	_, n0, n1 := servicesWorld(t, k)
	client, holder, near, far := n0.AddPod(1), Serving(n1.AddPod(1)), Serving(n0.AddPod(1)), Serving(n1.AddPod(1))
	to := At(holder.V4, 80)
	MustReach(t, client.NS, to, holder.NS, client.V4)
	for _, endpoint := range []*Pod{near, far} {
		n0.KubeProxy(Service{ClusterIP: holder.V4, Endpoint: endpoint.V4})
		MustReach(t, client.NS, to, endpoint.NS, client.V4)
	}
	n0.KubeProxy()
	MustReach(t, client.NS, to, holder.NS, client.V4)
	// An address that nobody in the VPC has.
	n0.KubeProxy(Service{ClusterIP: VirtualIP, Endpoint: near.V4})
	MustReach(t, client.NS, At(VirtualIP, 80), near.NS, client.V4)
}

// Services of both families, TCP and UDP, with the endpoint here and elsewhere, long
// enough for packets to take another way than the first.
func servicesOfBothFamilies(t *testing.T, k Kit) {
	w, n0, n1 := servicesWorld(t, k)
	client, near, far := n0.AddPod(1, "4", "6"), n0.AddPod(1, "4", "6"), n1.AddPod(1, "4", "6")
	for _, endpoint := range []*Pod{near, far, client} {
		for _, local := range []bool{false, true} {
			if local && endpoint == far {
				continue
			}
			n0.KubeProxy(
				Service{ClusterIP: ClusterIP, Port: 7, NodePort: 30007, Local: local, Endpoint: endpoint.V4},
				Service{ClusterIP: ClusterIP6, Port: 7, NodePort: 30007, Local: local, Endpoint: endpoint.V6})
			name := fmt.Sprintf("endpoint %s, local %v", endpoint.Name, local)
			t.Run(name, func(t *testing.T) {
				for _, address := range []string{At(endpoint.V4, 7), At(endpoint.V6, 7)} {
					l := endpoint.ListenPacket("udp", address)
					defer l.Close()
					go reflect(l)
					tcp := endpoint.Listen("tcp", address)
					defer tcp.Close()
					go acceptAll(tcp)
				}
				var talks []*Talking
				for _, network := range []string{"tcp", "udp"} {
					talks = append(talks,
						StartTalk(t, client.NS, network, At(ClusterIP, 7)), StartTalk(t, client.NS, network, At(ClusterIP6, 7)),
						StartTalk(t, n0.NS, network, At(ClusterIP, 7)),
						StartTalk(t, w.Outside, network, At(n0.V4, 30007)), StartTalk(t, w.Outside, network, At(n0.V6, 30007)))
					if !local {
						talks = append(talks, StartTalk(t, far.NS, network, At(n0.V4, 30007)))
					}
				}
				for _, k := range talks {
					k.More(20)
				}
				for _, k := range talks {
					k.End(t)
				}
			})
		}
	}
}

func acceptAll(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return // closed
		}
		go copyBack(conn)
	}
}
