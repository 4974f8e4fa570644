package state

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"strings"
)

// addrAt returns the i-th address of an IPv4 range.
func addrAt(p netip.Prefix, i int) netip.Addr {
	b := p.Masked().Addr().As4()
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+uint32(i))
	return netip.AddrFrom4(b)
}

// offsetOf is the inverse of addrAt.
func offsetOf(p netip.Prefix, a netip.Addr) int {
	base, addr := p.Masked().Addr().As4(), a.As4()
	return int(binary.BigEndian.Uint32(addr[:]) - binary.BigEndian.Uint32(base[:]))
}

// sizeOf is the number of addresses of an IPv4 range.
func sizeOf(p netip.Prefix) int { return 1 << (32 - p.Bits()) }

// lastAddr6 returns the address that is back addresses before the last one of a /64.
func lastAddr6(p netip.Prefix, back uint64) netip.Addr {
	return addr6(p, ^uint64(0)-back)
}

// addr6 returns the address of a /64 with the given interface identifier.
func addr6(p netip.Prefix, suffix uint64) netip.Addr {
	b := p.Masked().Addr().As16()
	binary.BigEndian.PutUint64(b[8:], suffix)
	return netip.AddrFrom16(b)
}

func suffix6(a netip.Addr) uint64 {
	b := a.As16()
	return binary.BigEndian.Uint64(b[8:])
}

// contains reports whether inner is inside outer or equal to it.
func contains(outer, inner netip.Prefix) bool {
	return outer.Addr().Is4() == inner.Addr().Is4() && outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}

// portsOf parses a normalised port range; "-1/-1" is all.
func portsOf(s string) (from, to uint16) {
	a, b, ok := strings.Cut(s, "/")
	lo, err1 := strconv.ParseUint(a, 10, 16)
	hi, err2 := strconv.ParseUint(b, 10, 16)
	if !ok || err1 != nil || err2 != nil {
		return 0, 65535
	}
	return uint16(lo), uint16(hi)
}
