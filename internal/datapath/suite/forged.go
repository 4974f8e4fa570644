package suite

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What a pod can do that writes its own frames (CAP_NET_RAW, which container runtimes give
// by default).

// toNode is the pod's device that leads to the node.
func (p *Pod) toNode() string {
	if p.Node.w.kit.Exclusive {
		return "veth1"
	}
	return p.Spec.IfName
}

// SendFrame sends what follows a frame's addresses and type by the device that leads to
// the node.
func (p *Pod) SendFrame(dst net.HardwareAddr, etherType uint16, payload []byte) {
	t := p.Node.w.t
	t.Helper()
	frame := make([]byte, 12, 14+len(payload)) // pairs without MACs have zeros
	copy(frame, dst)
	copy(frame[6:], p.Wiring.PodMAC)
	frame = append(binary.BigEndian.AppendUint16(frame, etherType), payload...)
	if err := p.Do(func() error {
		device, err := net.InterfaceByName(p.toNode())
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		// Without the protocol some kernels take it from the frame, and not with every device.
		protocol := etherType<<8 | etherType>>8 // network byte order
		err = unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: device.Index, Halen: 6})
		if errors.Is(err, unix.ENOBUFS) {
			return nil // a program in the pod's device has dropped it
		}
		return err
	}); err != nil {
		t.Fatalf("send a frame from %s: %v", p.Name, err)
	}
}

// sum is the Internet checksum (RFC 1071) of bytes, the last of which may lack its partner.
func sum(b []byte) uint16 {
	var s uint32
	for i, x := range b {
		s += uint32(x) << (8 * (1 - i%2))
	}
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return ^uint16(s)
}

// fragments are a UDP datagram in two IP packets.
func fragments(from, to netip.AddrPort, id uint16, data []byte) (etherType uint16, parts [2][]byte) {
	udp := make([]byte, 8, 8+len(data))
	binary.BigEndian.PutUint16(udp, from.Port())
	binary.BigEndian.PutUint16(udp[2:], to.Port())
	binary.BigEndian.PutUint16(udp[4:], uint16(8+len(data)))
	udp = append(udp, data...)
	src, dst := from.Addr().AsSlice(), to.Addr().AsSlice()
	pseudo := append(append([]byte{}, src...), dst...)
	pseudo = binary.BigEndian.AppendUint16(append(pseudo, 0, unix.IPPROTO_UDP), uint16(len(udp)))
	binary.BigEndian.PutUint16(udp[6:], sum(append(pseudo, udp...)))
	half := len(udp) / 2 &^ 7 // offsets count in units of 8 bytes
	for i, part := range [][]byte{udp[:half], udp[half:]} {
		if from.Addr().Is4() {
			h := make([]byte, 20)
			h[0], h[8], h[9] = 0x45, 64, unix.IPPROTO_UDP
			binary.BigEndian.PutUint16(h[2:], uint16(len(h)+len(part)))
			binary.BigEndian.PutUint16(h[4:], id)
			binary.BigEndian.PutUint16(h[6:], [2]uint16{0x2000, uint16(half / 8)}[i])
			copy(h[12:], src)
			copy(h[16:], dst)
			binary.BigEndian.PutUint16(h[10:], sum(h))
			parts[i] = append(h, part...)
			continue
		}
		h := make([]byte, 48)
		h[0], h[6], h[7] = 0x60, unix.IPPROTO_FRAGMENT, 64
		binary.BigEndian.PutUint16(h[4:], uint16(8+len(part)))
		copy(h[8:], src)
		copy(h[24:], dst)
		h[40] = unix.IPPROTO_UDP
		binary.BigEndian.PutUint16(h[42:], [2]uint16{1, uint16(half)}[i])
		binary.BigEndian.PutUint32(h[44:], uint32(id))
		parts[i] = append(h, part...)
	}
	if from.Addr().Is4() {
		return unix.ETH_P_IP, parts
	}
	return unix.ETH_P_IPV6, parts
}

func (n *Node) spoofed() uint64 {
	n.w.t.Helper()
	count, err := n.DP.Spoofed()
	if err != nil {
		n.w.t.Fatal(err)
	}
	return count
}

