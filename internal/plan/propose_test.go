package plan_test

import (
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"terway.dev/terway/internal/catalog"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/plan"
)

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
	}
}

func wish() plan.Request {
	return plan.Request{
		Zones: []string{"cn-hangzhou-i"},
		Nodes: plan.Nodes{Count: 3, InstanceTypes: []string{"ecs.g6.2xlarge"}},
		Types: catalog.Default(),
	}
}

func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func propose(t *testing.T, r plan.Request) *plan.Plan {
	t.Helper()
	p, err := plan.Propose(r)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestUserGuide: a request without wishes gives the table and the names of the user guide.
func TestUserGuide(t *testing.T) {
	p := propose(t, wish())
	row := []string{p.VPC.CIDR.String(), p.Zones[0].Node.CIDR.String(), p.Zones[0].Pods[0].CIDR.String(), p.ServiceCIDR.String()}
	if want := []string{"192.168.0.0/16", "192.168.0.0/19", "192.168.32.0/19", "172.21.0.0/20"}; !slices.Equal(row, want) {
		t.Errorf("the table is %v, want %v", row, want)
	}
	names := []string{p.Name, p.Zones[0].Node.Name, p.Zones[0].Pods[0].Name}
	if want := []string{"vpc_192_168_0_0_16", "node_switch_192_168_0_0_19", "pod_switch_192_168_32_0_19"}; !slices.Equal(names, want) {
		t.Errorf("the names are %v, want %v", names, want)
	}
}

// TestGolden: complete plan files. The ranges of two zones and of Flannel are those of the
// cloud's planning page.
func TestGolden(t *testing.T) {
	two := wish()
	two.Zones = append(two.Zones, "cn-hangzhou-j")
	flannel := wish()
	flannel.Network = claims.NetworkFlannel
	avoid := wish()
	avoid.Avoid = []netip.Prefix{pfx("192.168.0.0/16"), pfx("172.16.0.0/12"), pfx("10.0.0.0/12")}
	full := wish() // no secondary range while the VPC has room
	full.VPC, full.Nodes.Max = pfx("10.0.0.0/18"), 400
	beyond := wish()
	beyond.VPC, beyond.Nodes.Max = pfx("192.168.0.0/24"), 100
	for name, r := range map[string]plan.Request{
		"one-zone.yaml": wish(), "two-zones.yaml": two, "flannel.yaml": flannel, "avoid.yaml": avoid, "full.yaml": full, "secondary.yaml": beyond,
	} {
		data, err := propose(t, r).Marshal()
		if err != nil {
			t.Fatal(err)
		}
		golden(t, name, data)
	}
}

// TestFewVSwitches: no more Pod vSwitches than the nodes need: adjacent ranges are joined.
func TestFewVSwitches(t *testing.T) {
	r := wish()
	r.VPC, r.Zones = pfx("10.0.0.0/16"), []string{"cn-hangzhou-h", "cn-hangzhou-i", "cn-hangzhou-j"}
	for _, c := range []struct {
		nodes int
		pods  string
	}{
		{1000, "10.0.64.0/18"},
		// One of 16 /20 ranges is for the nodes; 667 nodes use 20010 addresses, which is 5
		// ranges.
		{2000, "10.0.16.0/20 10.0.32.0/19 10.0.64.0/19"},
	} {
		r.Nodes.Max = c.nodes
		var pods []string
		for _, v := range propose(t, r).Zones[0].Pods {
			pods = append(pods, v.CIDR.String())
		}
		if got := strings.Join(pods, " "); got != c.pods {
			t.Errorf("%d nodes: Pod vSwitches %s in a zone, want %s", c.nodes, got, c.pods)
		}
	}
}

// TestSmallestVPC: the VPC is larger than the recommended /16 only if no /16 is enough.
func TestSmallestVPC(t *testing.T) {
	for _, c := range []struct{ zones, nodes, mask int }{
		{1, 2000, 16}, {1, 2114, 15}, {3, 1000, 16}, {3, 2000, 16}, {3, 2114, 15}, {5, 3, 16}, {12, 3, 16}, {12, 1000, 16},
	} {
		r := wish()
		r.Zones, r.Nodes.Max = nil, c.nodes
		for i := range c.zones {
			r.Zones = append(r.Zones, "cn-hangzhou-"+string(rune('a'+i)))
		}
		if p := propose(t, r); p.VPC.CIDR.Bits() != c.mask || p.VPC.Secondary != nil {
			t.Errorf("%d zones, %d nodes: %s, %v, want a /%d", c.zones, c.nodes, p.VPC.CIDR, p.VPC.Secondary, c.mask)
		}
	}
}

// TestNodesAlone: if the nodes need a small VPC's whole range, pods get secondary ranges.
func TestNodesAlone(t *testing.T) {
	r := wish()
	r.VPC, r.Nodes.Max = pfx("172.30.0.0/22"), 1000
	p := propose(t, r)
	z := p.Zones[0]
	if z.Node.CIDR != r.VPC || len(p.VPC.Secondary) != 1 || len(z.Pods) != 1 || z.Pods[0].CIDR != p.VPC.Secondary[0] {
		t.Errorf("nodes %s, secondary ranges %v, pods %v; want %s for the nodes, one secondary range for the pods", z.Node.CIDR, p.VPC.Secondary, z.Pods, r.VPC)
	}
	r.Nodes.Max = 508
	if p := propose(t, r); p.Zones[0].Node.CIDR.Bits() != 23 || len(p.Zones[0].Pods) != 2 {
		t.Errorf("nodes %s, pods %v, want the VPC's range shared by both as long as it can be", p.Zones[0].Node.CIDR, p.Zones[0].Pods)
	}
}

// TestFlannelMask: the size of a node's block depends on its pods.
func TestFlannelMask(t *testing.T) {
	for pods, mask := range map[int]int{0: 26, 1: 28, 13: 28, 14: 27, 29: 27, 30: 26, 61: 26, 62: 25, 126: 24, 253: 24} {
		r := wish()
		r.Network, r.Nodes.PodsPerNode = claims.NetworkFlannel, pods
		if got := propose(t, r).NodeMask; got != mask {
			t.Errorf("%d pods on a node: a block of /%d, want /%d", pods, got, mask)
		}
	}
}

// TestTooBig: the error names the field of the request and the maximum that would fit.
func TestTooBig(t *testing.T) {
	for name, c := range map[string]struct {
		change      func(*plan.Request)
		field, want string
	}{
		"security group":  {func(r *plan.Request) { r.Nodes.Max = 3000 }, "nodes.max", "at most 2114: security group"},
		"route entries":   {func(r *plan.Request) { r.Network, r.Nodes.Max = claims.NetworkFlannel, 201 }, "nodes.max", "at most 200: route table"},
		"pods on a node":  {func(r *plan.Request) { r.Nodes.PodsPerNode = 31 }, "nodes.podsPerNode", "at most 30"},
		"flannel's block": {func(r *plan.Request) { r.Network, r.Nodes.PodsPerNode = claims.NetworkFlannel, 254 }, "nodes.podsPerNode", "at most 253"},
		"small VPC": {func(r *plan.Request) {
			r.VPC = pfx("10.0.0.0/28")
			r.Zones = append(r.Zones, "cn-hangzhou-j", "cn-hangzhou-k")
		}, "vpc.cidr", "/27 or larger: 3 zones need 3 vSwitches"},
		"small VPC and no other range": {func(r *plan.Request) {
			r.VPC, r.ServiceCIDR, r.Zones = pfx("10.0.0.0/28"), pfx("192.168.0.0/16"), append(r.Zones, "cn-hangzhou-j")
			r.Avoid = []netip.Prefix{pfx("172.16.0.0/12")}
			for bits := 9; bits <= 24; bits++ { // all of 10.0.0.0/8 but its first /24
				n := 1 << (32 - bits)
				r.Avoid = append(r.Avoid, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), 0}), bits))
			}
		}, "vpc.cidr", "/27 or larger: 2 zones need 4 vSwitches"},
		"no space": {func(r *plan.Request) { r.Avoid = []netip.Prefix{pfx("0.0.0.0/0")} }, "serviceCIDR", "ranges to avoid that leave"},
		"no space for the VPC": {func(r *plan.Request) {
			r.ServiceCIDR, r.Avoid = pfx("172.21.0.0/20"), []netip.Prefix{pfx("10.0.0.0/8"), pfx("192.168.0.0/16"), pfx("172.16.0.0/14"), pfx("172.20.0.0/16"), pfx("172.21.16.0/20"), pfx("172.21.32.0/19"), pfx("172.21.64.0/18"), pfx("172.21.128.0/17"), pfx("172.22.0.0/15"), pfx("172.24.0.0/13")}
		}, "vpc.cidr", "ranges to avoid that leave"},
		"no figures":           {func(r *plan.Request) { r.Nodes.InstanceTypes = []string{"ecs.g6r.large"} }, "nodes.podsPerNode", "a number"},
		"not in the catalogue": {func(r *plan.Request) { r.Nodes.InstanceTypes = []string{"ecs.g6.2xlrage"} }, "nodes.instanceTypes", "a type of the catalogue"},
		"no figures, prefixes": {func(r *plan.Request) {
			r.Nodes.InstanceTypes, r.Nodes.PodsPerNode, r.Prefixes = []string{"ecs.g6r.large"}, 10, true
		}, "nodes.instanceTypes", "a type whose ENIs"},
		"one ENI each": {func(r *plan.Request) { r.Mode, r.Nodes.PodsPerNode = claims.ModeExclusive, 4 }, "nodes.podsPerNode", "at most 3"},
	} {
		r := wish()
		c.change(&r)
		_, err := plan.Propose(r)
		var ps plan.Problems
		if !errors.As(err, &ps) || len(ps) != 1 || ps[0].Field != c.field || !strings.HasPrefix(ps[0].Want, c.want) {
			t.Errorf("%s: %v, want %s: %s…", name, err, c.field, c.want)
		}
	}
}

