package plan_test

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"terway.dev/terway/internal/catalog"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/plan"
)

// TestRules breaks one rule at a time. Every problem has field, value, and what would be right.
func TestRules(t *testing.T) {
	sw := func(cidr string) plan.VSwitch { return plan.VSwitch{Name: "v " + cidr, CIDR: pfx(cidr)} }
	for _, c := range []struct {
		name                string
		change              func(*plan.Plan)
		field, value, wants string
	}{
		{"version", func(p *plan.Plan) { p.Version = 2 }, "version", "2", "1"},
		{"no name", func(p *plan.Plan) { p.Name = "" }, "name", "", "2 to 128 letters"},
		{"name like an address", func(p *plan.Plan) { p.Name = "http://x" }, "name", `"http://x"`, "2 to 128 letters"},
		{"name of one letter", func(p *plan.Plan) { p.Name = "x" }, "name", `"x"`, "2 to 128 letters"},
		{"long name", func(p *plan.Plan) { p.Name = strings.Repeat("x", 129) }, "name", `"` + strings.Repeat("x", 59) + "…", "2 to 128 letters"},
		{"name that begins with a digit", func(p *plan.Plan) { p.Name = "1shop" }, "name", `"1shop"`, "the first is a letter"},
		{"name with a space", func(p *plan.Plan) { p.Name = "my shop" }, "name", `"my shop"`, "2 to 128 letters"},
		{"name that is the cloud's", func(p *plan.Plan) { p.Name = "aliyun-shop" }, "name", `"aliyun-shop"`, "acs: or aliyun"},
		{"vSwitch without a name", func(p *plan.Plan) { p.Zones[0].Node.Name = "" }, "zones[0].node.name", "", "1 to 128 characters"},
		{"vSwitch named like an address", func(p *plan.Plan) { p.Zones[0].Node.Name = "http://x" }, "zones[0].node.name", `"http://x"`, "not begin with"},
		{"no region", func(p *plan.Plan) { p.Region = "" }, "region", "", "cn-hangzhou"},
		{"network", func(p *plan.Plan) { p.Network = "calico" }, "network", `"calico"`, "terway or flannel"},
		{"mode", func(p *plan.Plan) { p.Mode = "ipvlan" }, "mode", `"ipvlan"`, "shared or exclusive"},
		{"prefixes of exclusive ENIs", func(p *plan.Plan) { p.Mode, p.Prefixes = claims.ModeExclusive, true }, "prefixes", "true", "false"},
		{"pod range without Flannel", func(p *plan.Plan) { p.PodCIDR = pfx("172.20.0.0/16") }, "podCIDR", "172.20.0.0/16", "nothing"},
		{"node mask without Flannel", func(p *plan.Plan) { p.NodeMask = 26 }, "nodeMask", "26", "nothing"},
		{"security group", func(p *plan.Plan) { p.SecurityGroup = "basic" }, "securityGroup", `"basic"`, "normal or enterprise"},

		{"no VPC range", func(p *plan.Plan) { p.VPC.CIDR = netip.Prefix{} }, "vpc.cidr", "", "a range such as"},
		{"host bits", func(p *plan.Plan) { p.VPC.CIDR = pfx("192.168.1.0/16") }, "vpc.cidr", "192.168.1.0/16", "192.168.0.0/16"},
		{"IPv6", func(p *plan.Plan) { p.VPC.CIDR = pfx("fd00::/56") }, "vpc.cidr", "fd00::/56", "an IPv4 range"},
		{"carrier-grade NAT", func(p *plan.Plan) { p.VPC.Secondary = []netip.Prefix{pfx("100.64.0.0/16")} }, "vpc.secondary[0]", "100.64.0.0/16", "inside 10.0.0.0/8"},
		{"loopback", func(p *plan.Plan) { p.VPC.Secondary = []netip.Prefix{pfx("127.0.0.0/16")} }, "vpc.secondary[0]", "127.0.0.0/16", "inside 10.0.0.0/8"},
		{"link-local", func(p *plan.Plan) { p.VPC.Secondary = []netip.Prefix{pfx("169.254.0.0/16")} }, "vpc.secondary[0]", "169.254.0.0/16", "inside 10.0.0.0/8"},
		{"multicast", func(p *plan.Plan) { p.VPC.Secondary = []netip.Prefix{pfx("224.0.0.0/8")} }, "vpc.secondary[0]", "224.0.0.0/8", "inside 10.0.0.0/8"},
		{"VPC mask", func(p *plan.Plan) { p.VPC.Secondary = []netip.Prefix{pfx("10.0.0.0/29")} }, "vpc.secondary[0]", "10.0.0.0/29", "from /8 to /28"},
		{"six secondary ranges", func(p *plan.Plan) {
			for i := range 6 {
				p.VPC.Secondary = append(p.VPC.Secondary, pfx(fmt.Sprintf("10.%d.0.0/16", i)))
			}
		}, "vpc.secondary", "6 ranges", "at most 5"},
		{"secondary range twice", func(p *plan.Plan) { p.VPC.Secondary = []netip.Prefix{pfx("192.168.0.0/20")} }, "vpc.secondary[0]", "192.168.0.0/20", "not overlap vpc.cidr"},

		{"no nodes", func(p *plan.Plan) { p.Nodes.Count = 0 }, "nodes.count", "0", "1 or more"},
		{"fewer later", func(p *plan.Plan) { p.Nodes.Max = 2 }, "nodes.max", "2", "nodes.count (3)"},
		{"pods below zero", func(p *plan.Plan) { p.Nodes.PodsPerNode = -1 }, "nodes.podsPerNode", "-1", "1 or more"},
		{"pods above the type", func(p *plan.Plan) { p.Nodes.PodsPerNode = 31 }, "nodes.podsPerNode", "31", "at most 30"},
		{"no type", func(p *plan.Plan) { p.Nodes.InstanceTypes = nil }, "nodes.instanceTypes", "", "at least one"},
		{"not a type", func(p *plan.Plan) { p.Nodes.InstanceTypes[0] = "m5.large" }, "nodes.instanceTypes[0]", `"m5.large"`, "ecs.g6.2xlarge"},
		{"a family", func(p *plan.Plan) { p.Nodes.InstanceTypes[0] = "ecs.g6" }, "nodes.instanceTypes[0]", `"ecs.g6"`, "ecs.g6.2xlarge"},
		{"pods above every limit", func(p *plan.Plan) {
			p.Nodes.InstanceTypes[0], p.Nodes.PodsPerNode = "ecs.none.large", math.MaxInt
		}, "nodes.podsPerNode", strconv.Itoa(math.MaxInt), "less than 65536"},
		{"type twice", func(p *plan.Plan) { p.Nodes.InstanceTypes = append(p.Nodes.InstanceTypes, p.Nodes.InstanceTypes[0]) }, "nodes.instanceTypes[1]", "ecs.g6.2xlarge", "each type once"},
		{"too many nodes", func(p *plan.Plan) { p.Nodes.Max, p.SecurityGroup = 273, plan.GroupEnterprise }, "nodes.max", "273", "at most 272: Pod vSwitch pod_switch_192_168_32_0_19 (8188 addresses; a full node takes 30)"},
		{"not one node", func(p *plan.Plan) { p.Zones[0].Pods[0] = sw("192.168.32.0/28") }, "nodes.max", "3", "so not one fits: make it larger or nodes.podsPerNode smaller"},
		{"security group too small", func(p *plan.Plan) { p.Nodes.Max = 65 }, "nodes.max", "65", "at most 64: security group, normal (2000 addresses; a full node takes 31)"},
		{"node vSwitch too small", func(p *plan.Plan) { p.Zones[0].Node, p.Nodes.Count, p.Nodes.Max = sw("192.168.0.0/29"), 5, 5 }, "nodes.max", "5", "at most 4: node vSwitch v 192.168.0.0/29 (4 addresses)"},

		{"no zones", func(p *plan.Plan) { p.Zones = nil }, "zones", "", "at least one"},
		{"another region's zone", func(p *plan.Plan) { p.Zones[0].ID = "cn-beijing-a" }, "zones[0].id", `"cn-beijing-a"`, "a zone of cn-hangzhou"},
		{"zone twice", func(p *plan.Plan) {
			p.Zones = append(p.Zones, plan.Zone{ID: p.Zones[0].ID, Node: sw("192.168.64.0/19"), Pods: []plan.VSwitch{sw("192.168.96.0/19")}})
		}, "zones[1].id", `"cn-hangzhou-i"`, "each zone once"},
		{"no Pod vSwitch", func(p *plan.Plan) { p.Zones[0].Pods = nil }, "zones[0].pods", "", "a Pod vSwitch in the same zone"},
		{"name twice", func(p *plan.Plan) { p.Zones[0].Pods[0].Name = p.Zones[0].Node.Name }, "zones[0].pods[0].name", `"node_switch_192_168_0_0_19"`, "another name"},
		{"151 vSwitches", func(p *plan.Plan) {
			for i := range 149 {
				p.Zones[0].Pods = append(p.Zones[0].Pods, sw(fmt.Sprintf("192.168.%d.0/24", 64+i)))
			}
		}, "zones", "151 vSwitches", "at most 150"},
		{"large vSwitch", func(p *plan.Plan) {
			p.VPC.CIDR, p.Zones[0].Pods[0].CIDR = pfx("10.0.0.0/8"), pfx("10.0.0.0/15")
			p.Zones[0].Node = sw("10.8.0.0/19")
		}, "zones[0].pods[0].cidr", "10.0.0.0/15", "from /16 to /29"},
		{"small vSwitch", func(p *plan.Plan) { p.Zones[0].Node = sw("192.168.0.0/30") }, "zones[0].node.cidr", "192.168.0.0/30", "from /16 to /29"},
		{"vSwitch outside", func(p *plan.Plan) { p.Zones[0].Node = sw("192.167.0.0/19") }, "zones[0].node.cidr", "192.167.0.0/19", "inside one range of the VPC: 192.168.0.0/16"},
		{"vSwitches overlap", func(p *plan.Plan) { p.Zones[0].Pods[0] = sw("192.168.16.0/20") }, "zones[0].pods[0].cidr", "192.168.16.0/20", "not overlap zones[0].node.cidr"},

		{"no Service range", func(p *plan.Plan) { p.ServiceCIDR = netip.Prefix{} }, "serviceCIDR", "", "172.21.0.0/20"},
		{"Service mask", func(p *plan.Plan) { p.ServiceCIDR = pfx("172.21.0.0/25") }, "serviceCIDR", "172.21.0.0/25", "from /16 to /24"},
		{"Service range in public", func(p *plan.Plan) { p.ServiceCIDR = pfx("11.0.0.0/16") }, "serviceCIDR", "11.0.0.0/16", "inside 10.0.0.0/8"},
		{"Service range in the VPC", func(p *plan.Plan) { p.ServiceCIDR = pfx("192.168.240.0/20") }, "serviceCIDR", "192.168.240.0/20", "not overlap vpc.cidr"},
		{"VPC avoided", func(p *plan.Plan) { p.Avoid = []netip.Prefix{pfx("192.168.128.0/17")} }, "vpc.cidr", "192.168.0.0/16", "not overlap 192.168.128.0/17"},
		{"Service range avoided", func(p *plan.Plan) { p.Avoid = []netip.Prefix{pfx("172.16.0.0/12")} }, "serviceCIDR", "172.21.0.0/20", "not overlap 172.16.0.0/12"},
		{"IPv4 as IPv6 to avoid", func(p *plan.Plan) { p.Avoid = []netip.Prefix{pfx("::ffff:192.168.0.0/112")} }, "avoid[0]", "::ffff:192.168.0.0/112", "an IPv4 range"},
		{"host bits to avoid", func(p *plan.Plan) { p.Avoid = []netip.Prefix{pfx("10.1.0.0/8")} }, "avoid[0]", "10.1.0.0/8", "10.0.0.0/8"},
	} {
		p := propose(t, wish())
		c.change(p)
		expect(t, c.name, plan.Check(p, catalog.Default()), c.field, c.value, c.wants)
	}
}

