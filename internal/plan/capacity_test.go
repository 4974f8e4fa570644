package plan_test

import (
	"strings"
	"testing"

	"terway.dev/terway/internal/catalog"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/plan"
)

// TestPodsPerNode compares with the user guide's formulas, and for prefixes with numbers
// computed by hand: ecs.g6.2xlarge has 4 ENIs with 10 addresses.
func TestPodsPerNode(t *testing.T) {
	c := plan.Measure(propose(t, wish()), catalog.Default())
	want := plan.TypeCapacity{
		Name:   "ecs.g6.2xlarge",
		Shared: catalog.Of((4 - 1) * 10), Prefixes: catalog.Of((4 - 1) * (10 - 1) * 16), Exclusive: catalog.Of(4 - 1),
		Here: catalog.Of(30),
	}
	if c.Types[0] != want {
		t.Errorf("got %+v, want %+v", c.Types[0], want)
	}
}

// TestCapacity: which limit is the lowest.
func TestCapacity(t *testing.T) {
	for name, c := range map[string]struct {
		change      func(*plan.Request)
		each, nodes int
		by          string
	}{
		// 30 pods use 30 addresses (an ENI's primary address serves a pod), the node one more:
		// 2000 / 31.
		"shared": {func(*plan.Request) {}, 31, 64, "security group, normal"},
		// 8188 usable addresses / 30.
		"shared, later 100": {func(r *plan.Request) { r.Nodes.Max = 100 }, 31, 272, "Pod vSwitch pod_switch_192_168_32_0_19"},
		// 60000 / 31; the security group alone would hold 2114.
		"shared, later 2000": {func(r *plan.Request) { r.Nodes.Max = 2000 }, 31, 1935, "private addresses of a VPC, by default"},
		// 10 pods and a pool of 8 on two ENIs.
		"few pods": {func(r *plan.Request) { r.Nodes.PodsPerNode = 10 }, 19, 105, "security group, normal"},
		// Three ENIs with an address each, and the node's own.
		"exclusive": {func(r *plan.Request) { r.Mode = claims.ModeExclusive }, 4, 500, "security group, normal"},
		// 27 prefixes of 16 on three ENIs with their own addresses, and the node's own.
		"prefixes": {func(r *plan.Request) { r.Prefixes = true }, 27*16 + 3 + 1, 4, "security group, normal"},
		// 510 whole blocks / 27 = 18.
		"prefixes, later 5": {func(r *plan.Request) { r.Prefixes, r.Nodes.Max = true, 5 }, 436, 18, "Pod vSwitch pod_switch_192_168_32_0_19"},
		"flannel":           {func(r *plan.Request) { r.Network = claims.NetworkFlannel }, 1, 200, "route table of the VPC"},
		"flannel, small range": {func(r *plan.Request) {
			r.Network, r.PodCIDR, r.Nodes.PodsPerNode = claims.NetworkFlannel, pfx("10.9.0.0/20"), 200
		}, 1, 16, "pod CIDR 10.9.0.0/20 in blocks of /24"},
	} {
		r := wish()
		c.change(&r)
		got := plan.Measure(propose(t, r), r.Types)
		if got.AddressesPerNode != catalog.Of(c.each) || got.LargestNodes != catalog.Of(c.nodes) || got.LimitedBy != c.by {
			t.Errorf("%s: %v addresses a node, %v nodes by %q; want %d, %d by %q",
				name, got.AddressesPerNode, got.LargestNodes, got.LimitedBy, c.each, c.nodes, c.by)
		}
		if want := got.LargestNodes.N * got.PodsPerNode.N; got.LargestPods != catalog.Of(want) {
			t.Errorf("%s: %v pods in all, want %d", name, got.LargestPods, want)
		}
	}
}

// TestSpread: two zones share the nodes, and the first has one more.
func TestSpread(t *testing.T) {
	r := wish()
	r.Zones = append(r.Zones, "cn-hangzhou-j")
	c := plan.Measure(propose(t, r), r.Types)
	var now []int
	for _, u := range c.VSwitches {
		now = append(now, u.Now.N)
	}
	if len(now) != 4 || now[0] != 2 || now[1] != 60 || now[2] != 1 || now[3] != 30 {
		t.Errorf("taken now: %v, want [2 60 1 30]", now)
	}
	// 272 in each zone; one more would be in the first.
	for _, l := range c.Limits {
		if l.Name == "Pod vSwitch pod_switch_192_168_32_0_19" && l.Nodes != catalog.Of(544) {
			t.Errorf("%s ends at %v nodes, want 544", l.Name, l.Nodes)
		}
	}
}

