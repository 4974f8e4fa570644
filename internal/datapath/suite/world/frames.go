package world

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/testutil"
)

// Flooded is the number of SYNs in a flood, each from another port or to another one: as many as a
// small node can track connections.
const Flooded = 131072

// syn returns an IP packet that opens a TCP connection.
func syn(from, to netip.AddrPort) []byte {
	_, packet := SYN(from, to, nil)
	return packet
}

// SYN returns an IP packet that opens a TCP connection, with data.
func SYN(from, to netip.AddrPort, data []byte) (etherType uint16, packet []byte) {
	segment := tcpSYN(from, to, data)
	return Packet(from.Addr(), to.Addr(), unix.IPPROTO_TCP, segment)
}

// SYNFragments returns it in two IPv4 packets, of which the first has the ports alone.
func SYNFragments(from, to netip.AddrPort, id uint16, data []byte) (etherType uint16, parts [2][]byte) {
	return cut(from.Addr(), to.Addr(), unix.IPPROTO_TCP, id, tcpSYN(from, to, data), 8)
}

// Packet returns an IP packet.
func Packet(from, to netip.Addr, protocol byte, payload []byte) (etherType uint16, packet []byte) {
	return etherTypeOf(from), append(header(from, to, protocol, len(payload)), payload...)
}

// tcpSYN returns a TCP segment.
func tcpSYN(from, to netip.AddrPort, data []byte) []byte {
	tcp := append(make([]byte, 20), data...)
	binary.BigEndian.PutUint16(tcp, from.Port())
	binary.BigEndian.PutUint16(tcp[2:], to.Port())
	tcp[12], tcp[13] = 0x50, 0x02
	binary.BigEndian.PutUint16(tcp[14:], 1000)
	pseudo := append(from.Addr().AsSlice(), to.Addr().AsSlice()...)
	pseudo = binary.BigEndian.AppendUint16(append(pseudo, 0, unix.IPPROTO_TCP), uint16(len(tcp)))
	binary.BigEndian.PutUint16(tcp[16:], sum(append(pseudo, tcp...)))
	return tcp
}

// header returns an IP header.
func header(from, to netip.Addr, protocol byte, payload int) []byte {
	if from.Is4() {
		h := make([]byte, 20)
		h[0], h[8], h[9] = 0x45, 64, protocol
		binary.BigEndian.PutUint16(h[2:], uint16(len(h)+payload))
		copy(h[12:], from.AsSlice())
		copy(h[16:], to.AsSlice())
		binary.BigEndian.PutUint16(h[10:], sum(h))
		return h
	}
	h := make([]byte, 40)
	h[0], h[6], h[7] = 0x60, protocol, 64
	binary.BigEndian.PutUint16(h[4:], uint16(payload))
	copy(h[8:], from.AsSlice())
	copy(h[24:], to.AsSlice())
	return h
}

func etherTypeOf(a netip.Addr) uint16 {
	if a.Is4() {
		return unix.ETH_P_IP
	}
	return unix.ETH_P_IPV6
}

