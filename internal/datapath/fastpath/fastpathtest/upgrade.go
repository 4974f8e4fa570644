package fastpathtest

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"terway.dev/terway/internal/datapath/fastpath"
	"terway.dev/terway/internal/datapath/suite/world"
)

// Former loads an object file of the previous version as its agent did: each program holds all
// maps.
func Former(t *testing.T, file string) *ebpf.Collection {
	t.Helper()
	spec, err := ebpf.LoadCollectionSpec(file)
	if err != nil {
		t.Fatal(err)
	}
	former, err := ebpf.NewCollection(spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(former.Close)
	for _, p := range former.Programs {
		for _, m := range former.Maps {
			if err := p.BindMap(m); err != nil {
				t.Fatal(err)
			}
		}
	}
	return former
}

// Upgrade tests that a node with programs and maps of the previous version, made by downgrade, gets
// the current ones, and no connection stalls: conntrack has seen only the first packet of each, and
// packets that are invalid for it are dropped.
func Upgrade(t *testing.T, k world.Kit, of func(*world.Node) *fastpath.Loader, downgrade func(t *testing.T, n *world.Node, pods ...*world.Pod)) {
	w := k.NewWorld(t, 2, 1)
	n, n1 := w.Nodes[0], w.Nodes[1]
	n.Sync()
	n1.Sync()
	a, near, far := n.AddPod(1, "4", "6"), n.AddPod(1, "4", "6"), n1.AddPod(1, "4", "6")
	for _, p := range []*world.Pod{a, near, far} {
		p.Echo(7)
	}
	downgrade(t, n, a, near)
	n.NFT("table inet k { chain f { type filter hook forward priority 0; ct state new accept; ct state invalid drop; }; }")
	var talks []*world.Talking
	for _, to := range []netip.Addr{near.V4, near.V6, far.V4, far.V6} {
		for _, network := range []string{"tcp", "udp"} {
			talks = append(talks, world.StartTalk(t, a.NS, network, world.At(to, 7)))
		}
	}
	talks = append(talks, world.StartTalk(t, far.NS, "tcp", world.At(a.V4, 7)), world.StartTalk(t, w.Outside, "tcp", world.At(a.V4, 7)))
	// The next packet of these comes from the opener, after the programs have been replaced: conntrack,
	// which has seen their SYN alone, calls it invalid unless the new programs know the connection.
	var idle []net.Conn
	for _, to := range []netip.Addr{near.V4, near.V6, far.V4, far.V6} {
		conn, err := a.Dial("tcp", "", world.At(to, 7), world.Patience)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		for range 3 {
			world.Exchanged(t, conn, "before the upgrade")
		}
		idle = append(idle, conn)
	}
	more := func() {
		for _, k := range talks {
			k.More(20)
		}
	}
	more()
	n.DP = n.NewDatapath()
	if repairs := strings.Join(n.Sync(a, near), "\n"); strings.Count(repairs, "another version") != 3 {
		t.Errorf("repairs:\n%s\nwant the programs of the ENI and of both pods, and nothing else", repairs)
	}
	for _, conn := range idle {
		world.Exchanged(t, conn, "after the upgrade")
	}
	more()
	if repairs := n.Sync(a, near); len(repairs) != 0 {
		t.Errorf("second Sync repairs %q", repairs)
	}
	if of(n).Objects.Former("tw_flows_1") != nil {
		t.Error("the former flows are kept")
	}
	more()
	for _, k := range talks {
		k.End(t)
	}
	counts, err := of(n).Counters()
	if err != nil {
		t.Fatal(err)
	}
	if counts["to-eni"] == 0 || counts["to-pod"] == 0 {
		t.Errorf("nothing goes directly: %v", counts)
	}
}
