package plan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"terway.dev/terway/internal/datapath/claims"
)

// builder assigns ranges to the zones of a plan.
type builder struct {
	request Request
	base    *Plan // everything but VPC and vSwitches
	nodes   int   // in the fullest zone
	// least is the size of the previous candidate in addresses; the next must have at least as
	// many.
	least int
}

// shape is a candidate: each zone has a node vSwitch, at most a unit large, k units for its
// pods in the VPC's range, and a Pod vSwitch in each secondary range. k is 0 only if there are
// secondary ranges. Adjacent units are one Pod vSwitch where possible.
type shape struct {
	vpc       netip.Prefix
	secondary []netip.Prefix
	unit, k   int // the mask of a unit, the number of units for a zone's pods
	// node is the mask of the largest node vSwitch that fits, first that of the one for few
	// nodes.
	node, first int
	// front is how many units the node vSwitches share if there is not one for each of them; 0:
	// each precedes the Pod vSwitches of its zone.
	front int
}

// Shapes that leave most of the VPC's range free, sorted by size.
var usual = []struct{ unit, k int }{{19, 1}, {18, 1}, {17, 1}, {16, 1}, {16, 2}, {16, 3}}

// mostUnits is the maximum number of units for the pods of a zone in one range.
const mostUnits = 15

// candidates yields plans, sorted by the number of addresses they use.
func (b *builder) candidates(yield func(*Plan) bool) {
	if vpc := b.request.VPC; vpc.IsValid() {
		b.within(vpc, true, yield)
		return
	}
	taken := b.base.taken()
	vpc, ok := largest(privateRanges(), firstVPCMask, vpcMaskMax, taken)
	for ok {
		// One range is better than several, as long as there is one.
		var larger netip.Prefix
		if larger, ok = b.larger(vpc, taken); !b.within(vpc, !ok, yield) {
			return
		}
		vpc = larger
	}
}

// larger returns a range for the VPC that is twice as large. Flannel's nodes need none.
func (b *builder) larger(vpc netip.Prefix, taken []netip.Prefix) (netip.Prefix, bool) {
	if vpc.Bits() == vpcMaskMin || b.base.Network == claims.NetworkFlannel {
		return netip.Prefix{}, false
	}
	return free(privateRanges(), vpc.Bits()-1, taken)
}

// within yields the candidates for one VPC range, and those with secondary ranges if more is
// set. It reports whether to continue.
func (b *builder) within(vpc netip.Prefix, more bool, yield func(*Plan) bool) bool {
	zones := len(b.base.Zones)
	if b.base.Network == claims.NetworkFlannel {
		unit := max(firstFlannelMask, vpc.Bits()+log2(zones))
		if s, ok := newShape(vpc, zones, unit, 0, unit); ok && s.front == 0 {
			return yield(b.plan(s))
		}
		return true
	}
	// In a small range the vSwitches are smaller too: each has an eighth of it, or less for
	// many zones.
	first := min(max(firstSwitchMask, vpc.Bits()+max(3, log2(2*zones))), vSwitchMaskMax)
	var all []shape
	for _, u := range usual {
		if s, ok := newShape(vpc, zones, u.unit+first-firstSwitchMask, u.k, first); ok {
			all = append(all, s)
		}
	}
	for _, s := range append(all, b.full(vpc, more)...) {
		if s.addresses(zones, s.first) < b.least {
			continue
		}
		b.least = s.addresses(zones, s.node)
		if !yield(b.plan(s)) {
			return false
		}
	}
	return true
}

// newShape returns the shape with k units for the pods of each zone, if there is room. If less
// than a unit for each zone is left, the node vSwitches share the rest.
func newShape(vpc netip.Prefix, zones, unit, k, first int) (shape, bool) {
	s := shape{vpc: vpc, unit: unit, k: k, node: unit}
	left := units(vpc, unit) - zones*k
	if left < 1 {
		return s, false
	}
	if left < zones {
		s.front, s.node = left, unit+log2(ceil(zones, left))
	}
	s.first = max(first, s.node)
	return s, s.first <= vSwitchMaskMax
}

