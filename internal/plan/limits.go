package plan

import (
	"net/netip"

	"terway.dev/terway/internal/catalog"
)

// What Alibaba Cloud allows, from its documents on VPCs, vSwitches, route tables
// and security groups.
const (
	vpcMaskMin, vpcMaskMax         = 8, 28
	vSwitchMaskMin, vSwitchMaskMax = 16, 29
	maxVSwitches                   = 150 // of a VPC
	maxSecondary                   = 5   // further ranges of a VPC

	// privateAddresses is how many a VPC holds by quota, and the most that the quota can be.
	privateAddresses    = 60_000
	privateAddressesMax = 300_000

	// routeEntries is how many custom entries a route table holds.
	routeEntries = 200

	serviceMaskMin, serviceMaskMax = 16, 24
	podMaskMin, podMaskMax         = 8, 24
	nodeMaskMin, nodeMaskMax       = 24, 28
	nodeMaskDefault                = 26

	// prefixSize is how many addresses a prefix of an ENI has (/28).
	prefixSize = catalog.PrefixSize
)

// The kinds of security groups, and how many private addresses one holds.
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

// maxPool is how many free addresses a node may keep beside those of its pods
// (config.DefaultMaxPool).
const maxPool = 8

// flannelReserved are the addresses of a node's block that no pod has: its network
// and broadcast address, and the bridge's (host-local and bridge plugins).
const flannelReserved = 3

var (
	private192 = netip.MustParsePrefix("192.168.0.0/16")
	private10  = netip.MustParsePrefix("10.0.0.0/8")
	private172 = netip.MustParsePrefix("172.16.0.0/12")
)

// privateRanges are RFC 1918's. They leave out what a VPC may never have:
// 100.64.0.0/10 (the cloud's own services), 127.0.0.0/8, 169.254.0.0/16, 224.0.0.0/4.
func privateRanges() []netip.Prefix { return []netip.Prefix{private192, private10, private172} }

// size is how many addresses an IPv4 range has.
func size(p netip.Prefix) int { return 1 << (32 - p.Bits()) }

// Usable is how many addresses of a vSwitch's range can be given to ENIs: all but
// the first and the last three.
func Usable(p netip.Prefix) int { return max(0, size(p)-4) }

// contains reports whether all of inner lies in outer.
func contains(outer, inner netip.Prefix) bool {
	return outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}

// wellFormed: an IPv4 range without host bits.
func wellFormed(p netip.Prefix) bool {
	return p.IsValid() && p.Addr().Is4() && p == p.Masked()
}
