package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"terway.dev/terway/internal/catalog"
	"terway.dev/terway/internal/datapath/claims"
)

func seed(t interface{ Fatal(...any) }, zones ...string) *Plan {
	p, err := Propose(Request{Name: "shop", Zones: zones, Nodes: Nodes{Count: 2, InstanceTypes: []string{"ecs.g6.2xlarge"}}, Types: catalog.Default()})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestGrow(t *testing.T) {
	p := seed(t, "cn-hangzhou-i")
	before := fmt.Sprintf("%+v", p)
	for _, c := range []struct {
		name             string
		ask              Growth
		vswitch, further string
	}{
		{"the next range", Growth{Bits: 19}, "192.168.64.0/19", "[]"},
		{"the next range without a wish", Growth{}, "192.168.64.0/19", "[]"},
		{"a smaller one", Growth{Bits: 24}, "192.168.64.0/24", "[]"},
		{"behind what others use", Growth{Bits: 19, Taken: prefixes("192.168.64.0/28", "192.168.96.0/19")}, "192.168.128.0/19", "[]"},
		{"a wish", Growth{CIDR: netip.MustParsePrefix("192.168.200.0/24")}, "192.168.200.0/24", "[]"},
		{"a wish elsewhere", Growth{CIDR: netip.MustParsePrefix("10.9.0.0/19")}, "10.9.0.0/19", "[10.9.0.0/19]"},
		{"the VPC is full", Growth{Bits: 19, Taken: prefixes("192.168.0.0/16")}, "10.0.0.0/19", "[10.0.0.0/16]"},
		{"no piece is large enough", Growth{Bits: 17, Taken: prefixes("192.168.128.0/28")}, "10.0.0.0/17", "[10.0.0.0/16]"},
	} {
		c.ask.Zone = "cn-hangzhou-i"
		grown, v, err := p.Grow(c.ask)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if v.CIDR.String() != c.vswitch || fmt.Sprint(grown.VPC.Secondary) != c.further || v.Name != nameOf(podSwitch, v.CIDR) {
			t.Errorf("%s: %s %s, secondary %v; want %s, %s", c.name, v.Name, v.CIDR, grown.VPC.Secondary, c.vswitch, c.further)
		}
		if ps := Check(grown, catalog.Default()); len(ps) > 0 {
			t.Errorf("%s: %v", c.name, Problems(ps))
		}
	}
	if after := fmt.Sprintf("%+v", p); after != before {
		t.Errorf("the plan itself has changed: %s", after)
	}
}

// The user's own names get numbers.
func TestGrowNames(t *testing.T) {
	p := seed(t, "cn-hangzhou-i")
	p.Zones[0].Pods[0].Name, p.Zones[0].Node.Name = "pods", "pods-2"
	if _, v, err := p.Grow(Growth{Zone: "cn-hangzhou-i", Bits: 19}); err != nil || v.Name != "pods-3" {
		t.Errorf("name %q, %v; want pods-3: pods-2 is taken", v.Name, err)
	}
}

func TestGrowRefuses(t *testing.T) {
	p := seed(t, "cn-hangzhou-i")
	flannel := seed(t, "cn-hangzhou-i")
	flannel.Network = claims.NetworkFlannel
	crowded := seed(t, "cn-hangzhou-i")
	crowded.VPC.Secondary = prefixes("10.1.0.0/28", "10.2.0.0/28", "10.3.0.0/28", "10.4.0.0/28", "10.5.0.0/28")
	for want, c := range map[string]struct {
		p   *Plan
		ask Growth
	}{
		"cn-hangzhou-j":   {p, Growth{Zone: "cn-hangzhou-j", Bits: 19}},
		"/30":             {p, Growth{Zone: "cn-hangzhou-i", Bits: 30}},
		"/15":             {p, Growth{Zone: "cn-hangzhou-i", CIDR: netip.MustParsePrefix("10.2.0.0/15")}},
		"192.168.64.1":    {p, Growth{Zone: "cn-hangzhou-i", CIDR: netip.MustParsePrefix("192.168.64.1/24")}},
		"192.168.32.0/19": {p, Growth{Zone: "cn-hangzhou-i", CIDR: netip.MustParsePrefix("192.168.48.0/24")}},
		"flannel":         {flannel, Growth{Zone: "cn-hangzhou-i", Bits: 19}},
		"choose a larger mask (a smaller vSwitch)":                                             {crowded, Growth{Zone: "cn-hangzhou-i", Bits: 16}},
		"range 10.9.0.0/24: want one inside the plan's VPC ranges [192.168.0.0/16 10.1.0.0/28": {crowded, Growth{Zone: "cn-hangzhou-i", CIDR: netip.MustParsePrefix("10.9.0.0/24")}},
		"6 secondary":   {crowded, Growth{Zone: "cn-hangzhou-i", Bits: 16, Ranges: 1}},
		"5 secondary":   {p, Growth{Zone: "cn-hangzhou-i", Bits: 16, Ranges: 5}},
		"150 vSwitches": {p, Growth{Zone: "cn-hangzhou-i", Bits: 19, VSwitches: 148}},
	} {
		if _, _, err := c.p.Grow(c.ask); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want an error with %q", c.ask, err, want)
		}
	}
}

// However often a plan grows, it stays valid and keeps its ranges.
func TestGrowKeepsTheRules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		zones := []string{"cn-hangzhou-i", "cn-hangzhou-j"}[:rapid.IntRange(1, 2).Draw(t, "zones")]
		p := seed(t, zones...)
		p.Avoid = prefixes("10.0.0.0/12")
		foreign := prefixes("192.168.255.0/24")
		for range rapid.IntRange(1, 30).Draw(t, "times") {
			grown, v, err := p.Grow(Growth{Zone: rapid.SampledFrom(zones).Draw(t, "zone"), Bits: rapid.IntRange(16, 29).Draw(t, "bits"), Taken: foreign})
			if err != nil {
				if !strings.Contains(err.Error(), "5 secondary ranges") {
					t.Fatal(err)
				}
				return
			}
			if ps := Check(grown, catalog.Default()); len(ps) > 0 {
				t.Fatal(Problems(ps))
			}
			if slices.ContainsFunc(foreign, v.CIDR.Overlaps) {
				t.Fatalf("%s overlaps %v", v.CIDR, foreign)
			}
			old, now := p.vSwitches(), grown.vSwitches()
			if len(now) != len(old)+1 {
				t.Fatalf("%d vSwitches became %d", len(old), len(now))
			}
			for _, o := range old {
				if !slices.ContainsFunc(now, func(n placed) bool { return n.VSwitch == o.VSwitch && n.zone == o.zone && n.pods == o.pods }) {
					t.Fatalf("%+v is gone", o)
				}
			}
			p = grown
		}
	})
}

func prefixes(s ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, x := range s {
		all = append(all, netip.MustParsePrefix(x))
	}
	return all
}