// full returns shapes that use the VPC's whole range, then those with secondary ranges too,
// sorted by size; of equal ones the one with the fewest units comes first. The last has its Pod
// vSwitches only in secondary ranges.
func (b *builder) full(vpc netip.Prefix, more bool) []shape {
	zones := len(b.base.Zones)
	var secondary []netip.Prefix
	taken := append(b.base.taken(), vpc)
	for more && len(secondary) < maxSecondary {
		r, ok := largest([]netip.Prefix{private10, private172, private192}, vSwitchMaskMin, podMaskMax, taken)
		if !ok {
			break
		}
		secondary, taken = append(secondary, r), append(taken, r)
	}
	var all []shape
	for unit := max(vpc.Bits(), vSwitchMaskMin); unit <= vSwitchMaskMax; unit++ {
		fill := units(vpc, unit)/zones - 1
		if fill > mostUnits {
			break // a shape with the maximum of units would leave much of the range free, and would come first
		}
		fills := []int{fill}
		if shared := (units(vpc, unit) - 1) / zones; shared > max(0, fill) {
			fills = append(fills, shared) // the node vSwitches share the rest
		}
		for _, fill := range fills {
			for n := range len(secondary) + 1 {
				k := min(fill, maxVSwitches/zones-1-n)
				if s, ok := newShape(vpc, zones, unit, k, unit); ok && (k >= 1 || k == 0 && n > 0) {
					s.secondary = secondary[:n]
					all = append(all, s)
				}
			}
		}
	}
	slices.SortStableFunc(all, func(a, b shape) int {
		return cmp.Or(cmp.Compare(a.addresses(zones, a.node), b.addresses(zones, b.node)),
			cmp.Compare(min(b.k, 1), min(a.k, 1)), cmp.Compare(a.k+len(a.secondary), b.k+len(b.secondary)))
	})
	return all
}

// units returns the number of ranges with that mask in p.
func units(p netip.Prefix, mask int) int {
	if mask < p.Bits() {
		return 0
	}
	return 1 << (mask - p.Bits())
}

// part returns the mask of a zone's share of a secondary range.
func part(r netip.Prefix, zones int) int { return r.Bits() + log2(zones) }

// addresses returns the number of addresses in the vSwitches of the shape, with node vSwitches
// of that mask.
func (s shape) addresses(zones, node int) int {
	n := zones * (1<<(32-node) + s.k<<(32-s.unit))
	for _, r := range s.secondary {
		n += zones << (32 - part(r, zones))
	}
	return n
}

// plan converts the shape to a plan: zone by zone with the node vSwitch before the Pod
// vSwitches, or all node vSwitches before all Pod vSwitches.
func (b *builder) plan(s shape) *Plan {
	p := *b.base
	// Not a clone: an empty list would differ from the nil of a plan that was read from a file.
	p.VPC = VPC{CIDR: s.vpc, Secondary: append([]netip.Prefix(nil), s.secondary...)}
	p.Nodes.InstanceTypes = slices.Clone(p.Nodes.InstanceTypes)
	p.Avoid = slices.Clone(p.Avoid)
	if p.Name == "" {
		p.Name = nameOf("vpc", s.vpc)
	}
	node := s.first
	for node > s.node && 1<<(32-node)-4 < b.nodes {
		node--
	}
	step := 1 << (32 - s.unit)
	p.Zones = make([]Zone, len(b.base.Zones))
	for i, z := range b.base.Zones {
		start := i * (1 + s.k) * step
		pods := i*(1+s.k) + 1
		if s.front > 0 {
			start, pods = i<<(32-node), s.front+i*s.k
		}
		z.Node = vSwitch("node_switch", at(s.vpc, start, node))
		for end := pods + s.k; pods < end; {
			join := s.join(pods, end)
			z.Pods = append(z.Pods, vSwitch(podSwitch, at(s.vpc, pods*step, s.unit-join)))
			pods += 1 << join
		}
		for _, r := range s.secondary {
			mask := part(r, len(p.Zones))
			z.Pods = append(z.Pods, vSwitch(podSwitch, at(r, i<<(32-mask), mask)))
		}
		p.Zones[i] = z
	}
	return &p
}

// join returns how many units from start on can be joined: 2^join of them are one range of a
// valid vSwitch.
func (s shape) join(start, end int) int {
	join := 0
	for s.unit-join > vSwitchMaskMin && start%(2<<join) == 0 && start+2<<join <= end {
		join++
	}
	return join
}

func vSwitch(kind string, p netip.Prefix) VSwitch { return VSwitch{Name: nameOf(kind, p), CIDR: p} }

// nameOf returns a name with the range, in the form of the user guide:
// pod_switch_192_168_32_0_19.
func nameOf(kind string, p netip.Prefix) string {
	return kind + "_" + strings.NewReplacer(".", "_", "/", "_").Replace(p.String())
}

// noSpace explains why there was no candidate.
func (b *builder) noSpace() Problems {
	var ps Problems
	zones := len(b.base.Zones)
	if vpc := b.request.VPC; vpc.IsValid() {
		each := 1
		if b.base.Network == claims.NetworkTerway && zones <= units(vpc, vSwitchMaskMax) {
			each = 2 // the nodes fit, but there is no secondary range for the pods
		}
		ps.bad("vpc.cidr", vpc, "/%d or larger: %s", vSwitchMaskMax-log2(zones*each),
			fmt.Sprintf("%d zones need %d vSwitches, the smallest of which are /%d", zones, zones*each, vSwitchMaskMax))
		return ps
	}
	ps.bad("vpc.cidr", "", "ranges to avoid that leave a private range free for it: for %d zones /%d or larger", zones, vSwitchMaskMax-log2(2*zones))
	return ps
}