// types for the property tests: small, usual, many addresses, bare metal.
var types = []string{"ecs.g6.large", "ecs.g6.2xlarge", "ecs.g7.4xlarge", "ecs.ebmg6.26xlarge", "ecs.g8i.48xlarge"}

func drawRange(t *rapid.T, label string, minBits, maxBits int) netip.Prefix {
	pool := rapid.SampledFrom([]string{"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"}).Draw(t, label+" in")
	p := pfx(pool)
	bits := rapid.IntRange(max(minBits, p.Bits()), maxBits).Draw(t, label+" mask")
	a := p.Addr().As4()
	host := rapid.Uint32().Draw(t, label+" at") & (1<<(32-p.Bits()) - 1)
	n := uint32(a[0])<<24 | uint32(a[1])<<16 | uint32(a[2])<<8 | uint32(a[3]) | host
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}), bits).Masked()
}

func drawRequest(t *rapid.T) plan.Request {
	r := plan.Request{Types: catalog.Default()}
	for i := range rapid.IntRange(1, 12).Draw(t, "zones") {
		r.Zones = append(r.Zones, "cn-hangzhou-"+string(rune('a'+i)))
	}
	r.Network = rapid.SampledFrom([]string{claims.NetworkTerway, claims.NetworkTerway, claims.NetworkFlannel}).Draw(t, "network")
	if r.Network == claims.NetworkTerway {
		r.Mode = rapid.SampledFrom([]string{claims.ModeShared, claims.ModeExclusive}).Draw(t, "mode")
		r.Prefixes = r.Mode == claims.ModeShared && rapid.Bool().Draw(t, "prefixes")
	}
	r.Nodes.InstanceTypes = rapid.SliceOfNDistinct(rapid.SampledFrom(types), 1, 3, rapid.ID[string]).Draw(t, "types")
	r.Nodes.Count = rapid.IntRange(1, 50).Draw(t, "count")
	r.Nodes.Max = r.Nodes.Count + rapid.OneOf(rapid.IntRange(0, 200), rapid.IntRange(0, 30000)).Draw(t, "more")
	r.Nodes.PodsPerNode = rapid.SampledFrom([]int{0, 0, 1, 2, 5, 50, 120}).Draw(t, "pods")
	if rapid.Bool().Draw(t, "with VPC") {
		r.VPC = drawRange(t, "VPC", 8, 28)
	}
	if rapid.IntRange(0, 3).Draw(t, "with Service") == 0 {
		r.ServiceCIDR = drawRange(t, "Service", 16, 24)
	}
	for range rapid.IntRange(0, 6).Draw(t, "avoided") {
		r.Avoid = append(r.Avoid, drawRange(t, "avoid", 8, 24))
	}
	return r
}

