package packet

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Tuple is a 5-tuple in the direction of a frame.
type Tuple struct {
	From, To netip.AddrPort
	// TCP, or UDP.
	TCP bool
}

// Back returns the tuple of the other direction.
func (f Tuple) Back() Tuple { return Tuple{From: f.To, To: f.From, TCP: f.TCP} }

// TCP flags.
const (
	SYN = 0x02
	ACK = 0x10
)

// Frame returns a frame with 64 bytes of data and the maximum TTL. TCP and UDP checksums are
// missing: no program reads them.
func (f Tuple) Frame(flags byte) []byte {
	frame := make([]byte, 12, 200) // no MACs, as on loopback
	l4 := make([]byte, 8)
	proto := byte(unix.IPPROTO_UDP)
	if f.TCP {
		proto, l4 = unix.IPPROTO_TCP, make([]byte, 20)
		l4[12], l4[13] = 0x50, flags
	}
	binary.BigEndian.PutUint16(l4, f.From.Port())
	binary.BigEndian.PutUint16(l4[2:], f.To.Port())
	l4 = append(l4, make([]byte, 64)...)
	if f.From.Addr().Is4() {
		ip := make([]byte, 20)
		ip[0], ip[8], ip[9] = 0x45, 255, proto
		binary.BigEndian.PutUint16(ip[2:], uint16(20+len(l4)))
		copy(ip[12:], f.From.Addr().AsSlice())
		copy(ip[16:], f.To.Addr().AsSlice())
		frame = binary.BigEndian.AppendUint16(frame, unix.ETH_P_IP)
		return append(append(frame, ip...), l4...)
	}
	ip := make([]byte, 40)
	ip[0], ip[6], ip[7] = 0x60, proto, 255
	binary.BigEndian.PutUint16(ip[4:], uint16(len(l4)))
	copy(ip[8:], f.From.Addr().AsSlice())
	copy(ip[24:], f.To.Addr().AsSlice())
	frame = binary.BigEndian.AppendUint16(frame, unix.ETH_P_IPV6)
	return append(append(frame, ip...), l4...)
}
