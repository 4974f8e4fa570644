package suite

import (
	"fmt"
	"net/netip"
	"testing"

	"terway.dev/terway/internal/datapath/suite/world"
)

func masqueradeOutside(t *testing.T, k world.Kit) {
	w := k.NewWorld(t, 1, 1)
	n := w.Nodes[0]
	world.Serve(w.Outside, world.At(netip.MustParseAddr(world.OutsideV4), 80))
	world.Serve(w.Outside, world.At(netip.MustParseAddr(world.OutsideV6), 80))
	n.Sync()
	a := n.AddPod(1, "4", "6")
	world.Serve(a.NS, world.At(a.V4, 80))
	out, out6 := world.OutsideV4+":80", "["+world.OutsideV6+"]:80"
	world.MustReach(t, a.NS, out, w.Outside, a.V4)

	n.Desired.MasqueradeOutside = true
	// The VPC's IPv6 range of the test includes the outside too; without it, the outside is outside
	// the VPC.
	n.Desired.VPCCIDRs = []netip.Prefix{netip.MustParsePrefix(world.VPCCIDR), netip.MustParsePrefix("2001:db8::/44")}
	n.Sync(a)
	world.MustReach(t, a.NS, out, w.Outside, n.V4)
	world.MustReach(t, a.NS, out6, w.Outside, n.V6)
	// A client outside gets its answer from the address that it called.
	world.MustReach(t, w.Outside, world.At(a.V4, 80), a.NS, netip.MustParseAddr(world.OutsideV4))

	n.Desired.MasqueradeOutside = false
	n.Sync(a)
	world.MustReach(t, a.NS, out, w.Outside, a.V4)
	if got := w.Strict(); got != 0 {
		t.Errorf("the VPC dropped %d packets with a source on the wrong ENI", got)
	}
}

// A long connection survives a change of the configuration: its first packet determines its way
// out.
func masqueradeKeepsConnections(t *testing.T, k world.Kit) {
	w := k.NewWorld(t, 1, 1)
	n := w.Nodes[0]
	n.Sync()
	a := n.AddPod(1)
	for _, first := range []bool{false, true} {
		t.Run(fmt.Sprintf("masquerade=%v at first", first), func(t *testing.T) {
			n.Desired.MasqueradeOutside = first
			n.Sync(a)
			l := w.Outside.Listen("tcp", world.OutsideV4+":0")
			conn, err := a.Dial("tcp", "", l.Addr().String(), world.Patience)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			peer, err := world.Accept(l)
			if err != nil {
				t.Fatal(err)
			}
			defer peer.Close()
			n.Desired.MasqueradeOutside = !first
			n.Sync(a)
			world.Exchange(t, conn, peer)
		})
	}
}
