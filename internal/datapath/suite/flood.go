package suite

import (
	"net"
	"net/netip"
	"testing"

	"terway.dev/terway/internal/datapath/suite/world"
	"terway.dev/terway/internal/testutil"
)

// SYNs to ports without a listener, from any source, do not delay other connections: neither a new
// one nor one whose conntrack entry has expired, also where kube-proxy drops packets that are
// invalid for conntrack. The SYNs are answered by RST or dropped by the receiver. The datapath keeps
// what it remembers of established connections.
func floodStallsNobody(t *testing.T, k world.Kit) {
	const outside, near, far = "from outside", "from a pod to a pod of its node", "from a pod to one of another node"
	for _, c := range []struct {
		name           string
		strict, silent bool
		floods         map[string]bool // by IPv6
	}{
		{name: "RST", floods: map[string]bool{outside: true, near: false, far: true}},
		{name: "RST, invalid packets are dropped", strict: true, floods: map[string]bool{outside: false, near: true, far: false}},
		{name: "no answer", silent: true, floods: map[string]bool{outside: false}},
		{name: "no answer, invalid packets are dropped", strict: true, silent: true, floods: map[string]bool{outside: true, near: false, far: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, n0, n1 := world.ServicesWorld(t, k)
			for _, n := range w.Nodes {
				n.NFT("table inet k { chain f { type filter hook forward priority 0; ct state new accept; }; }")
				if c.strict {
					n.NFT("add rule inet k f ct state invalid drop")
				}
			}
			a, b, remote := n0.AddPod(1, "4", "6"), n0.AddPod(1, "4", "6"), n1.AddPod(1, "4", "6")
			bystander := n0.AddPod(1, "4", "6")
			for _, p := range []*world.Pod{a, b, remote} {
				p.Echo(7)
			}
			if c.silent {
				for _, p := range []*world.Pod{bystander, b, remote} {
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
					{a.NS, "tcp", world.At(b.V4, 7)}, {a.NS, "tcp", world.At(remote.V4, 7)}, {a.NS, "tcp", world.At(b.V6, 7)}, {a.NS, "tcp", world.At(remote.V6, 7)},
					{remote.NS, "tcp", world.At(a.V4, 7)}, {remote.NS, "tcp", world.At(a.V6, 7)}, {w.Outside, "tcp", world.At(a.V4, 7)},
					{a.NS, "udp", world.At(b.V4, 7)}, {a.NS, "udp", world.At(remote.V4, 7)}, {a.NS, "udp", world.At(remote.V6, 7)},
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
			for _, f := range []struct {
				name    string
				ns      *testutil.NS
				gateway net.HardwareAddr
				from    [2]netip.Addr // of both families
				to      *world.Pod
			}{
				{outside, w.Outside, world.MACOf(t, w.Fabric, "outside"), [2]netip.Addr{netip.MustParseAddr(world.OutsideV4), netip.MustParseAddr(world.OutsideV6)}, bystander},
				{near, bystander.NS, bystander.Wiring.HostMAC, [2]netip.Addr{bystander.V4, bystander.V6}, b},
				{far, bystander.NS, bystander.Wiring.HostMAC, [2]netip.Addr{bystander.V4, bystander.V6}, remote},
			} {
				v6, wanted := c.floods[f.name]
				if !wanted {
					continue
				}
				from, to := f.from[0], f.to.V4
				if v6 {
					from, to = f.from[1], f.to.V6
				}
				// Conntrack keeps unanswered SYNs of the flood before, and must have room: what it does
				// when it is full is not the datapath's.
				for _, n := range w.Nodes {
					n.Forget()
				}
				young := open()
				known := knownTo(t, k, n0)
				if k.Known != nil && len(known) < len(young)+len(old) {
					t.Errorf("before a flood %s the node knows %d connections, want at least %d", f.name, len(known), len(young)+len(old))
				}
				world.Flood(t, f.ns, f.gateway, from, to)
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
