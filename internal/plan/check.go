package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"terway.dev/terway/internal/catalog"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/decode"
	"terway.dev/terway/internal/zone"
)

// Catalog knows instance types; *catalog.Catalog is one.
type Catalog interface {
	Lookup(name string) (catalog.Type, bool)
}

// Check validates the plan against the rules of the cloud and of the cluster, and returns all
// problems. An instance type that is not in the catalogue is no problem; the checks that need
// its numbers are skipped.
func Check(p *Plan, types Catalog) []Problem {
	c := rules(p, types)
	c.fits()
	return c.Problems
}

// rules checks everything but the capacity.
func rules(p *Plan, types Catalog) *checker {
	c := &checker{p: p, types: types}
	if p.Version != Version {
		c.bad("version", p.Version, "%d", Version)
	}
	c.names()
	c.network()
	c.vpc()
	c.nodes()
	c.zones()
	c.switches()
	c.ranges()
	return c
}

type checker struct {
	Problems
	p     *Plan
	types Catalog
}

func (c *checker) names() {
	c.planName()
	if !word(c.p.Region) {
		c.bad("region", quoted(c.p.Region), "a region such as cn-hangzhou")
	}
}

// planName checks the plan's name. It is also the name of the security group and the value of a
// tag (ECS API: CreateSecurityGroup, SecurityGroupName and Tag.N.Value).
func (c *checker) planName() {
	name := c.p.Name
	n := len([]rune(name))
	odd := strings.ContainsFunc(name, func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune(":_.-", r)
	})
	if first, _ := utf8.DecodeRuneInString(name); n < 2 || n > 128 || odd || !unicode.IsLetter(first) {
		c.bad("name", quoted(name), "2 to 128 letters, digits, ':', '_', '.' or '-', of which the first is a letter")
	} else if strings.HasPrefix(name, "acs:") || strings.HasPrefix(name, "aliyun") {
		c.bad("name", quoted(name), "a name that does not begin with acs: or aliyun, which the cloud keeps for itself")
	}
}

// name checks the name of a vSwitch: 1 to 128 characters, not like an address.
func (c *checker) name(field, name string) {
	if n := len([]rune(name)); n == 0 || n > 128 || strings.HasPrefix(name, "http://") || strings.HasPrefix(name, "https://") ||
		strings.ContainsFunc(name, func(r rune) bool { return r < ' ' }) {
		c.bad(field, quoted(name), "1 to 128 characters that do not begin with http:// or https://")
	}
}

func (c *checker) network() {
	p := c.p
	switch p.Network {
	case claims.NetworkTerway:
		if p.Mode != claims.ModeShared && p.Mode != claims.ModeExclusive {
			c.bad("mode", quoted(p.Mode), "%s or %s", claims.ModeShared, claims.ModeExclusive)
		}
		if p.Prefixes && p.Mode == claims.ModeExclusive {
			c.bad("prefixes", true, "false: a pod with an exclusive ENI has that ENI's address")
		}
		if p.PodCIDR.IsValid() {
			c.bad("podCIDR", p.PodCIDR, "nothing: Terway's pods have addresses of the Pod vSwitches")
		}
		if p.NodeMask != 0 {
			c.bad("nodeMask", p.NodeMask, "nothing: only Flannel's nodes have a block each")
		}
	case claims.NetworkFlannel:
		if p.Mode != "" {
			c.bad("mode", quoted(p.Mode), "nothing: Flannel has no modes")
		}
		if p.Prefixes {
			c.bad("prefixes", true, "false: Flannel's pods have no addresses of ENIs")
		}
	default:
		c.bad("network", quoted(p.Network), "%s or %s", claims.NetworkTerway, claims.NetworkFlannel)
	}
	if p.SecurityGroup != GroupNormal && p.SecurityGroup != GroupEnterprise {
		c.bad("securityGroup", quoted(p.SecurityGroup), "%s or %s", GroupNormal, GroupEnterprise)
	}
}

func (c *checker) vpc() {
	c.vpcRange("vpc.cidr", c.p.VPC.CIDR)
	if n := len(c.p.VPC.Secondary); n > maxSecondary {
		c.bad("vpc.secondary", fmt.Sprintf("%d ranges", n), "at most %d", maxSecondary)
	}
	for i, s := range c.p.VPC.Secondary {
		c.vpcRange(fmt.Sprintf("vpc.secondary[%d]", i), s)
	}
}

