package lab

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestPlanIsTheRecommendedOne(t *testing.T) {
	plan := planVSwitches([]string{"cn-hangzhou-i"})
	want := VSwitchPlan{Zone: "cn-hangzhou-i", Node: netip.MustParsePrefix("192.168.0.0/19"), Pod: netip.MustParsePrefix("192.168.32.0/19")}
	if len(plan) != 1 || plan[0] != want {
		t.Errorf("plan of one zone: %v, want %v", plan, want)
	}
}

func TestPlanNeverOverlaps(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		zones, err := ParseZones(rapid.SampledFrom([]string{"1", "2", "3", "4"}).Draw(t, "zones"))
		if err != nil {
			t.Fatal(err)
		}
		all := []netip.Prefix{serviceCIDR}
		for _, p := range planVSwitches(zones) {
			for _, c := range []netip.Prefix{p.Node, p.Pod} {
				if c != c.Masked() || !vpcCIDR.Contains(c.Addr()) {
					t.Fatalf("%s is no subnet of %s", c, vpcCIDR)
				}
				if slices.ContainsFunc(all, c.Overlaps) {
					t.Fatalf("%s overlaps one of %v", c, all)
				}
				all = append(all, c)
			}
		}
	})
}

func TestParseZones(t *testing.T) {
	for _, tt := range []struct {
		in, want string
		err      string // part of the message
	}{
		{in: "1", want: "cn-hangzhou-i"},
		{in: "2", want: "cn-hangzhou-i cn-hangzhou-j"},
		{in: "cn-hangzhou-h,cn-hangzhou-b", want: "cn-hangzhou-h cn-hangzhou-b"},
		{in: "0", err: "must be 1 to 4"},
		{in: "5", err: "must be 1 to 4"},
		{in: "cn-beijing-a", err: `"cn-beijing-a" is no zone of cn-hangzhou`},
		{in: "cn-hangzhou-i,cn-hangzhou-i", err: "named twice"},
	} {
		got, err := ParseZones(tt.in)
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("ParseZones(%q): error %v, want one with %q", tt.in, err, tt.err)
			}
			continue
		}
		if err != nil || strings.Join(got, " ") != tt.want {
			t.Errorf("ParseZones(%q) = %v, %v, want %s", tt.in, got, err, tt.want)
		}
	}
}

func TestNormalizeNamesTheField(t *testing.T) {
	good := Options{Nodes: 2, InstanceType: "ecs.g6.2xlarge", Zones: []string{"cn-hangzhou-i"}, Network: NetworkTerway, Source: "/src"}
	if err := good.Normalize(); err != nil || good.Dir != DefaultDir {
		t.Fatalf("good options: %v, dir %q", err, good.Dir)
	}
	for field, spoil := range map[string]func(*Options){
		"--nodes":         func(o *Options) { o.Nodes = 0 },
		"--instance-type": func(o *Options) { o.InstanceType = "ecs.nosuch" },
		"--zones":         func(o *Options) { o.Zones = nil },
		"--network":       func(o *Options) { o.Network = "weave" },
	} {
		o := good
		spoil(&o)
		if err := o.Normalize(); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("spoiled %s: error %v does not name it", field, err)
		}
	}
}