// TestRoomBesideMistakes: a mistake elsewhere does not hide that the nodes have no room.
func TestRoomBesideMistakes(t *testing.T) {
	p := propose(t, wish())
	p.Name, p.Nodes.Max, p.ServiceCIDR = "x", 300, pfx("172.21.0.0/25")
	ps := plan.Check(p, catalog.Default())
	expect(t, "name", ps, "name", `"x"`, "2 to 128 letters")
	expect(t, "Service range", ps, "serviceCIDR", "172.21.0.0/25", "from /16 to /24")
	var room []string
	for _, problem := range ps {
		if problem.Field == "nodes.max" {
			room = append(room, problem.Want)
		}
	}
	if len(room) != 2 || !strings.HasPrefix(room[0], "at most 272: Pod vSwitch") || !strings.HasPrefix(room[1], "at most 64: security group") {
		t.Errorf("problems of room: %q, want Pod vSwitch and security group", room)
	}

	// But nothing is said that follows from a value which could not be read.
	p = propose(t, wish())
	p.Nodes.PodsPerNode, p.Nodes.Max = 10, 100
	data, err := p.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	_, err = plan.Read(bytes.Replace(data, []byte("podsPerNode: 10"), []byte("podsPerNode: ten"), 1), catalog.Default())
	var said plan.Problems
	if !errors.As(err, &said) || len(said) != 1 || said[0].Field != "nodes.podsPerNode" {
		t.Errorf("%v, want nodes.podsPerNode alone", err)
	}
}

