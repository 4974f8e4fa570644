package plan

import (
	"net/netip"

	"terway.dev/terway/internal/catalog"
)

// Limits of Alibaba Cloud, from its documents on VPCs, vSwitches, route tables and security
// groups.
const (
	vpcMaskMin, vpcMaskMax         = 8, 28
	vSwitchMaskMin, vSwitchMaskMax = 16, 29
	maxVSwitches                   = 150 // in a VPC
	maxSecondary                   = 5   // secondary ranges of a VPC

	// privateAddresses is the quota of private addresses in a VPC, and the maximum quota.
	privateAddresses    = 60_000
	privateAddressesMax = 300_000

	// routeEntries is the quota of custom entries in a route table.
	routeEntries = 200

	serviceMaskMin, serviceMaskMax = 16, 24
	podMaskMin, podMaskMax         = 8, 24
	nodeMaskMin, nodeMaskMax       = 24, 28
	nodeMaskDefault                = 26

	// prefixSize is the number of addresses in a prefix of an ENI (/28).
	prefixSize = catalog.PrefixSize
)

// The kinds of security groups, and how many private addresses each holds.
const (
	GroupNormal     = "normal"
	GroupEnterprise = "enterprise"

	groupNormalHolds     = 2_000
	groupEnterpriseHolds = 65_536
)

func groupHolds(kind string) int {
	if kind == GroupNormal {
		return groupNormalHolds
	}
	return groupEnterpriseHolds
}

// maxPool is the maximum number of free addresses in a node's pool (config.DefaultMaxPool).
const maxPool = 8

// flannelReserved is the number of addresses in a node's block that no pod gets: the network
// and broadcast addresses, and the bridge's (host-local and bridge plugins).
const flannelReserved = 3

var (
	private192 = netip.MustParsePrefix("192.168.0.0/16")
	private10  = netip.MustParsePrefix("10.0.0.0/8")
	private172 = netip.MustParsePrefix("172.16.0.0/12")
)

// privateRanges are the ranges of RFC 1918. They do not include ranges that a VPC must not
// have: 100.64.0.0/10 (the cloud's own services), 127.0.0.0/8, 169.254.0.0/16, 224.0.0.0/4.
func privateRanges() []netip.Prefix { return []netip.Prefix{private192, private10, private172} }

// size returns the number of addresses in an IPv4 range.
func size(p netip.Prefix) int { return 1 << (32 - p.Bits()) }

// Usable returns how many addresses of a vSwitch's range ENIs can have: all but the first and
// the last three.
func Usable(p netip.Prefix) int { return max(0, size(p)-4) }

// contains reports whether all of inner lies in outer.
func contains(outer, inner netip.Prefix) bool {
	return outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}

// wellFormed reports whether p is an IPv4 range without host bits.
func wellFormed(p netip.Prefix) bool {
	return p.IsValid() && p.Addr().Is4() && p == p.Masked()
}
