package suite

import (
	"fmt"
	"net/netip"
	"testing"
)

func masqueradeOutside(t *testing.T, k Kit) {
	w := k.NewWorld(t, 1, 1)
	n := w.Nodes[0]
	Serve(w.Outside, At(netip.MustParseAddr(OutsideV4), 80))
	Serve(w.Outside, At(netip.MustParseAddr(OutsideV6), 80))
	n.Sync()
	a := n.AddPod(1, "4", "6")
	Serve(a.NS, At(a.V4, 80))
	out, out6 := OutsideV4+":80", "["+OutsideV6+"]:80"
	MustReach(t, a.NS, out, w.Outside, a.V4)

	n.Desired.MasqueradeOutside = true
	// The VPC's IPv6 range of the test holds the outside too; without it, outside
	// is outside.
	n.Desired.VPCCIDRs = []netip.Prefix{netip.MustParsePrefix(VPCCIDR), netip.MustParsePrefix("2001:db8::/44")}
	n.Sync(a)
	MustReach(t, a.NS, out, w.Outside, n.V4)
	MustReach(t, a.NS, out6, w.Outside, n.V6)
	// Who comes from outside is answered by the address that was asked.
	MustReach(t, w.Outside, At(a.V4, 80), a.NS, netip.MustParseAddr(OutsideV4))

	n.Desired.MasqueradeOutside = false
	n.Sync(a)
	MustReach(t, a.NS, out, w.Outside, a.V4)
	if got := w.Strict(); got != 0 {
		t.Errorf("the VPC dropped %d packets with a source on the wrong ENI", got)
	}
}

// A long connection outlives a change of the configuration: its way out was
// decided by its first packet.
func masqueradeKeepsConnections(t *testing.T, k Kit) {
	w := k.NewWorld(t, 1, 1)
	n := w.Nodes[0]
	n.Sync()
	a := n.AddPod(1)
	for _, first := range []bool{false, true} {
		t.Run(fmt.Sprintf("masquerade=%v at first", first), func(t *testing.T) {
			n.Desired.MasqueradeOutside = first
			n.Sync(a)
			l := w.Outside.Listen("tcp", OutsideV4+":0")
			conn, err := a.Dial("tcp", "", l.Addr().String(), Patience)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			peer, err := accept(l)
			if err != nil {
				t.Fatal(err)
			}
			defer peer.Close()
			n.Desired.MasqueradeOutside = !first
			n.Sync(a)
			exchange(t, conn, peer)
		})
	}
}
