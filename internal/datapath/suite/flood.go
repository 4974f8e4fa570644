package suite

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"terway.dev/terway/internal/datapath/suite/world"
	"terway.dev/terway/internal/testutil"
)

// SYNs without an answer, from any source, do not delay other connections: neither a new one nor
// one whose conntrack entry has expired, also where kube-proxy drops packets that are invalid for
// conntrack.
func floodStallsNobody(t *testing.T, k world.Kit) {
	for _, strict := range []bool{false, true} {
		t.Run(fmt.Sprintf("invalid packets are dropped: %v", strict), func(t *testing.T) {
			w, n0, n1 := world.ServicesWorld(t, k)
			for _, n := range w.Nodes {
				n.NFT("table inet k { chain f { type filter hook forward priority 0; ct state new accept; }; }")
				if strict {
					n.NFT("add rule inet k f ct state invalid drop")
				}
			}
			a, near, far := n0.AddPod(1, "4", "6"), n0.AddPod(1, "4", "6"), n1.AddPod(1, "4", "6")
			bystander := n0.AddPod(1)
			for _, p := range []*world.Pod{a, near, far} {
				p.Echo(7)
			}
			open := func() (list []net.Conn) {
				t.Helper()
				for _, c := range []struct {
					from    *testutil.NS
					network string
					to      string
				}{
					{a.NS, "tcp", world.At(near.V4, 7)}, {a.NS, "tcp", world.At(far.V4, 7)}, {a.NS, "tcp", world.At(near.V6, 7)}, {a.NS, "tcp", world.At(far.V6, 7)},
					{far.NS, "tcp", world.At(a.V4, 7)}, {w.Outside, "tcp", world.At(a.V4, 7)}, {a.NS, "udp", world.At(near.V4, 7)}, {a.NS, "udp", world.At(far.V4, 7)},
				} {
					conn, err := c.from.Dial(c.network, "", c.to, world.Patience)
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() { _ = conn.Close() })
					list = append(list, conn)
					for range 3 {
						exchanged(t, conn, "before any flood")
					}
				}
				return list
			}
			old := open()
			for _, n := range w.Nodes {
				n.Forget()
			}
			for _, f := range []struct {
				name    string
				ns      *testutil.NS
				gateway net.HardwareAddr
				from    netip.Addr
				to      netip.Addr
			}{
				{"from outside", w.Outside, world.MACOf(t, w.Fabric, "outside"), netip.MustParseAddr(world.OutsideV4), bystander.V4},
				{"from a pod to a pod of its node", bystander.NS, bystander.Wiring.HostMAC, bystander.V4, near.V4},
				{"from a pod to one of another node", bystander.NS, bystander.Wiring.HostMAC, bystander.V4, far.V4},
			} {
				young := open()
				world.Flood(t, f.ns, f.gateway, f.from, f.to)
				for _, conn := range append(young, old...) {
					exchanged(t, conn, "after a flood "+f.name)
				}
			}
		})
	}
}

// exchanged is one exchange with an echo server.
func exchanged(t testing.TB, conn net.Conn, when string) {
	t.Helper()
	if err := conn.SetDeadline(time.Now().Add(world.Patience)); err != nil {
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
