package suite

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath/suite/world"
)

// A pod cannot put data into another pod's datagram: a fragment with another pod's source is never
// reassembled with that pod's fragments.
func spoofedFragmentIsDropped(t *testing.T, k world.Kit) {
	w := k.NewWorld(t, 1, 1)
	n := w.Nodes[0]
	n.Sync()
	victim, thief, target := n.AddPod(1, "4", "6"), n.AddPod(1, "4", "6"), n.AddPod(1, "4", "6")
	for _, c := range []struct{ stolen, to netip.Addr }{{victim.V4, target.V4}, {victim.V6, target.V6}} {
		inbox := target.ListenPacket("udp", world.At(c.to, 9))
		from, to := netip.AddrPortFrom(c.stolen, 5555), netip.AddrPortFrom(c.to, 9)
		mine, theirs := bytes.Repeat([]byte{'V'}, 1000), bytes.Repeat([]byte{'E'}, 1000)
		before := n.Spoofed()
		etherType, mixed := world.Fragments(from, to, 777, append(mine, theirs...))
		thief.SendFrame(thief.Wiring.HostMAC, etherType, mixed[1])
		victim.SendFrame(victim.Wiring.HostMAC, etherType, mixed[0])
		// The victim's own fragments arrive, so the silence before is no accident.
		own := bytes.Repeat([]byte{'V'}, 2000)
		etherType, whole := world.Fragments(from, to, 778, own)
		for _, part := range whole {
			victim.SendFrame(victim.Wiring.HostMAC, etherType, part)
		}
		if err := inbox.SetReadDeadline(time.Now().Add(world.Patience)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 4096)
		size, _, err := inbox.ReadFrom(buf)
		if err != nil {
			t.Fatalf("%s → %s: own fragments: %v", from, to, err)
		}
		if got := buf[:size]; !bytes.Equal(got, own) {
			t.Errorf("%s → %s: %d bytes arrived, %d of them by another pod", from, to, size, bytes.Count(got, []byte{'E'}))
		}
		if after := n.Spoofed(); after != before+1 {
			t.Errorf("%s → %s: %d packets were counted as spoofed, want 1", from, to, after-before)
		}
	}
}

// Frames that a router drops arrive nowhere, neither in a pod of the node nor in the VPC, though their
// connection is established: frames with a VLAN tag, frames for another MAC or for all, and IPv4
// addresses that are mapped into IPv6.
func oddFramesAreDropped(t *testing.T, k world.Kit) {
	w := k.NewWorld(t, 2, 1)
	n0, n1 := w.Nodes[0], w.Nodes[1]
	n0.Sync()
	n1.Sync()
	a, near, far := n0.AddPod(1), n0.AddPod(1), n1.AddPod(1)
	next, stranger := a.Wiring.HostMAC, net.HardwareAddr{0x02, 0, 0, 0, 0, 0x77}
	broadcast := net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	mapped := func(a netip.Addr) netip.Addr { return netip.AddrFrom16(a.As16()) }
	for _, to := range []*world.Pod{near, far} {
		to.Echo(7)
		conn := world.Established(t, a, to.V4)
		from, at := netip.MustParseAddrPort(conn.LocalAddr().String()), netip.AddrPortFrom(to.V4, 7)
		// The VPC drops some of these frames itself, so it is watched where they would enter it.
		watches := []*world.Watch{world.NewWatch(t, w.Fabric), world.NewWatch(t, to.NS)}
		send := func(mac net.HardwareAddr, name string) {
			etherType, packet := world.Datagram(from, at, []byte(name))
			a.SendFrame(mac, etherType, packet)
		}
		odd := map[string]func(name string){
			"a mapped address": func(name string) {
				etherType, packet := world.Datagram(netip.AddrPortFrom(mapped(from.Addr()), from.Port()), netip.AddrPortFrom(mapped(at.Addr()), at.Port()), []byte(name))
				a.SendFrame(next, etherType, packet)
			},
			"a VLAN tag": func(name string) {
				etherType, packet := world.Datagram(from, at, []byte(name))
				tag := binary.BigEndian.AppendUint16([]byte{0, 5}, etherType)
				a.SendFrame(next, unix.ETH_P_8021Q, append(tag, packet...))
			},
		}
		if !k.NoMAC {
			odd["another MAC"] = func(name string) { send(stranger, name) }
			odd["the broadcast MAC"] = func(name string) { send(broadcast, name) }
		}
		for name, frame := range odd {
			for range 5 {
				frame(name)
			}
		}
		// Sent after them on the same path.
		send(next, "a right frame")
		if !watches[1].Await("a right frame") {
			t.Fatalf("%s → %s: a right frame did not arrive", from, at)
		}
		world.Exchanged(t, conn, "after the odd frames")
		for name := range odd {
			for _, watch := range watches {
				if watch.Has(name) {
					t.Errorf("%s → %s: frames with %s were forwarded", from, at, name)
				}
			}
		}
	}
}