// TestProposedIsRight: a proposal passes Check, follows the request, has no overlaps, and holds
// the requested nodes within all limits. If there is no proposal, the error says what would
// fit, and it does.
func TestProposedIsRight(t *testing.T) {
	proposed, refused := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		r := drawRequest(t)
		p, err := plan.Propose(r)
		if err != nil {
			refused++
			smallerFits(t, r, err)
			return
		}
		proposed++
		if ps := plan.Check(p, r.Types); len(ps) > 0 {
			t.Fatalf("the proposal does not pass: %v", plan.Problems(ps))
		}
		obeys(t, r, p)
		needsTheVPC(t, r, p)
		capacity := plan.Measure(p, r.Types)
		withinLimits(t, p, capacity)
		byHand(t, p, capacity)
	})
	if proposed == 0 || refused == 0 {
		t.Errorf("%d proposed, %d refused: want both", proposed, refused)
	}
}

func smallerFits(t *rapid.T, r plan.Request, err error) {
	var ps plan.Problems
	if !errors.As(err, &ps) || len(ps) == 0 {
		t.Fatalf("an error without problems: %v", err)
	}
	if len(ps) > 1 || ps[0].Field != "nodes.max" {
		return
	}
	digits, _, _ := strings.Cut(strings.TrimPrefix(ps[0].Want, "at most "), ":")
	n, err := strconv.Atoi(digits)
	if err != nil {
		t.Fatalf("no number in %v", ps)
	}
	if n == 0 {
		return
	}
	r.Nodes.Max, r.Nodes.Count = n, min(n, r.Nodes.Count)
	if _, err := plan.Propose(r); err != nil {
		t.Fatalf("%v; with %d nodes: %v", ps, n, err)
	}
}

