package plan

import (
	"fmt"
	"net/netip"
	"slices"

	"terway.dev/terway/internal/datapath/claims"
)

// Growth describes a Pod vSwitch to add for a running cluster.
type Growth struct {
	// Zone is a zone of the plan.
	Zone string
	// CIDR is the range. If it is not valid, the first free range is used, with a mask of Bits
	// or, if that is 0, of GrowthBits.
	CIDR netip.Prefix
	Bits int
	// Taken are other ranges in use in the VPC, or added to it.
	Taken []netip.Prefix
	// Ranges and VSwitches are how many the VPC has beside those of the plan: they count
	// against the cloud's limits.
	Ranges, VSwitches int
}

// GrowthBits is the mask that the cloud recommends for Pod vSwitches.
const GrowthBits = 19

// Grow returns the plan with one more Pod vSwitch, and the vSwitch. If the range is not in the
// VPC, or the VPC has no room, it adds a secondary range. It does not change p. Call Check on
// the result.
func (p *Plan) Grow(g Growth) (*Plan, VSwitch, error) {
	var none VSwitch
	if p.Network != claims.NetworkTerway {
		return nil, none, fmt.Errorf("network %s: only a plan with network terway has Pod vSwitches", p.Network)
	}
	at := slices.IndexFunc(p.Zones, func(z Zone) bool { return z.ID == g.Zone })
	if at < 0 {
		var ids []string
		for _, z := range p.Zones {
			ids = append(ids, z.ID)
		}
		return nil, none, fmt.Errorf("zone %q: want one of the plan's zones %v", g.Zone, ids)
	}
	if g.CIDR.IsValid() {
		g.Bits = g.CIDR.Bits()
		if !wellFormed(g.CIDR) {
			return nil, none, fmt.Errorf("range %s: want an IPv4 range without host bits, such as 192.168.64.0/19", g.CIDR)
		}
	}
	if g.Bits == 0 {
		g.Bits = GrowthBits
	}
	if g.Bits < vSwitchMaskMin || g.Bits > vSwitchMaskMax {
		return nil, none, fmt.Errorf("mask /%d: want /%d to /%d", g.Bits, vSwitchMaskMin, vSwitchMaskMax)
	}
	if n := len(p.vSwitches()) + g.VSwitches; n >= maxVSwitches {
		return nil, none, fmt.Errorf("the VPC has %d vSwitches already, the most it may have: delete an unused one", n)
	}
	grown := *p
	grown.VPC.Secondary = slices.Clone(p.VPC.Secondary)
	grown.Zones = slices.Clone(p.Zones)
	zone := &grown.Zones[at]
	zone.Pods = slices.Clone(zone.Pods)

	v := VSwitch{CIDR: g.CIDR}
	if err := grown.place(&v, g); err != nil {
		return nil, none, err
	}
	v.Name = p.nextName(*zone, v.CIDR)
	zone.Pods = append(zone.Pods, v)
	return &grown, v, nil
}

// place finds a range for v, or makes room for the range of v.
func (p *Plan) place(v *VSwitch, g Growth) error {
	ranges := append([]netip.Prefix{p.VPC.CIDR}, p.VPC.Secondary...)
	taken := slices.Clone(g.Taken)
	for _, z := range p.Zones {
		taken = append(taken, z.Node.CIDR)
		for _, s := range z.Pods {
			taken = append(taken, s.CIDR)
		}
	}
	if v.CIDR.IsValid() {
		if i := slices.IndexFunc(taken, v.CIDR.Overlaps); i >= 0 {
			return fmt.Errorf("range %s overlaps %s, which another vSwitch has", v.CIDR, taken[i])
		}
		if slices.ContainsFunc(ranges, func(r netip.Prefix) bool { return contains(r, v.CIDR) }) {
			return nil
		}
		if n := len(p.VPC.Secondary) + g.Ranges; n >= maxSecondary {
			return fmt.Errorf("range %s: want one inside the plan's VPC ranges %v: the VPC has %d secondary ranges already, the most it may have", v.CIDR, ranges, n)
		}
		p.VPC.Secondary = append(p.VPC.Secondary, v.CIDR)
		return nil
	}
	var found bool
	if v.CIDR, found = free(ranges, g.Bits, taken); found {
		return nil
	}
	if n := len(p.VPC.Secondary) + g.Ranges; n >= maxSecondary {
		return fmt.Errorf("the VPC has no room for another vSwitch, and has %d secondary ranges already, the most it may have: choose a larger mask (a smaller vSwitch)", n)
	}
	// The VPC is full: add a range as large as a VPC's, so that the next vSwitch has room too.
	taken = slices.Concat(taken, ranges, p.Avoid, []netip.Prefix{p.ServiceCIDR})
	more, found := free(privateRanges(), vSwitchMaskMin, taken)
	if !found {
		if more, found = free(privateRanges(), g.Bits, taken); !found {
			return fmt.Errorf("no private range of /%d is left that overlaps neither the VPC, the Service range nor what is to be avoided", g.Bits)
		}
	}
	v.CIDR = netip.PrefixFrom(more.Addr(), g.Bits)
	p.VPC.Secondary = append(p.VPC.Secondary, more)
	return nil
}

// nextName names a zone's next Pod vSwitch: by its range, like Propose, or with a number after
// the user's own name of the first.
func (p *Plan) nextName(z Zone, c netip.Prefix) string {
	if len(z.Pods) == 0 || z.Pods[0].Name == nameOf(podSwitch, z.Pods[0].CIDR) {
		return nameOf(podSwitch, c)
	}
	for n := len(z.Pods) + 1; ; n++ {
		name := fmt.Sprintf("%s-%d", z.Pods[0].Name, n)
		if !slices.ContainsFunc(p.vSwitches(), func(v placed) bool { return v.Name == name }) {
			return name
		}
	}
}

// podSwitch is the prefix of the names that Propose gives to Pod vSwitches.
const podSwitch = "pod_switch"