// TestFlannelRules: the same for a plan with Flannel.
func TestFlannelRules(t *testing.T) {
	for _, c := range []struct {
		name                string
		change              func(*plan.Plan)
		field, value, wants string
	}{
		{"mode", func(p *plan.Plan) { p.Mode = claims.ModeShared }, "mode", `"shared"`, "nothing"},
		{"prefixes", func(p *plan.Plan) { p.Prefixes = true }, "prefixes", "true", "false"},
		{"Pod vSwitch", func(p *plan.Plan) {
			p.Zones[0].Pods = []plan.VSwitch{{Name: "x", CIDR: pfx("192.168.32.0/19")}}
		}, "zones[0].pods", "1 vSwitches", "none"},
		{"no pod range", func(p *plan.Plan) { p.PodCIDR = netip.Prefix{} }, "podCIDR", "", "172.20.0.0/16"},
		{"pod range in the VPC", func(p *plan.Plan) { p.PodCIDR = pfx("192.168.0.0/17") }, "podCIDR", "192.168.0.0/17", "not overlap vpc.cidr"},
		{"pod range over the Service range", func(p *plan.Plan) { p.PodCIDR = pfx("172.16.0.0/12") }, "podCIDR", "172.16.0.0/12", "not overlap serviceCIDR"},
		{"pod mask in 172.16.0.0/12", func(p *plan.Plan) { p.PodCIDR = pfx("172.20.0.0/17") }, "podCIDR", "172.20.0.0/17", "from /8 to /16"},
		{"pod mask", func(p *plan.Plan) { p.PodCIDR = pfx("10.0.0.0/25") }, "podCIDR", "10.0.0.0/25", "from /8 to /24"},
		{"node mask short", func(p *plan.Plan) { p.NodeMask = 23 }, "nodeMask", "23", "24 to 28"},
		{"node mask long", func(p *plan.Plan) { p.NodeMask = 29 }, "nodeMask", "29", "24 to 28"},
		{"pods above the block", func(p *plan.Plan) { p.Nodes.PodsPerNode = 62 }, "nodes.podsPerNode", "62", "at most 61"},
		{"blocks", func(p *plan.Plan) { p.PodCIDR, p.Nodes.Max = pfx("10.0.0.0/24"), 5 }, "nodes.max", "5", "at most 4: pod CIDR"},
		{"route entries", func(p *plan.Plan) { p.Nodes.Max = 201 }, "nodes.max", "201", "at most 200: route table"},
	} {
		r := wish()
		r.Network = claims.NetworkFlannel
		p := propose(t, r)
		c.change(p)
		expect(t, c.name, plan.Check(p, catalog.Default()), c.field, c.value, c.wants)
	}
}