func obeys(t *rapid.T, r plan.Request, p *plan.Plan) {
	if r.VPC.IsValid() && p.VPC.CIDR != r.VPC || r.ServiceCIDR.IsValid() && p.ServiceCIDR != r.ServiceCIDR {
		t.Fatalf("VPC %s, Service %s; wished for %s, %s", p.VPC.CIDR, p.ServiceCIDR, r.VPC, r.ServiceCIDR)
	}
	outside := append([]netip.Prefix{p.VPC.CIDR, p.ServiceCIDR}, p.VPC.Secondary...)
	if p.PodCIDR.IsValid() {
		outside = append(outside, p.PodCIDR)
	}
	var inside []netip.Prefix
	for _, z := range p.Zones {
		inside = append(inside, z.Node.CIDR)
		for _, v := range z.Pods {
			inside = append(inside, v.CIDR)
		}
	}
	for _, set := range [][]netip.Prefix{inside, outside} {
		for i, a := range set {
			for _, b := range set[:i] {
				if a.Overlaps(b) {
					t.Fatalf("%s overlaps %s", a, b)
				}
			}
		}
	}
	for _, a := range r.Avoid {
		for _, o := range append(outside, inside...) {
			if a.Overlaps(o) {
				t.Fatalf("%s overlaps %s, which is to be avoided", o, a)
			}
		}
	}
}

// needsTheVPC: half of a VPC range larger than /16 would not be enough.
func needsTheVPC(t *rapid.T, r plan.Request, p *plan.Plan) {
	if r.VPC.IsValid() || p.VPC.CIDR.Bits() >= 16 {
		return
	}
	r.VPC = netip.PrefixFrom(p.VPC.CIDR.Addr(), p.VPC.CIDR.Bits()+1)
	if half, err := plan.Propose(r); err == nil && len(half.VPC.Secondary) == 0 {
		t.Fatalf("the VPC is %s, though %s would do", p.VPC.CIDR, r.VPC)
	}
}

func withinLimits(t *rapid.T, p *plan.Plan, c plan.Capacity) {
	if c.LargestNodes.N < p.Nodes.Max && p.Nodes.Max*c.AddressesPerNode.N <= 60_000 {
		t.Fatalf("the largest cluster has %v nodes, %d were wished for", c.LargestNodes, p.Nodes.Max)
	}
	// At the maximum size no vSwitch uses more addresses than it has.
	grown := *p
	grown.Nodes.Max = c.LargestNodes.N
	taken := 0
	for _, u := range plan.Measure(&grown, catalog.Default()).VSwitches {
		if u.Max.N > u.Usable {
			t.Fatalf("%s holds %d addresses, %v are taken", u.Name, u.Usable, u.Max)
		}
		taken += u.Max.N
	}
	holds := map[string]int{plan.GroupNormal: 2000, plan.GroupEnterprise: 65536}[p.SecurityGroup]
	if taken > min(holds, 60_000) {
		t.Fatalf("%d addresses are taken, %d at most", taken, min(holds, 60_000))
	}
	if p.Network == claims.NetworkFlannel && c.LargestNodes.N > 200 {
		t.Fatalf("%v nodes, and a route table of 200 entries", c.LargestNodes)
	}
}