// TestNotes: a note appears where it applies, and nowhere else.
func TestNotes(t *testing.T) {
	pods := func(cidr string) func(*plan.Plan) {
		return func(p *plan.Plan) { p.Zones[0].Pods[0].CIDR = pfx(cidr) }
	}
	for _, c := range []struct {
		name   string
		change func(*plan.Plan)
		want   string // empty: no note
	}{
		{"the user guide's", func(*plan.Plan) {}, ""},
		{"not in the catalogue", func(p *plan.Plan) { p.Nodes.InstanceTypes[0] = "ecs.none.large" }, "ecs.none.large is not in the catalogue"},
		{"no figures", func(p *plan.Plan) { p.Nodes.InstanceTypes[0] = "ecs.g6r.2xlarge" }, "no figures for ecs.g6r.2xlarge"},
		{"below the recommendation", func(p *plan.Plan) { p.Nodes.InstanceTypes[0] = "ecs.g6.xlarge" }, "ecs.g6.xlarge: nodes with 8 vCPUs or more, of generation 5 or later, are recommended"},
		{"105 pods", func(p *plan.Plan) { p.Nodes.InstanceTypes[0] = "ecs.g7.3xlarge" }, ""},
		{"140 pods", func(p *plan.Plan) { p.Nodes.InstanceTypes[0] = "ecs.g6.4xlarge" }, "a kubelet runs 110 pods"},
		{"60000 addresses", func(p *plan.Plan) { p.Nodes.Max = 1935 }, ""},
		{"60016 addresses", func(p *plan.Plan) { p.Nodes.Max = 1936 }, "1936 full nodes take 60016 private addresses; a VPC has 60000"},
		{"prefixes", func(p *plan.Plan) { p.Prefixes = true }, "takes no prefixes yet"},
		{"a /25 for pods", pods("192.168.32.0/25"), ""},
		{"a /26 for pods", pods("192.168.32.0/26"), "Pod vSwitch pod_switch_192_168_32_0_19 is small"},
		{"a large VPC", func(p *plan.Plan) { p.VPC.CIDR = pfx("192.168.0.0/15") }, "the VPC's range is a /15: /16 to /28 is recommended"},
	} {
		p := propose(t, wish())
		c.change(p)
		notes := strings.Join(plan.Measure(p, catalog.Default()).Notes, "\n")
		if c.want == "" && notes != "" || !strings.Contains(notes, c.want) {
			t.Errorf("%s: notes %q, want %q", c.name, notes, c.want)
		}
	}
}

// TestUnknown: numbers without a source are not guessed.
func TestUnknown(t *testing.T) {
	p := propose(t, wish())
	p.Nodes.InstanceTypes = []string{"ecs.g6.2xlarge", "ecs.g6r.large"} // without addresses per ENI
	if ps := plan.Check(p, catalog.Default()); len(ps) > 0 {
		t.Errorf("a type without figures is refused: %v", ps)
	}
	c := plan.Measure(p, catalog.Default())
	if c.Types[1].Here.Known || c.PodsPerNode.Known || c.AddressesPerNode.Known || c.LargestNodes.Known || c.LargestPods.Known || c.LimitedBy != "" {
		t.Errorf("known: %+v", c)
	}
	for _, u := range c.VSwitches {
		if u.Pods && (u.Now.Known || u.Max.Known) {
			t.Errorf("known: %+v", u)
		}
	}
	if len(c.Notes) == 0 {
		t.Error("no note says so")
	}
	p.Nodes.InstanceTypes = []string{"ecs.g6r.large"}
	p.Mode = claims.ModeExclusive
	if c := plan.Measure(p, catalog.Default()); !c.Types[0].Here.Known {
		t.Errorf("the ENIs of ecs.g6r.large are known, and so are its exclusive pods: %+v", c.Types[0])
	}
}
