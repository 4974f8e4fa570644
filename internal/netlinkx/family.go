package netlinkx

import (
	"errors"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"go4.org/netipx"
	"golang.org/x/sys/unix"
)

// Families are both address families.
var Families = []int{netlink.FAMILY_V4, netlink.FAMILY_V6}

// NoFamily reports whether a listing failed because the kernel has no IPv6.
func NoFamily(err error) bool {
	return errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP)
}

// DefaultNet returns the destination of a family's default route.
func DefaultNet(family int) *net.IPNet {
	if family == netlink.FAMILY_V4 {
		return netipx.PrefixIPNet(netip.PrefixFrom(netip.IPv4Unspecified(), 0))
	}
	return netipx.PrefixIPNet(netip.PrefixFrom(netip.IPv6Unspecified(), 0))
}

// Family returns the family of an address: AF_INET or AF_INET6.
func Family(a netip.Addr) int {
	if a.Is4() {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}

// OfFamily returns the first address of a family, or the zero Addr.
func OfFamily(list []netip.Addr, family int) netip.Addr {
	for _, a := range list {
		if Family(a) == family {
			return a
		}
	}
	return netip.Addr{}
}

// FamilyName formats a family for people.
func FamilyName(family int) string {
	if family == netlink.FAMILY_V4 {
		return "IPv4"
	}
	return "IPv6"
}

// Addr converts an address of a netlink answer, or returns the zero Addr.
func Addr(ip net.IP) netip.Addr {
	a, _ := netipx.FromStdIP(ip)
	return a
}

// HostDst returns the destination of a host route, or the zero Addr.
func HostDst(r netlink.Route) netip.Addr {
	if r.Dst == nil {
		return netip.Addr{}
	}
	if ones, bits := r.Dst.Mask.Size(); ones != bits {
		return netip.Addr{}
	}
	return Addr(r.Dst.IP)
}

// SameDst compares destinations. The kernel leaves out the destination of a default route.
func SameDst(a, b netlink.Route) bool {
	if IsDefault(a) || IsDefault(b) {
		return IsDefault(a) && IsDefault(b)
	}
	return a.Dst.String() == b.Dst.String()
}

// IsDefault reports whether a route is a default route.
func IsDefault(r netlink.Route) bool {
	if r.Dst == nil {
		return true
	}
	ones, _ := r.Dst.Mask.Size()
	return ones == 0
}
