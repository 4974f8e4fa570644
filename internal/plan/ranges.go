package plan

import (
	"fmt"
	"net/netip"
	"slices"

	"terway.dev/terway/internal/datapath/claims"
)

// placed is a vSwitch with its field in the plan.
type placed struct {
	VSwitch
	field string
	zone  string
	pods  bool
}

// vSwitches returns the plan's vSwitches, zone by zone, the node vSwitch first.
func (p *Plan) vSwitches() []placed {
	var all []placed
	for i, z := range p.Zones {
		all = append(all, placed{z.Node, fmt.Sprintf("zones[%d].node", i), z.ID, false})
		for j, v := range z.Pods {
			all = append(all, placed{v, fmt.Sprintf("zones[%d].pods[%d]", i, j), z.ID, true})
		}
	}
	return all
}

// named is a range with its field.
type named struct {
	field string
	cidr  netip.Prefix
}

// ranges checks every range but the VPC's own, and that no two overlap.
func (c *checker) ranges() {
	p := c.p
	vpc := []named{{"vpc.cidr", p.VPC.CIDR}}
	for i, s := range p.VPC.Secondary {
		vpc = append(vpc, named{fmt.Sprintf("vpc.secondary[%d]", i), s})
	}
	var switches []named
	for _, v := range p.vSwitches() {
		field := v.field + ".cidr"
		c.vSwitch(field, v.CIDR, vpc)
		switches = append(switches, named{field, v.CIDR})
	}
	c.apart(switches)

	c.service()
	all := append(vpc, named{"serviceCIDR", p.ServiceCIDR})
	if p.Network == claims.NetworkFlannel {
		c.podRange()
		all = append(all, named{"podCIDR", p.PodCIDR})
	}
	c.apart(all)
	c.avoids(all)
}

// avoids checks the ranges to avoid, which may overlap each other, against all others.
func (c *checker) avoids(all []named) {
	for i, a := range c.p.Avoid {
		if field := fmt.Sprintf("avoid[%d]", i); !a.IsValid() {
			c.bad(field, "", "a range such as 10.0.0.0/8")
		} else if a.Addr().Is4In6() {
			// An IPv6 range would overlap nothing.
			c.bad(field, a, "an IPv4 range such as 10.0.0.0/8")
		} else if a != a.Masked() {
			c.bad(field, a, "%s (the bits behind the mask are zero)", a.Masked())
		}
		for _, r := range all {
			if r.cidr.IsValid() && a.IsValid() && r.cidr.Overlaps(a) {
				c.bad(r.field, r.cidr, "a range that does not overlap %s, which avoid[%d] names", a, i)
			}
		}
	}
}

// apart checks that no two ranges overlap; the problem names the later one.
func (c *checker) apart(ranges []named) {
	for i, r := range ranges {
		for _, earlier := range ranges[:i] {
			if r.cidr.IsValid() && earlier.cidr.IsValid() && r.cidr.Overlaps(earlier.cidr) {
				c.bad(r.field, r.cidr, "a range that does not overlap %s %s", earlier.field, earlier.cidr)
			}
		}
	}
}

func (c *checker) vSwitch(field string, p netip.Prefix, vpc []named) {
	if !c.form(field, p, "192.168.0.0/19") {
		return
	}
	if p.Bits() < vSwitchMaskMin || p.Bits() > vSwitchMaskMax {
		c.bad(field, p, "a mask from /%d to /%d", vSwitchMaskMin, vSwitchMaskMax)
	}
	// If the VPC's ranges are invalid, the check is skipped.
	if !slices.ContainsFunc(vpc, func(r named) bool { return !wellFormed(r.cidr) || contains(r.cidr, p) }) {
		c.bad(field, p, "a range inside one range of the VPC: %s", list(vpc))
	}
}

func list(ranges []named) string {
	s := ""
	for i, r := range ranges {
		if i > 0 {
			s += ", "
		}
		s += r.cidr.String()
	}
	return s
}

func (c *checker) service() {
	p := c.p.ServiceCIDR
	if c.form("serviceCIDR", p, "172.21.0.0/20") && c.private("serviceCIDR", p) &&
		(p.Bits() < serviceMaskMin || p.Bits() > serviceMaskMax) {
		c.bad("serviceCIDR", p, "a mask from /%d to /%d", serviceMaskMin, serviceMaskMax)
	}
}

func (c *checker) podRange() {
	p, mask := c.p.PodCIDR, c.p.NodeMask
	if mask < nodeMaskMin || mask > nodeMaskMax {
		c.bad("nodeMask", mask, "%d to %d: the length of each node's block (%d holds %d pods)", nodeMaskMin, nodeMaskMax, nodeMaskDefault, blockHolds(nodeMaskDefault))
	}
	if !c.form("podCIDR", p, "172.20.0.0/16") || !c.private("podCIDR", p) {
		return
	}
	// A cluster's pod range in 172.16.0.0/12 has a mask up to /16.
	longest := podMaskMax
	if contains(private172, p) {
		longest = 16
	}
	if p.Bits() < podMaskMin || p.Bits() > longest {
		c.bad("podCIDR", p, "a mask from /%d to /%d", podMaskMin, longest)
	}
}

// blockHolds returns how many pods a node's block of Flannel's pod range holds.
func blockHolds(mask int) int { return max(0, 1<<(32-mask)-flannelReserved) }
