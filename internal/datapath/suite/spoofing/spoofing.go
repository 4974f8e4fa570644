// Package spoofing has the scenarios of package suite about pods that send what they must not: with
// another's source or connection, parts of another's datagram, frames that a router drops, ARP.
//
// Only package suite imports it.
package spoofing

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

// Source: a packet with the source of another pod or of the node is dropped in the node.
func Source(t *testing.T, k world.Kit) {
	w := k.NewWorld(t, 1, 1)
	n := w.Nodes[0]
	n.Sync()
	a, victim, target := n.AddPod(1, "4", "6"), n.AddPod(1, "4", "6"), n.AddPod(1, "4", "6")
	for i, c := range []struct{ stolen, own, target netip.Addr }{
		{victim.V4, a.V4, target.V4}, {victim.V6, a.V6, target.V6}, {n.V4, a.V4, target.V4},
	} {
		bits := fmt.Sprintf("/%d", c.stolen.BitLen())
		// On lo: some devices reject an address that another device has.
		a.IP("addr add " + c.stolen.String() + bits + " dev lo nodad")
		inbox := target.ListenPacket("udp", world.At(c.target, 9+i))
		before, err := n.DP.Spoofed()
		if err != nil {
			t.Fatal(err)
		}
		world.SendFrom(t, a.NS, world.At(c.stolen, 0), world.At(c.target, 9+i))
		after, err := n.DP.Spoofed()
		if err != nil {
			t.Fatal(err)
		}
		if after != before+1 {
			t.Errorf("from %s: %d packets were counted as spoofed, want 1", c.stolen, after-before)
		}
		// Packets with the pod's own source arrive, so the silence above is no accident.
		world.SendFrom(t, a.NS, world.At(c.own, 0), world.At(c.target, 9+i))
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
}

// Connection: another pod that sends with the addresses of an established connection is blocked,
// though the connection is known.
func Connection(t *testing.T, k world.Kit) {
	w := k.NewWorld(t, 2, 1)
	n0, n1 := w.Nodes[0], w.Nodes[1]
	n0.Sync()
	n1.Sync()
	thief, victim := n0.AddPod(1, "4", "6"), n0.AddPod(1, "4", "6")
	for _, target := range []*world.Pod{n0.AddPod(1, "4", "6"), n1.AddPod(1, "4", "6")} {
		for _, c := range []struct{ stolen, target netip.Addr }{{victim.V4, target.V4}, {victim.V6, target.V6}} {
			inbox := target.ListenPacket("udp", world.At(c.target, 7))
			go world.Reflect(inbox)
			conn := world.Established(t, victim, c.target)
			before, err := n0.DP.Spoofed()
			if err != nil {
				t.Fatal(err)
			}
			thief.IP(fmt.Sprintf("addr replace %s/%d dev lo nodad", c.stolen, c.stolen.BitLen()))
			world.SendFrom(t, thief.NS, conn.LocalAddr().String(), world.At(c.target, 7))
			after, err := n0.DP.Spoofed()
			if err != nil {
				t.Fatal(err)
			}
			if after != before+1 {
				t.Errorf("%s → %s by another pod: %d packets were counted as spoofed, want 1", conn.LocalAddr(), c.target, after-before)
			}
		}
	}
}

// Fragment: a pod cannot put data into another pod's datagram: a fragment with another pod's source
// is never reassembled with that pod's fragments.
func Fragment(t *testing.T, k world.Kit) {
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

// OddFrames: frames that a router drops arrive nowhere, neither in a pod of the node nor in the VPC,
// though their connection is established: frames with a VLAN tag, frames for another MAC or for all,
// and IPv4 addresses that are mapped into IPv6.
func OddFrames(t *testing.T, k world.Kit) {
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

// ARP: the node ignores what a pod claims by ARP: it has one neighbour table for the whole machine.
func ARP(t *testing.T, k world.Kit) {
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

// WithoutNFTables: after a flush of nftables and until its repair, kinds with programs still drop
// sources that are not the pod's.
func WithoutNFTables(t *testing.T, k world.Kit) {
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