// The node ignores what a pod claims by ARP: it has one neighbour table for the whole machine.
func forgedARPMakesNoNeighbours(t *testing.T, k world.Kit) {
	w := k.NewWorld(t, 1, 1)
	n := w.Nodes[0]
	n.Sync()
	p := n.AddPod(1)
	world.Serve(n.NS, world.At(n.V4, 8080))
	broadcast := net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	for i := range 50 {
		who := append([]byte{0, 1, 8, 0, 6, 4, 0, 1}, 0x02, 0, 0, 0, 0, byte(i)) // a request by this MAC
		who = append(who, 10, 99, 0, byte(i))                                    // and this address
		who = append(append(who, make([]byte, 6)...), n.V4.AsSlice()...)
		p.SendFrame(broadcast, unix.ETH_P_ARP, who)
	}
	// Sent after them on the same path.
	world.MustReach(t, p.NS, world.At(n.V4, 8080), n.NS, p.V4)
	if out := n.IP("neigh show"); strings.Contains(out, "10.99.0.") {
		t.Errorf("the node has %d neighbours that a pod forged", strings.Count(out, "10.99.0."))
	}
}

// After a flush of nftables and until its repair, kinds with programs still drop sources that are
// not the pod's.
func sourcesAreCheckedWithoutNFTables(t *testing.T, k world.Kit) {
	w := k.NewWorld(t, 2, 1)
	n := w.Nodes[0]
	n.Sync()
	w.Nodes[1].Sync()
	a, b, far := n.AddPod(1, "4", "6"), n.AddPod(1, "4", "6"), w.Nodes[1].AddPod(1, "4", "6")
	before := n.Spoofed()
	n.NFT("flush ruleset")
	sent := uint64(0)
	for i, c := range []struct{ stolen, own, to netip.Addr }{
		{far.V4, a.V4, b.V4}, {far.V6, a.V6, b.V6}, {n.V4, a.V4, b.V4},
	} {
		a.IP(fmt.Sprintf("addr add %s/%d dev lo nodad", c.stolen, c.stolen.BitLen()))
		inbox := b.ListenPacket("udp", world.At(c.to, 9+i))
		world.SendFrom(t, a.NS, world.At(c.stolen, 0), world.At(c.to, 9+i))
		sent++
		world.SendFrom(t, a.NS, world.At(c.own, 0), world.At(c.to, 9+i))
		if err := inbox.SetReadDeadline(time.Now().Add(world.Patience)); err != nil {
			t.Fatal(err)
		}
		_, from, err := inbox.ReadFrom(make([]byte, 8))
		if err != nil {
			t.Fatalf("own source: %v", err)
		}
		if got := netip.MustParseAddrPort(from.String()).Addr(); got != c.own {
			t.Errorf("first packet that arrived is from %s, want %s", got, c.own)
		}
	}
	n.Sync(a, b)
	if got := n.Spoofed() - before; got != sent {
		t.Errorf("%d packets were counted as spoofed, want %d", got, sent)
	}
}

// Other programs on the node use marks too. wg-quick restores those of connections for all of UDP,
// Tailscale clears its bits for established connections.
func marksOfOthers(t *testing.T, k world.Kit) {
	w := k.NewWorld(t, 2, 2)
	n0, n1 := w.Nodes[0], w.Nodes[1]
	n0.Sync()
	n1.Sync()
	const others = `
		table inet others {
			chain restore {
				type filter hook prerouting priority mangle;
				meta l4proto udp meta mark set ct mark
				meta l4proto != udp ct state established meta mark set meta mark and 0xff00ffff
			}
		}`
	for _, n := range w.Nodes {
		n.NFT(others)
	}
	near, far := n0.AddPod(1, "4", "6"), n1.AddPod(1, "4", "6")
	for _, p := range []*world.Pod{near, far} {
		p.Echo(7)
	}
	n0.Echo(7)
	n0.KubeProxy(world.Service{ClusterIP: world.ClusterIP, Port: 7, NodePort: 30007, Endpoint: far.V4},
		world.Service{ClusterIP: world.ClusterIP6, Port: 7, Endpoint: far.V6})
	for e := 1; e <= 2; e++ {
		p := n0.AddPod(e, "4", "6")
		p.Echo(7)
		for _, network := range []string{"udp", "tcp"} {
			for _, to := range []string{
				world.At(far.V4, 7), world.At(far.V6, 7), world.At(near.V4, 7), world.At(near.V6, 7), world.At(n0.V4, 7),
				world.At(world.ClusterIP, 7), world.At(world.ClusterIP6, 7),
			} {
				world.Talk(t, p.NS, network, to, 5)
			}
			world.Talk(t, far.NS, network, world.At(p.V4, 7), 5)
			world.Talk(t, far.NS, network, world.At(p.V6, 7), 5)
			world.Talk(t, w.Outside, network, world.At(p.V4, 7), 5)
			world.Talk(t, w.Outside, network, world.At(n0.V4, 30007), 5)
		}
	}
	if got := w.Strict(); got != 0 {
		t.Errorf("the VPC dropped %d packets with a source on the wrong ENI", got)
	}
}
