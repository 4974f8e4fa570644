package instruments

import (
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

func TestFramesAreReadAsTheyAreWritten(t *testing.T) {
	addr := rapid.Custom(func(t *rapid.T) netip.Addr {
		return netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "address")))
	})
	rapid.Check(t, func(t *rapid.T) {
		src, dst, port := addr.Draw(t, "src"), addr.Draw(t, "dst"), rapid.Uint16().Draw(t, "port")
		b := UDPFrame(net.HardwareAddr{2, 0, 0, 0, 0, 1}, src, dst, port)
		f, ok := parseFrame(b)
		want := Frame{etherType: unix.ETH_P_IP, Proto: unix.IPPROTO_UDP, Src: src, Dst: dst, DstPort: port, length: len(b)}
		if !ok || f != want {
			t.Fatalf("read %+v (%t), want %+v", f, ok, want)
		}
		// A valid checksum makes the sum of the header's words all ones (RFC 1071).
		sum := uint32(0)
		for i := 14; i < 34; i += 2 {
			sum += uint32(b[i])<<8 | uint32(b[i+1])
		}
		for sum>>16 != 0 {
			sum = sum&0xffff + sum>>16
		}
		if sum != 0xffff {
			t.Fatalf("the header's checksum is wrong: sum %#x", sum)
		}
	})
}

func TestRuntsAreNoFrames(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.SliceOfN(rapid.Byte(), 0, 80).Draw(t, "bytes")
		parseFrame(b) // must not read beyond the end
		if len(b) < 14 {
			if _, ok := parseFrame(b); ok {
				t.Fatalf("%d bytes were taken for a frame", len(b))
			}
		}
	})
}

func TestTunnelsAreSeen(t *testing.T) {
	for _, tt := range []struct {
		frame Frame
		want  bool
	}{
		{Frame{Proto: unix.IPPROTO_TCP, DstPort: 4789}, false},
		{Frame{Proto: unix.IPPROTO_UDP, DstPort: 53}, false},
		{Frame{Proto: unix.IPPROTO_UDP, DstPort: 4789}, true},
		{Frame{Proto: unix.IPPROTO_UDP, DstPort: 8472}, true},
		{Frame{Proto: unix.IPPROTO_UDP, DstPort: 6081}, true},
		{Frame{Proto: unix.IPPROTO_IPIP}, true},
		{Frame{Proto: unix.IPPROTO_GRE}, true},
	} {
		if got := tt.frame.Tunnelled(); got != tt.want {
			t.Errorf("%+v tunnelled: %t, want %t", tt.frame, got, tt.want)
		}
	}
}