// Flood sends Flooded SYNs to two ports without a listener, as fast as possible, by a namespace's
// eth0.
func Flood(t testing.TB, ns *testutil.NS, gateway net.HardwareAddr, from, to netip.Addr) {
	t.Helper()
	if err := ns.Do(func() error {
		device, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		header := make([]byte, 12) // pairs without MACs have zeros
		copy(header, gateway)
		copy(header[6:], device.HardwareAddr)
		etherType := etherTypeOf(from)
		header = binary.BigEndian.AppendUint16(header, etherType)
		at := &unix.SockaddrLinklayer{Protocol: etherType<<8 | etherType>>8 /* network byte order */, Ifindex: device.Index, Halen: 6}
		for i := range Flooded {
			packet := syn(netip.AddrPortFrom(from, uint16(i)), netip.AddrPortFrom(to, uint16(81+i>>16)))
			err := unix.Sendto(fd, append(header, packet...), 0, at)
			for ; errors.Is(err, unix.ENOBUFS); err = unix.Sendto(fd, append(header, packet...), 0, at) {
				time.Sleep(time.Millisecond) // a queue is full
			}
			if err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatalf("flood %s from %s: %v", to, ns.Name, err)
	}
}

// MACOf returns the MAC of a namespace's device.
func MACOf(t testing.TB, ns *testutil.NS, device string) net.HardwareAddr {
	t.Helper()
	words := strings.Fields(ns.IP("link show dev " + device))
	for i, word := range words[:len(words)-1] {
		if word == "link/ether" {
			mac, err := net.ParseMAC(words[i+1])
			if err != nil {
				t.Fatal(err)
			}
			return mac
		}
	}
	t.Fatalf("device %s of %s has no MAC: %q", device, ns.Name, words)
	return nil
}

// The following can be done by a pod that writes its own frames (CAP_NET_RAW, which container
// runtimes give by default).

// SendFrame sends a payload in a frame by the device that leads to the node.
func (p *Pod) SendFrame(dst net.HardwareAddr, etherType uint16, payload []byte) {
	p.Node.w.t.Helper()
	device := p.Spec.IfName
	if p.Spec.Exclusive != nil {
		device = "veth1"
	}
	p.sendFrame(device, dst, etherType, payload)
}

// SendOut sends a payload in a frame by eth0 to the pod's next hop, which is the VPC's if the pod has an exclusive ENI.
func (p *Pod) SendOut(etherType uint16, payload []byte) {
	t := p.Node.w.t
	t.Helper()
	hop := p.Wiring.HostMAC
	if p.Spec.Exclusive != nil {
		hop = MACOf(t, p.Node.w.Fabric, p.Port)
	}
	p.sendFrame(p.Spec.IfName, hop, etherType, payload)
}

func (p *Pod) sendFrame(by string, dst net.HardwareAddr, etherType uint16, payload []byte) {
	t := p.Node.w.t
	t.Helper()
	frame := make([]byte, 12, 14+len(payload)) // pairs without MACs have zeros
	copy(frame, dst)
	copy(frame[6:], p.Wiring.PodMAC)
	frame = append(binary.BigEndian.AppendUint16(frame, etherType), payload...)
	if err := p.Do(func() error {
		device, err := net.InterfaceByName(by)
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		// Without the protocol some kernels read it from the frame, but not for every device.
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

// sum returns the Internet checksum (RFC 1071) of bytes; the last byte may be unpaired.
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

// udp returns a UDP datagram without its IP header.
func udp(from, to netip.AddrPort, data []byte) []byte {
	datagram := make([]byte, 8, 8+len(data))
	binary.BigEndian.PutUint16(datagram, from.Port())
	binary.BigEndian.PutUint16(datagram[2:], to.Port())
	binary.BigEndian.PutUint16(datagram[4:], uint16(8+len(data)))
	datagram = append(datagram, data...)
	pseudo := append(from.Addr().AsSlice(), to.Addr().AsSlice()...)
	pseudo = binary.BigEndian.AppendUint16(append(pseudo, 0, unix.IPPROTO_UDP), uint16(len(datagram)))
	binary.BigEndian.PutUint16(datagram[6:], sum(append(pseudo, datagram...)))
	return datagram
}

// Datagram returns a UDP datagram in an IP packet. IPv4 addresses that are mapped into IPv6 make an
// IPv6 packet.
func Datagram(from, to netip.AddrPort, data []byte) (etherType uint16, packet []byte) {
	return Packet(from.Addr(), to.Addr(), unix.IPPROTO_UDP, udp(from, to, data))
}

// Fragments returns a UDP datagram in two IP packets.
func Fragments(from, to netip.AddrPort, id uint16, data []byte) (etherType uint16, parts [2][]byte) {
	datagram := udp(from, to, data)
	return cut(from.Addr(), to.Addr(), unix.IPPROTO_UDP, id, datagram, len(datagram)/2&^7) // offsets count in units of 8 bytes
}

// cut returns a payload in two IP packets.
func cut(from, to netip.Addr, protocol byte, id uint16, payload []byte, half int) (etherType uint16, parts [2][]byte) {
	src, dst := from.AsSlice(), to.AsSlice()
	for i, part := range [][]byte{payload[:half], payload[half:]} {
		if from.Is4() {
			h := make([]byte, 20)
			h[0], h[8], h[9] = 0x45, 64, protocol
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
		h[40] = protocol
		binary.BigEndian.PutUint16(h[42:], [2]uint16{1, uint16(half)}[i])
		binary.BigEndian.PutUint32(h[44:], uint32(id))
		parts[i] = append(h, part...)
	}
	return etherTypeOf(from), parts
}

// Watch is what passes a namespace's devices.
type Watch struct {
	fd   int
	seen []byte
}

// NewWatch notes every frame that a namespace's devices send or receive from now on.
func NewWatch(t testing.TB, ns *testutil.NS) *Watch {
	t.Helper()
	w := &Watch{fd: -1}
	if err := ns.Do(func() (err error) {
		const all = unix.ETH_P_ALL << 8 // network byte order
		if w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, all); err != nil {
			return err
		}
		return unix.SetsockoptInt(w.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 1<<22)
	}); err != nil {
		t.Fatalf("watch %s: %v", ns.Name, err)
	}
	t.Cleanup(func() { _ = unix.Close(w.fd) })
	return w
}

// Has reports whether a frame with these bytes has passed.
func (w *Watch) Has(text string) bool {
	buf := make([]byte, 1<<16)
	for {
		n, _, err := unix.Recvfrom(w.fd, buf, 0)
		if err != nil {
			return strings.Contains(string(w.seen), text)
		}
		w.seen = append(w.seen, buf[:n]...)
	}
}

// Await reports whether it passes within Patience.
func (w *Watch) Await(text string) bool {
	for deadline := time.Now().Add(Patience); !w.Has(text); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}
