package suite

import (
	"net"
	"net/netip"
	"testing"

	"terway.dev/terway/internal/datapath/suite/world"
	"terway.dev/terway/internal/testutil"
)

// unanswered is the number of SYNs in a flood to which the receiver sends nothing: several times the
// connections that a node of the suite remembers. Conntrack keeps the entries of unanswered SYNs
// longest, so it is less than world.Flooded.
const unanswered = world.Flooded / 4

// SYNs to ports without a listener, from any source, do not delay other connections: neither a new
// one nor one whose conntrack entry has expired, also where kube-proxy drops packets that are
// invalid for conntrack. The SYNs are answered by RST or dropped by the receiver. The datapath keeps
// what it remembers of established connections.
func floodStallsNobody(t *testing.T, k world.Kit) {
	for _, c := range []struct {
		name           string
		strict, silent bool
	}{
		{name: "RST"},
		{name: "RST, invalid packets are dropped", strict: true},
		{name: "no answer, invalid packets are dropped", strict: true, silent: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, n0, n1 := world.ServicesWorld(t, k)
			for _, n := range w.Nodes {
				n.NFT("table inet k { chain f { type filter hook forward priority 0; ct state new accept; }; }")
				if c.strict {
					n.NFT("add rule inet k f ct state invalid drop")
				}
			}
			a, near, far := n0.AddPod(1, "4", "6"), n0.AddPod(1, "4", "6"), n1.AddPod(1, "4", "6")
			bystander := n0.AddPod(1)
			for _, p := range []*world.Pod{a, near, far} {
				p.Echo(7)
			}
			syns := world.Flooded
			if c.silent {
				syns = unanswered
				for _, p := range []*world.Pod{bystander, near, far} {
					p.NFT("table inet silent { chain in { type filter hook input priority 0; tcp dport { 81, 82 } drop; }; }")
				}
			}
			open := func() (list []net.Conn) {
				t.Helper()
				for _, to := range []struct {
					from    *testutil.NS
					network string
					to      string
				}{
					{a.NS, "tcp", world.At(near.V4, 7)}, {a.NS, "tcp", world.At(far.V4, 7)}, {a.NS, "tcp", world.At(near.V6, 7)}, {a.NS, "tcp", world.At(far.V6, 7)},
					{far.NS, "tcp", world.At(a.V4, 7)}, {w.Outside, "tcp", world.At(a.V4, 7)}, {a.NS, "udp", world.At(near.V4, 7)}, {a.NS, "udp", world.At(far.V4, 7)},
				} {
					conn, err := to.from.Dial(to.network, "", to.to, world.Patience)
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() { _ = conn.Close() })
					list = append(list, conn)
					for range 3 {
						world.Exchanged(t, conn, "before any flood")
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
				known := knownTo(t, k, n0)
				if k.Known != nil && len(known) < len(young)+len(old) {
					t.Errorf("before a flood %s the node knows %d connections, want at least %d", f.name, len(known), len(young)+len(old))
				}
				world.Flood(t, f.ns, f.gateway, f.from, f.to, syns)
				for key := range knownTo(t, k, n0) {
					delete(known, key)
				}
				if len(known) != 0 {
					t.Errorf("a flood %s evicted %d known connections", f.name, len(known))
				}
				for _, conn := range append(young, old...) {
					world.Exchanged(t, conn, "after a flood "+f.name)
				}
			}
		})
	}
}

// knownTo returns what Known does, nil without it.
func knownTo(t testing.TB, k world.Kit, n *world.Node) map[string]bool {
	t.Helper()
	if k.Known == nil {
		return nil
	}
	list, err := k.Known(n)
	if err != nil {
		t.Fatal(err)
	}
	return list
}