// expect: one problem has the field and value and wants the text; what else is wrong
// because of it may be there too, but nothing else for that field.
func expect(t *testing.T, name string, ps []plan.Problem, field, value, wants string) {
	t.Helper()
	ofField := slices.DeleteFunc(slices.Clone(ps), func(p plan.Problem) bool { return p.Field != field })
	if len(ofField) != 1 || ofField[0].Value != value || !strings.Contains(ofField[0].Want, wants) {
		t.Errorf("%s: got %v, want %s %s: …%s…", name, plan.Problems(ps), field, value, wants)
	}
}

// TestNames: these are right.
func TestNames(t *testing.T) {
	for _, name := range []string{"shop", "商店", "a1", "Shop_1.eu:x-y", strings.Repeat("x", 128)} {
		p := propose(t, wish())
		p.Name = name
		if ps := plan.Check(p, catalog.Default()); len(ps) > 0 {
			t.Errorf("%s: %v", name, plan.Problems(ps))
		}
	}
}

// TestAllAtOnce: many mistakes, many problems.
func TestAllAtOnce(t *testing.T) {
	p := propose(t, wish())
	p.Region, p.Mode, p.Nodes.Count, p.ServiceCIDR = "", "x", 0, pfx("192.168.0.0/20")
	p.Zones[0].Pods[0].CIDR = pfx("192.168.0.0/30")
	var fields []string
	for _, problem := range plan.Check(p, catalog.Default()) {
		fields = append(fields, problem.Field)
	}
	want := []string{"region", "mode", "nodes.count", "zones[0].pods[0].cidr", "zones[0].pods[0].cidr", "serviceCIDR"}
	if !slices.Equal(fields, want) {
		t.Errorf("problems of %v, want %v", fields, want)
	}
}