func (c *checker) vpcRange(field string, p netip.Prefix) {
	if c.form(field, p, "192.168.0.0/16") && c.private(field, p) && (p.Bits() < vpcMaskMin || p.Bits() > vpcMaskMax) {
		c.bad(field, p, "a mask from /%d to /%d", vpcMaskMin, vpcMaskMax)
	}
}

// form checks that a range is set, is IPv4 and has no host bits.
func (c *checker) form(field string, p netip.Prefix, example string) bool {
	switch {
	case !p.IsValid():
		c.bad(field, "", "a range such as %s", example)
	case !p.Addr().Is4():
		c.bad(field, p, "an IPv4 range such as %s", example)
	case p != p.Masked():
		c.bad(field, p, "%s (the bits behind the mask are zero)", p.Masked())
	default:
		return true
	}
	return false
}

func (c *checker) private(field string, p netip.Prefix) bool {
	if slices.ContainsFunc(privateRanges(), func(r netip.Prefix) bool { return contains(r, p) }) {
		return true
	}
	c.bad(field, p, "a range inside 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16")
	return false
}

func (c *checker) nodes() {
	n := c.p.Nodes
	if n.Count < 1 {
		c.bad("nodes.count", n.Count, "1 or more")
	}
	if n.Max < n.Count || n.Max < 1 {
		c.bad("nodes.max", n.Max, "nodes.count (%d) or more", max(1, n.Count))
	}
	if n.PodsPerNode < 0 {
		c.bad("nodes.podsPerNode", n.PodsPerNode, "1 or more, or 0 for as many as a node can hold")
	}
	if len(n.InstanceTypes) == 0 {
		c.bad("nodes.instanceTypes", "", "at least one, such as ecs.g6.2xlarge")
	}
	for i, name := range n.InstanceTypes {
		field := fmt.Sprintf("nodes.instanceTypes[%d]", i)
		if parts := strings.Split(name, "."); len(parts) < 3 || parts[0] != "ecs" || !word(name) {
			c.bad(field, quoted(name), "an ECS instance type such as ecs.g6.2xlarge")
			continue
		}
		if slices.Index(n.InstanceTypes, name) < i {
			c.bad(field, name, "each type once")
		}
		c.holds(field, name)
	}
	if c.p.Network == claims.NetworkFlannel && c.p.NodeMask >= nodeMaskMin && c.p.NodeMask <= nodeMaskMax {
		if holds := blockHolds(c.p.NodeMask); n.PodsPerNode > holds {
			c.bad("nodes.podsPerNode", n.PodsPerNode, "at most %d: a node's block is a /%d", holds, c.p.NodeMask)
		}
	}
}

// holds checks that a type can hold the requested number of pods.
func (c *checker) holds(field, name string) {
	if c.p.Network != claims.NetworkTerway {
		return
	}
	t, _ := c.types.Lookup(name) // an unknown type has no numbers
	limit := podsOf(t, c.p.Mode, c.p.Prefixes)
	switch {
	case !limit.Known:
		if c.p.Nodes.PodsPerNode >= groupEnterpriseHolds {
			c.bad("nodes.podsPerNode", c.p.Nodes.PodsPerNode, "less than %d: no security group holds more addresses", groupEnterpriseHolds)
		}
	case limit.N == 0:
		c.bad(field, name, "a type with secondary ENIs: this one holds no pod %s", c.how())
	case c.p.Nodes.PodsPerNode > limit.N:
		c.bad("nodes.podsPerNode", c.p.Nodes.PodsPerNode, "at most %d: %s holds no more %s", limit.N, name, c.how())
	}
}

func (c *checker) how() string {
	switch {
	case c.p.Mode == claims.ModeExclusive:
		return "with an ENI each"
	case c.p.Prefixes:
		return "on shared ENIs with prefixes"
	}
	return "on shared ENIs"
}

