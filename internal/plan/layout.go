package plan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// builder lays the zones of a plan out in ranges.
type builder struct {
	request Request
	base    *Plan // everything but VPC and vSwitches
	nodes   int   // of the fullest zone
}

// shape is a candidate: each zone has a node vSwitch and k Pod vSwitches, each of
// them at most a unit, in the VPC's range, and a Pod vSwitch in each secondary one.
// k is 0 only where there are secondary ranges.
type shape struct {
	vpc       netip.Prefix
	secondary []netip.Prefix
	unit, k   int // the unit's mask, Pod vSwitches in a zone
	first     int // the node vSwitch's mask when few nodes are enough for it
}

// Shapes that leave the VPC's range mostly free, in order of size.
var usual = []struct{ unit, k int }{{19, 1}, {18, 1}, {17, 1}, {16, 1}, {16, 2}, {16, 3}}

// mostPods is how many Pod vSwitches of one zone and range a proposal has at most.
const mostPods = 15

// candidates gives plans in order of the addresses they take.
func (b *builder) candidates(yield func(*Plan) bool) {
	taken := b.base.taken()
	switch vpc := b.request.VPC; {
	case vpc.IsValid():
		b.within(vpc, yield)
	case b.base.Network == NetworkFlannel:
		if vpc, ok := largest(privateRanges(), firstVPCMask, vpcMaskMax, taken); ok {
			b.within(vpc, yield)
		}
	default:
		for _, u := range usual {
			mask := min(firstVPCMask, u.unit-log2(len(b.base.Zones)*(1+u.k)))
			if mask < vpcMaskMin {
				return
			}
			vpc, ok := free(privateRanges(), mask, taken)
			if !ok {
				// No range is so large: what there is must do.
				if vpc, ok = largest(privateRanges(), mask+1, vpcMaskMax, taken); ok {
					b.within(vpc, yield)
				}
				return
			}
			if !yield(b.plan(shape{vpc: vpc, unit: u.unit, k: u.k, first: firstSwitchMask})) {
				return
			}
		}
	}
}

// within gives the candidates for one VPC range.
func (b *builder) within(vpc netip.Prefix, yield func(*Plan) bool) {
	if b.base.Network == NetworkFlannel {
		unit := max(firstFlannelMask, vpc.Bits()+log2(len(b.base.Zones)))
		if unit <= vSwitchMaskMax && len(b.base.Zones) <= units(vpc, unit) {
			yield(b.plan(shape{vpc: vpc, unit: unit, first: unit}))
		}
		return
	}
	zones := len(b.base.Zones)
	// In a small range the vSwitches are in proportion: an eighth of it each, or less
	// for many zones.
	first := min(max(firstSwitchMask, vpc.Bits()+max(3, log2(2*zones))), vSwitchMaskMax)
	least := 0
	for _, u := range usual {
		unit := u.unit + first - firstSwitchMask
		if zones*(1+u.k) > units(vpc, unit) {
			continue
		}
		s := shape{vpc: vpc, unit: unit, k: u.k, first: first}
		least = max(least, s.addresses(zones, unit))
		if !yield(b.plan(s)) {
			return
		}
	}
	for _, s := range b.full(vpc) {
		if s.addresses(zones, s.unit) >= least && !yield(b.plan(s)) {
			return
		}
	}
}

