package plan

import (
	"cmp"
	"net/netip"
	"slices"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/zone"
)

// Request is what a user requests. Fields that are not set are chosen.
type Request struct {
	// Name of the VPC; empty: derived from its range.
	Name string
	// Region; empty: the region of the first zone.
	Region string
	Zones  []string
	// Network and Mode; empty: claims.NetworkTerway with claims.ModeShared.
	Network  string
	Mode     string
	Prefixes bool
	// Nodes; Max 0: as many as Count.
	Nodes Nodes
	// Ranges; zero: chosen. PodCIDR is for Flannel.
	VPC, ServiceCIDR, PodCIDR netip.Prefix
	// Avoid are ranges that the plan must not overlap.
	Avoid []netip.Prefix
	Types Catalog
}

// The ranges to try first, from the user guide and the cloud's planning page.
var (
	firstServices = []netip.Prefix{netip.MustParsePrefix("172.21.0.0/20"), netip.MustParsePrefix("172.19.0.0/20")}
	firstPods     = netip.MustParsePrefix("172.20.0.0/16")
)

// The masks of a proposal before they are adapted.
const (
	firstVPCMask     = 16
	firstSwitchMask  = 19
	firstFlannelMask = 24 // for the node vSwitch
	firstServiceMask = 20
)

// Propose makes a plan that passes Check and has room for Nodes.Max nodes. It tries candidates
// in order of their size and returns the first that fits, so more nodes never get a smaller
// network. The error is a Problems that says which part of the request is invalid or too big,
// and what would fit.
func Propose(r Request) (*Plan, error) {
	p, ps := skeleton(r)
	if len(ps) > 0 {
		return nil, ps
	}
	b := builder{request: r, base: p, nodes: ceil(p.Nodes.Max, len(p.Zones))}
	most, best := -1, Problem{}
	for c := range b.candidates {
		problems := Check(c, r.Types)
		if len(problems) == 0 {
			return c, nil
		}
		if l := tightest(Measure(c, r.Types).Limits); l.Nodes.N > most {
			most, best = l.Nodes.N, tooMany(p, l)
		}
	}
	if most < 0 {
		return nil, b.noSpace()
	}
	return nil, Problems{best}
}

// tightest returns the lowest limit. All limits are known.
func tightest(limits []Limit) Limit {
	return slices.MinFunc(slices.DeleteFunc(slices.Clone(limits), func(l Limit) bool { return l.Quota }),
		func(a, b Limit) int { return cmp.Compare(a.Nodes.N, b.Nodes.N) })
}

// skeleton returns the plan without VPC and vSwitches, or the problems of the request.
func skeleton(r Request) (*Plan, Problems) {
	p := &Plan{
		Version: Version, Name: r.Name, Region: r.Region, Network: r.Network, Mode: r.Mode, Prefixes: r.Prefixes,
		VPC: VPC{CIDR: r.VPC}, Nodes: r.Nodes, ServiceCIDR: r.ServiceCIDR, PodCIDR: r.PodCIDR,
		SecurityGroup: GroupNormal, Avoid: slices.Clone(r.Avoid),
	}
	p.Nodes.InstanceTypes = slices.Clone(r.Nodes.InstanceTypes)
	if p.Region == "" && len(r.Zones) > 0 {
		p.Region = zone.Region(r.Zones[0])
	}
	if p.Network == "" {
		p.Network = claims.NetworkTerway
	}
	if p.Mode == "" && p.Network == claims.NetworkTerway {
		p.Mode = claims.ModeShared
	}
	if p.Nodes.Max == 0 {
		p.Nodes.Max = p.Nodes.Count
	}
	for _, z := range r.Zones {
		p.Zones = append(p.Zones, Zone{ID: z})
	}
	if p.Network == claims.NetworkFlannel {
		p.NodeMask = maskFor(p.Nodes.PodsPerNode)
	}
	c := checker{p: p, types: r.Types}
	c.wishes()
	if len(c.Problems) > 0 {
		return nil, c.Problems
	}
	d := demandOf(p, r.Types)
	if !d.known {
		return nil, unknownDemand(p, r.Types)
	}
	if p.Nodes.Max > groupNormalHolds/(1+d.total()) {
		p.SecurityGroup = GroupEnterprise
	}
	return p, p.chooseRanges()
}