// A pod cannot put its data into another pod's datagram: a fragment with a source that is
// not its own never meets that one's.
func spoofedFragmentIsDropped(t *testing.T, k Kit) {
	w := k.NewWorld(t, 1, 1)
	n := w.Nodes[0]
	n.Sync()
	victim, thief, target := n.AddPod(1, "4", "6"), n.AddPod(1, "4", "6"), n.AddPod(1, "4", "6")
	for _, c := range []struct{ stolen, to netip.Addr }{{victim.V4, target.V4}, {victim.V6, target.V6}} {
		inbox := target.ListenPacket("udp", At(c.to, 9))
		from, to := netip.AddrPortFrom(c.stolen, 5555), netip.AddrPortFrom(c.to, 9)
		mine, theirs := bytes.Repeat([]byte{'V'}, 1000), bytes.Repeat([]byte{'E'}, 1000)
		before := n.spoofed()
		etherType, mixed := fragments(from, to, 777, append(mine, theirs...))
		thief.SendFrame(thief.Wiring.HostMAC, etherType, mixed[1])
		victim.SendFrame(victim.Wiring.HostMAC, etherType, mixed[0])
		// What the victim sends itself arrives, so silence before it is not chance.
		own := bytes.Repeat([]byte{'V'}, 2000)
		etherType, whole := fragments(from, to, 778, own)
		for _, part := range whole {
			victim.SendFrame(victim.Wiring.HostMAC, etherType, part)
		}
		if err := inbox.SetReadDeadline(time.Now().Add(Patience)); err != nil {
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
		if after := n.spoofed(); after != before+1 {
			t.Errorf("%s → %s: %d packets were counted as spoofed, want 1", from, to, after-before)
		}
	}
}

// The node believes nothing that a pod says by ARP: its table of neighbours is one for
// the whole machine.
func forgedARPMakesNoNeighbours(t *testing.T, k Kit) {
	w := k.NewWorld(t, 1, 1)
	n := w.Nodes[0]
	n.Sync()
	p := n.AddPod(1)
	Serve(n.NS, At(n.V4, 8080))
	broadcast := net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	for i := range 50 {
		who := append([]byte{0, 1, 8, 0, 6, 4, 0, 1}, 0x02, 0, 0, 0, 0, byte(i)) // a request by this MAC
		who = append(who, 10, 99, 0, byte(i))                                    // and this address
		who = append(append(who, make([]byte, 6)...), n.V4.AsSlice()...)
		p.SendFrame(broadcast, unix.ETH_P_ARP, who)
	}
	// Behind them on the same way.
	MustReach(t, p.NS, At(n.V4, 8080), n.NS, p.V4)
	if out := n.IP("neigh show"); strings.Contains(out, "10.99.0.") {
		t.Errorf("the node has %d neighbours that a pod made up", strings.Count(out, "10.99.0."))
	}
}

// Somebody flushes nftables: until it is repaired, who has programs still stops sources
// that are not the pod's.
func sourcesAreCheckedWithoutNFTables(t *testing.T, k Kit) {
	w := k.NewWorld(t, 2, 1)
	n := w.Nodes[0]
	n.Sync()
	w.Nodes[1].Sync()
	a, b, far := n.AddPod(1, "4", "6"), n.AddPod(1, "4", "6"), w.Nodes[1].AddPod(1, "4", "6")
	before := n.spoofed()
	n.NFT("flush ruleset")
	sent := uint64(0)
	for i, c := range []struct{ stolen, own, to netip.Addr }{
		{far.V4, a.V4, b.V4}, {far.V6, a.V6, b.V6}, {n.V4, a.V4, b.V4},
	} {
		a.IP(fmt.Sprintf("addr add %s/%d dev lo nodad", c.stolen, c.stolen.BitLen()))
		inbox := b.ListenPacket("udp", At(c.to, 9+i))
		SendFrom(t, a.NS, At(c.stolen, 0), At(c.to, 9+i))
		sent++
		SendFrom(t, a.NS, At(c.own, 0), At(c.to, 9+i))
		if err := inbox.SetReadDeadline(time.Now().Add(Patience)); err != nil {
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
	if got := n.spoofed() - before; got != sent {
		t.Errorf("%d packets were counted as spoofed, want %d", got, sent)
	}
}

// Others on the node have marks too. wg-quick restores those of connections for all of UDP,
// Tailscale clears its bits for connections that are going on.
func marksOfOthers(t *testing.T, k Kit) {
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
	for _, p := range []*Pod{near, far} {
		p.Echo(7)
	}
	n0.Echo(7)
	n0.KubeProxy(Service{ClusterIP: ClusterIP, Port: 7, NodePort: 30007, Endpoint: far.V4},
		Service{ClusterIP: ClusterIP6, Port: 7, Endpoint: far.V6})
	for e := 1; e <= 2; e++ {
		p := n0.AddPod(e, "4", "6")
		p.Echo(7)
		for _, network := range []string{"udp", "tcp"} {
			for _, to := range []string{
				At(far.V4, 7), At(far.V6, 7), At(near.V4, 7), At(near.V6, 7), At(n0.V4, 7),
				At(ClusterIP, 7), At(ClusterIP6, 7),
			} {
				Talk(t, p.NS, network, to, 5)
			}
			Talk(t, far.NS, network, At(p.V4, 7), 5)
			Talk(t, far.NS, network, At(p.V6, 7), 5)
			Talk(t, w.Outside, network, At(p.V4, 7), 5)
			Talk(t, w.Outside, network, At(n0.V4, 30007), 5)
		}
	}
	if got := w.Strict(); got != 0 {
		t.Errorf("the VPC dropped %d packets with a source on the wrong ENI", got)
	}
}