// byHand computes the largest cluster's addresses independently, type by type, from the
// catalogue and the user guide's formulas.
func byHand(t *rapid.T, p *plan.Plan, c plan.Capacity) {
	if p.Network == claims.NetworkFlannel {
		return
	}
	nodes, zones := c.LargestNodes.N, len(p.Zones)
	for _, name := range p.Nodes.InstanceTypes {
		typ, _ := catalog.Lookup(name)
		enis, each := typ.ENIs.N-1, typ.IPv4PerENI.N
		holds := enis * each
		switch {
		case p.Mode == claims.ModeExclusive:
			holds = enis
		case p.Prefixes:
			holds = enis * (each - 1) * 16
		}
		pods, addresses := holds, holds
		if want := p.Nodes.PodsPerNode; want > 0 {
			pods, addresses = min(want, holds), min(want+8, holds)
		}
		if c.PodsPerNode.N > pods {
			t.Fatalf("%d pods on a node, %s holds %d", c.PodsPerNode.N, name, pods)
		}
		if p.Prefixes {
			blocks := (addresses + 15) / 16
			addresses = blocks*16 + (blocks+each-2)/(each-1)
		}
		if all := nodes * (1 + addresses); all > 60_000 || all > map[string]int{plan.GroupNormal: 2000, plan.GroupEnterprise: 65536}[p.SecurityGroup] {
			t.Fatalf("%d nodes of %s have %d addresses: more than a VPC or the %s security group holds", nodes, name, all, p.SecurityGroup)
		}
		for i, z := range p.Zones {
			inZone, room := (nodes+zones-1-i)/zones, 0
			for _, v := range z.Pods {
				room += 1<<(32-v.CIDR.Bits()) - 4
			}
			if inZone*addresses > room || inZone > 1<<(32-z.Node.CIDR.Bits())-4 {
				t.Fatalf("%s: %d nodes of %s take %d addresses, the Pod vSwitches have %d, the node vSwitch is %s",
					z.ID, inZone, name, inZone*addresses, room, z.Node.CIDR)
			}
		}
	}
}

// footprint returns what a plan uses: addresses of the VPC, of vSwitches, of the security
// group.
func footprint(p *plan.Plan) [3]int {
	size := func(q netip.Prefix) int { return 1 << (32 - q.Bits()) }
	f := [3]int{size(p.VPC.CIDR), 0, map[string]int{plan.GroupNormal: 0, plan.GroupEnterprise: 1}[p.SecurityGroup]}
	for _, s := range p.VPC.Secondary {
		f[0] += size(s)
	}
	for _, z := range p.Zones {
		f[1] += size(z.Node.CIDR)
		for _, v := range z.Pods {
			f[1] += size(v.CIDR)
		}
	}
	return f
}

// TestMonotone: more nodes never get a smaller network, and if a larger request is possible, so
// is a smaller one.
func TestMonotone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := drawRequest(t)
		small, smallErr := plan.Propose(r)
		r.Nodes.Max += rapid.SampledFrom([]int{1, 1, 10, 1000}).Draw(t, "growth")
		large, err := plan.Propose(r)
		switch {
		case err != nil:
			return
		case smallErr != nil:
			t.Fatalf("%d nodes fit, fewer do not: %v", r.Nodes.Max, smallErr)
		}
		notLess(t, small, large)
	})
}

func notLess(t rapid.TB, small, large *plan.Plan) {
	t.Helper()
	a, b := footprint(small), footprint(large)
	for i, what := range []string{"VPC", "vSwitches", "security group"} {
		if b[i] < a[i] {
			t.Fatalf("%s: %d for %d nodes, %d for %d", what, a[i], small.Nodes.Max, b[i], large.Nodes.Max)
		}
	}
}

// TestGrowth is TestMonotone in single steps until ranges are full: in a given VPC, and with
// few free ranges.
func TestGrowth(t *testing.T) {
	for name, c := range map[string]struct {
		zones int
		vpc   string
		avoid []netip.Prefix
	}{
		"one zone":            {1, "10.0.0.0/18", nil},
		"three zones":         {3, "10.0.0.0/18", nil},
		"five zones":          {5, "192.168.0.0/16", nil},
		"one zone, no VPC":    {1, "", nil},
		"three zones, no VPC": {3, "", nil},
		"seven zones, no VPC": {7, "", nil},
		"few free ranges":     {2, "", []netip.Prefix{pfx("192.168.0.0/17"), pfx("10.0.0.0/8"), pfx("172.32.0.0/11"), pfx("172.16.0.0/13"), pfx("172.24.0.0/14")}},
	} {
		r := wish()
		r.Avoid = c.avoid
		if c.vpc != "" {
			r.VPC = pfx(c.vpc)
		}
		for i := 1; i < c.zones; i++ {
			r.Zones = append(r.Zones, "cn-hangzhou-"+string(rune('j'+i)))
		}
		var last *plan.Plan
		sizes := map[[3]int]bool{}
		for n := 3; ; n += 1 + n/50 {
			r.Nodes.Max = n
			p, err := plan.Propose(r)
			if err != nil {
				break
			}
			if last != nil {
				notLess(t, last, p)
			}
			last, sizes[footprint(p)] = p, true
		}
		if len(sizes) < 4 {
			t.Errorf("%s: it grows in %d steps up to %d nodes", name, len(sizes), last.Nodes.Max)
		}
	}
}