// wishes checks a request by the rules for a plan.
func (c *checker) wishes() {
	p := c.p
	if p.Name != "" {
		c.planName()
	}
	noRegion := len(p.Zones) > 0 && p.Region == "" // the region is not set, and the first zone does not imply one
	if len(p.Zones) > 0 && !noRegion && !word(p.Region) {
		c.bad("region", quoted(p.Region), "a region such as cn-hangzhou")
	}
	c.network()
	c.nodes()
	if noRegion {
		c.bad("zones[0].id", quoted(p.Zones[0].ID), "a zone such as cn-hangzhou-i")
	} else {
		c.zones()
	}
	if n := len(p.Zones); n > maxVSwitches/2 {
		c.bad("zones", n, "at most %d: a VPC has %d vSwitches, and a zone needs two", maxVSwitches/2, maxVSwitches)
	}
	var ranges []named
	if p.VPC.CIDR.IsValid() {
		c.vpcRange("vpc.cidr", p.VPC.CIDR)
		ranges = append(ranges, named{"vpc.cidr", p.VPC.CIDR})
	}
	if p.ServiceCIDR.IsValid() {
		c.service()
		ranges = append(ranges, named{"serviceCIDR", p.ServiceCIDR})
	}
	if p.PodCIDR.IsValid() && p.Network == claims.NetworkFlannel {
		c.podRange()
		ranges = append(ranges, named{"podCIDR", p.PodCIDR})
	}
	c.apart(ranges)
	c.avoids(ranges)
}

// unknownDemand reports the types whose numbers are needed and unknown.
func unknownDemand(p *Plan, types Catalog) Problems {
	var ps Problems
	for _, name := range p.Nodes.InstanceTypes {
		t, listed := types.Lookup(name)
		switch {
		case demandOfType(p, t).known:
		case !listed && !p.Prefixes:
			ps.bad("nodes.instanceTypes", name, "a type of the catalogue (terwayctl instance-types lists them), or nodes.podsPerNode with one that it does not have")
		case p.Prefixes:
			ps.bad("nodes.instanceTypes", name, "a type whose ENIs and addresses the catalogue knows: how many prefixes it takes is unknown")
		default:
			ps.bad("nodes.podsPerNode", p.Nodes.PodsPerNode, "a number: the catalogue does not know how many pods %s holds", name)
		}
	}
	return ps
}

// chooseRanges chooses the Service range, and Flannel's pod range, if they are not requested.
func (p *Plan) chooseRanges() Problems {
	var ps Problems
	if !p.ServiceCIDR.IsValid() && !p.chooseService() {
		ps.bad("serviceCIDR", "", "ranges to avoid that leave a private /%d free for it", serviceMaskMax)
	}
	if p.Network == claims.NetworkFlannel && !p.PodCIDR.IsValid() && !p.choosePods() {
		ps.bad("podCIDR", "", "ranges to avoid that leave a private /%d free for it", podMaskMax)
	}
	return ps
}

// taken are the ranges that the next chosen range may not overlap.
func (p *Plan) taken() []netip.Prefix {
	return append(slices.Clone(p.Avoid), p.VPC.CIDR, p.ServiceCIDR, p.PodCIDR)
}

// chooseService prefers a range that VPCs rarely use: one in 172.16.0.0/12, otherwise the top
// of another, so that the rest stays in one piece.
func (p *Plan) chooseService() bool {
	taken := p.taken()
	pools := []netip.Prefix{private172, private10, private192}
	ok := false
	if p.ServiceCIDR, ok = free(firstServices, firstServiceMask, taken); ok {
		return true
	}
	for bits := firstServiceMask; bits <= serviceMaskMax && !ok; bits++ {
		p.ServiceCIDR, ok = freeHigh(pools, bits, taken)
	}
	return ok
}

func (p *Plan) choosePods() bool {
	taken := p.taken()
	ok := false
	if p.PodCIDR, ok = free([]netip.Prefix{firstPods, private172, private10}, firstPods.Bits(), taken); ok {
		return true
	}
	p.PodCIDR, ok = largest([]netip.Prefix{private10, private192}, firstPods.Bits(), podMaskMax, taken)
	return ok
}

// maskFor returns the mask of the smallest block that holds so many pods; the default for 0,
// and the largest block if none holds them.
func maskFor(pods int) int {
	if pods == 0 {
		return nodeMaskDefault
	}
	for mask := nodeMaskMax; mask > nodeMaskMin; mask-- {
		if blockHolds(mask) >= pods {
			return mask
		}
	}
	return nodeMaskMin
}