// full are shapes that use the VPC's whole range, and then secondary ones too, in
// order of size; of equal ones that with the fewest vSwitches first. Last of them is
// that whose Pod vSwitches are in secondary ranges alone.
func (b *builder) full(vpc netip.Prefix) []shape {
	zones := len(b.base.Zones)
	var secondary []netip.Prefix
	taken := append(b.base.taken(), vpc)
	for range maxSecondary {
		r, ok := largest([]netip.Prefix{private10, private172, private192}, vSwitchMaskMin, podMaskMax, taken)
		if !ok {
			break
		}
		secondary, taken = append(secondary, r), append(taken, r)
	}
	var all []shape
	for unit := max(vpc.Bits(), vSwitchMaskMin); unit <= vSwitchMaskMax; unit++ {
		fill := units(vpc, unit)/zones - 1
		if fill > mostPods {
			break // as many as are allowed would leave much of the range free, and come first for it
		}
		for n := range len(secondary) + 1 {
			if k := min(fill, maxVSwitches/zones-1-n); k >= 1 || k == 0 && n > 0 {
				all = append(all, shape{vpc: vpc, secondary: secondary[:n], unit: unit, k: k, first: unit})
			}
		}
	}
	slices.SortStableFunc(all, func(a, b shape) int {
		return cmp.Or(cmp.Compare(a.addresses(zones, a.unit), b.addresses(zones, b.unit)),
			cmp.Compare(min(b.k, 1), min(a.k, 1)), cmp.Compare(a.k+len(a.secondary), b.k+len(b.secondary)))
	})
	return all
}

// units is how many ranges of that mask p has.
func units(p netip.Prefix, mask int) int {
	if mask < p.Bits() {
		return 0
	}
	return 1 << (mask - p.Bits())
}

// part is the mask of a zone's share of a secondary range.
func part(r netip.Prefix, zones int) int { return r.Bits() + log2(zones) }

// addresses is how many the vSwitches of the shape have, with node vSwitches of that mask.
func (s shape) addresses(zones, node int) int {
	n := zones * (1<<(32-node) + s.k<<(32-s.unit))
	for _, r := range s.secondary {
		n += zones << (32 - part(r, zones))
	}
	return n
}

// plan is the shape as a plan: zone by zone, the node vSwitch before the Pod vSwitches.
func (b *builder) plan(s shape) *Plan {
	p := *b.base
	// Not a clone: an empty list would not be the nil of a plan read from its file.
	p.VPC = VPC{CIDR: s.vpc, Secondary: append([]netip.Prefix(nil), s.secondary...)}
	p.Nodes.InstanceTypes = slices.Clone(p.Nodes.InstanceTypes)
	p.Avoid = slices.Clone(p.Avoid)
	if p.Name == "" {
		p.Name = nameOf("vpc", s.vpc)
	}
	node := s.first
	for node > s.unit && 1<<(32-node)-4 < b.nodes {
		node--
	}
	step := 1 << (32 - s.unit)
	p.Zones = make([]Zone, len(b.base.Zones))
	for i, z := range b.base.Zones {
		start := i * (1 + s.k) * step
		z.Node = vSwitch("node_switch", at(s.vpc, start, node))
		for j := range s.k {
			z.Pods = append(z.Pods, vSwitch(podSwitch, at(s.vpc, start+(1+j)*step, s.unit)))
		}
		for _, r := range s.secondary {
			mask := part(r, len(p.Zones))
			z.Pods = append(z.Pods, vSwitch(podSwitch, at(r, i<<(32-mask), mask)))
		}
		p.Zones[i] = z
	}
	return &p
}

func vSwitch(kind string, p netip.Prefix) VSwitch { return VSwitch{Name: nameOf(kind, p), CIDR: p} }

// nameOf is a range's name as the user guide writes them: pod_switch_192_168_32_0_19.
func nameOf(kind string, p netip.Prefix) string {
	return kind + "_" + strings.NewReplacer(".", "_", "/", "_").Replace(p.String())
}

// noSpace says why there was no candidate at all.
func (b *builder) noSpace() Problems {
	var ps Problems
	zones := len(b.base.Zones)
	if vpc := b.request.VPC; vpc.IsValid() {
		each := 1
		if b.base.Network == NetworkTerway && zones <= units(vpc, vSwitchMaskMax) {
			each = 2 // the nodes fit, but there is no secondary range for the pods
		}
		ps.bad("vpc.cidr", vpc, "/%d or larger: %s", vSwitchMaskMax-log2(zones*each),
			fmt.Sprintf("%d zones need %d vSwitches, the smallest of which are /%d", zones, zones*each, vSwitchMaskMax))
		return ps
	}
	ps.bad("vpc.cidr", "", "ranges to avoid that leave a private range free for it: for %d zones /%d or larger", zones, vSwitchMaskMax-log2(2*zones))
	return ps
}