func (c *checker) zones() {
	p := c.p
	if len(p.Zones) == 0 {
		c.bad("zones", "", "at least one zone")
	}
	for i, z := range p.Zones {
		field := fmt.Sprintf("zones[%d].id", i)
		if word(p.Region) && !zone.In(z.ID, p.Region) {
			c.bad(field, quoted(z.ID), "a zone of %s, such as %s-i", p.Region, p.Region)
		}
		if slices.ContainsFunc(p.Zones[:i], func(o Zone) bool { return o.ID == z.ID }) {
			c.bad(field, quoted(z.ID), "each zone once: it is in the list already")
		}
	}
}

func (c *checker) switches() {
	p := c.p
	vs := p.vSwitches()
	if len(vs) > maxVSwitches {
		c.bad("zones", fmt.Sprintf("%d vSwitches", len(vs)), "at most %d in a VPC", maxVSwitches)
	}
	for i, z := range p.Zones {
		switch {
		case p.Network == claims.NetworkTerway && len(z.Pods) == 0:
			c.bad(fmt.Sprintf("zones[%d].pods", i), "", "a Pod vSwitch in the same zone as the nodes")
		case p.Network == claims.NetworkFlannel && len(z.Pods) > 0:
			c.bad(fmt.Sprintf("zones[%d].pods", i), fmt.Sprintf("%d vSwitches", len(z.Pods)), "none: Flannel's pods have addresses of podCIDR")
		}
	}
	named := map[string]string{}
	for _, v := range vs {
		c.name(v.field+".name", v.Name)
		if other, twice := named[v.Name]; twice && v.Name != "" {
			c.bad(v.field+".name", quoted(v.Name), "another name: it is that of %s", other)
		} else {
			named[v.Name] = v.field
		}
	}
}

// fits checks that there is room for nodes and pods, if the plan is valid enough to compute it.
func (c *checker) fits() {
	if !c.measurable() {
		return
	}
	m := measurer{p: c.p, types: c.types, demand: demandOf(c.p, c.types)}
	for _, l := range m.limits() {
		if !l.Quota && l.Nodes.Less(c.p.Nodes.Max) {
			c.Problems = append(c.Problems, tooMany(c.p, l))
		}
	}
}

// measurable reports whether all fields that the capacity depends on are valid. Other mistakes
// do not hide a lack of room.
func (c *checker) measurable() bool {
	p := c.p
	flannel := p.Network == claims.NetworkFlannel
	switch {
	case flannel && (!wellFormed(p.PodCIDR) || p.NodeMask < nodeMaskMin || p.NodeMask > nodeMaskMax),
		!flannel && (p.Network != claims.NetworkTerway || p.Mode != claims.ModeShared && p.Mode != claims.ModeExclusive || p.Prefixes && p.Mode == claims.ModeExclusive),
		p.SecurityGroup != GroupNormal && p.SecurityGroup != GroupEnterprise,
		p.Nodes.Max < p.Nodes.Count, p.Nodes.PodsPerNode < 0, p.Nodes.PodsPerNode >= groupEnterpriseHolds,
		len(p.Nodes.InstanceTypes) == 0, len(p.Zones) == 0:
		return false
	}
	return !slices.ContainsFunc(p.Zones, func(z Zone) bool {
		return !wellFormed(z.Node.CIDR) || !flannel && len(z.Pods) == 0 ||
			slices.ContainsFunc(z.Pods, func(v VSwitch) bool { return !wellFormed(v.CIDR) })
	})
}

// tooMany reports that a limit is below the number of nodes of the plan.
func tooMany(p *Plan, l Limit) Problem {
	each := ""
	if l.Each.N > 1 {
		each = fmt.Sprintf("; a full node takes %d", l.Each.N)
		if l.Nodes.N == 0 {
			each += ", so not one fits: make it larger or nodes.podsPerNode smaller"
		}
	}
	return Problem{
		Field: "nodes.max", Value: fmt.Sprint(p.Nodes.Max),
		Want: fmt.Sprintf("at most %d: %s (%d %s%s)", l.Nodes.N, l.Name, l.Holds, l.What, each),
	}
}

// word reports whether s has only letters, digits, '-', '_' and '.', like ids and type names.
func word(s string) bool {
	return s != "" && len(s) <= 64 && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.')
	})
}

func quoted(s string) string {
	if s == "" {
		return ""
	}
	return decode.Describe(s)
}
