package plan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"terway.dev/terway/internal/datapath/claims"
)

// builder lays the zones of a plan out in ranges.
type builder struct {
	request Request
	base    *Plan // everything but VPC and vSwitches
	nodes   int   // of the fullest zone
	// least is how many addresses the vSwitches of the candidates so far may have, and
	// the next must.
	least int
}

// shape is a candidate: each zone has a node vSwitch, at most a unit, and k units
// for its pods in the VPC's range, and a Pod vSwitch in each secondary one. k is 0 only
// where there are secondary ranges. Units side by side are one Pod vSwitch where they can be.
type shape struct {
	vpc       netip.Prefix
	secondary []netip.Prefix
	unit, k   int // the unit's mask, units for a zone's pods
	// node is the mask of the largest node vSwitch for which there is room, first that
	// of the one for few nodes.
	node, first int
	// front is how many units the node vSwitches share where there is not one for each
	// of them; 0: each is before the Pod vSwitches of its zone.
	front int
}

// Shapes that leave the VPC's range mostly free, in order of size.
var usual = []struct{ unit, k int }{{19, 1}, {18, 1}, {17, 1}, {16, 1}, {16, 2}, {16, 3}}

// mostUnits is how many units in one range the pods of a zone have at most.
const mostUnits = 15

// candidates gives plans in order of the addresses they take.
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

// larger is a range for the VPC that is twice as large. Flannel's nodes need none.
func (b *builder) larger(vpc netip.Prefix, taken []netip.Prefix) (netip.Prefix, bool) {
	if vpc.Bits() == vpcMaskMin || b.base.Network == claims.NetworkFlannel {
		return netip.Prefix{}, false
	}
	return free(privateRanges(), vpc.Bits()-1, taken)
}

// within gives the candidates for one VPC range, those with secondary ranges only if
// more says so. It reports whether to go on.
func (b *builder) within(vpc netip.Prefix, more bool, yield func(*Plan) bool) bool {
	zones := len(b.base.Zones)
	if b.base.Network == claims.NetworkFlannel {
		unit := max(firstFlannelMask, vpc.Bits()+log2(zones))
		if s, ok := newShape(vpc, zones, unit, 0, unit); ok && s.front == 0 {
			return yield(b.plan(s))
		}
		return true
	}
	// In a small range the vSwitches are in proportion: an eighth of it each, or less
	// for many zones.
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

// newShape is the shape with k units for the pods of each zone, if there is room. Where
// what they leave is less than a unit for each zone, the node vSwitches share it.
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

// full are shapes that use the VPC's whole range, and then secondary ones too, in
// order of size; of equal ones that with the fewest units first. Last of them is
// that whose Pod vSwitches are in secondary ranges alone.
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
			break // as many as are allowed would leave much of the range free, and come first for it
		}
		fills := []int{fill}
		if shared := (units(vpc, unit) - 1) / zones; shared > max(0, fill) {
			fills = append(fills, shared) // the node vSwitches share what is left
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

// plan is the shape as a plan: zone by zone, the node vSwitch before the Pod vSwitches,
// or all node vSwitches before all those of the pods.
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

// join says how the units from start to end begin: 2^join of them are one range that a
// vSwitch may have.
func (s shape) join(start, end int) int {
	join := 0
	for s.unit-join > vSwitchMaskMin && start%(2<<join) == 0 && start+2<<join <= end {
		join++
	}
	return join
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
