package nft_test

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/nft"
	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/route"
	"terway.dev/terway/internal/datapath/suite/world"
	"terway.dev/terway/internal/netlinkx"
)

var kit = world.Kit{
	Kind: claims.Route,
	New: func(o world.Options) (world.Subject, error) {
		return node.New(node.Options{NetNS: o.NetNS, Log: o.Log, Kinds: []node.Kind{route.New()}})
	},
}

// inside returns our tables and a netlink socket in a node.
func inside(t *testing.T, n *world.Node) (*nft.Tables, *netlink.Handle) {
	t.Helper()
	ns, err := netns.GetFromPath(n.Path)
	if err != nil {
		t.Fatal(err)
	}
	h, err := netlinkx.Open(ns)
	if err != nil {
		t.Fatal(err)
	}
	tables := nft.New(ns)
	t.Cleanup(func() {
		h.Close()
		if err := errors.Join(tables.Close(), ns.Close()); err != nil {
			t.Error(err)
		}
	})
	return tables, h
}

// The first Sync repairs a node that an older version left, and connections of every way out
// continue. (TCP's: while a device's ARP is turned off a packet may be lost.)
func TestUpgradeInPlace(t *testing.T) {
	t.Run("from the version before", func(t *testing.T) { upgrade(t, false) })
	t.Run("from the oldest", func(t *testing.T) { upgrade(t, true) })
}

func upgrade(t *testing.T, oldest bool) {
	w := kit.NewWorld(t, 2, 2)
	n, n1 := w.Nodes[0], w.Nodes[1]
	n.Desired.MasqueradeOutside = true
	n.Sync()
	n1.Sync()
	a, near, far := n.AddPod(2, "4", "6"), n.AddPod(1, "4", "6"), n1.AddPod(1, "4", "6")
	for _, p := range []*world.Pod{a, near, far} {
		p.Echo(7)
	}
	l := w.Outside.Listen("tcp", world.OutsideV4+":7")
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // closed
			}
			go io.Copy(conn, conn)
		}
	}()
	n.KubeProxy(world.Service{ClusterIP: world.ClusterIP, Port: 7, NodePort: 30007, Endpoint: far.V4})

	tables, h := inside(t, n)
	if err := nft.WriteFormer(tables, n.Desired, oldest); err != nil {
		t.Fatalf("write the former table: %v", err)
	}
	for _, p := range []*world.Pod{a, near} {
		dev := p.Wiring.HostIfName
		n.IPs("link set "+dev+" arp on",
			"neigh replace "+p.V4.String()+" lladdr "+p.Wiring.PodMAC.String()+" dev "+dev+" nud permanent",
			"neigh replace "+p.V6.String()+" lladdr "+p.Wiring.PodMAC.String()+" dev "+dev+" nud permanent")
	}

	talks := []*world.Talking{
		world.StartTalk(t, a.NS, "tcp", world.At(far.V4, 7)), world.StartTalk(t, a.NS, "tcp", world.At(far.V6, 7)),
		world.StartTalk(t, a.NS, "tcp", world.At(near.V4, 7)), world.StartTalk(t, n.NS, "tcp", world.At(a.V6, 7)),
		world.StartTalk(t, far.NS, "tcp", world.At(a.V4, 7)), world.StartTalk(t, w.Outside, "tcp", world.At(a.V4, 7)),
		world.StartTalk(t, w.Outside, "tcp", world.At(n.V4, 30007)), world.StartTalk(t, a.NS, "tcp", l.Addr().String()),
		// The second one equals the first after its translation: conntrack changes its port.
		world.StartTalkFrom(t, a.NS, world.At(a.V4, 40007), world.At(world.ClusterIP, 7)),
		world.StartTalkFrom(t, a.NS, world.At(a.V4, 40007), world.At(far.V4, 7)),
	}
	for _, k := range talks {
		k.More(5)
	}
	n.DP = n.NewDatapath()
	repairs := n.Sync(a, near)
	for _, want := range []string{"wrote the nftables tables: ", a.Name + ": device " + a.Wiring.HostIfName + " answers ARP"} {
		if !strings.Contains(strings.Join(repairs, "\n"), want) {
			t.Errorf("repairs %q lack %q", repairs, want)
		}
	}
	for _, k := range talks {
		k.More(20)
		k.End(t)
	}
	if repairs := n.Sync(a, near); len(repairs) != 0 {
		t.Errorf("second Sync repairs %q", repairs)
	}
	for _, p := range []*world.Pod{a, near} {
		if err := n.DP.CheckPod(t.Context(), n.Desired, p.Spec); err != nil {
			t.Error(err)
		}
	}
	if got := w.Strict(); got != 0 {
		t.Errorf("the VPC dropped %d packets with a source on the wrong ENI", got)
	}
	if got := n.Run("nft", "list", "table", "inet", claims.TableName); strings.Contains(got, "type nat") {
		t.Errorf("NAT is still in family inet:\n%s", got)
	}
	if link, err := h.LinkByName(a.Wiring.HostIfName); err != nil || link.Attrs().RawFlags&unix.IFF_NOARP == 0 {
		t.Errorf("ARP is on: %v", err)
	}
}
