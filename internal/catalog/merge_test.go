package catalog_test

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"terway.dev/terway/internal/catalog"
)

func TestMergeSaysWhatTheCloudChanges(t *testing.T) {
	table, err := catalog.New([]catalog.Type{
		{Name: "ecs.g7a.16xlarge", Family: "ecs.g7a", VCPU: catalog.Of(64), ENIs: catalog.Of(7), IPv4PerENI: catalog.Of(30), BandwidthBase: 16, BandwidthBurst: 25, Source: "docs 2021"},
		{Name: "ecs.g6r.large", Family: "ecs.g6r", VCPU: catalog.Of(2), ENIs: catalog.Of(3), Source: "docs 2021"},
		{Name: "ecs.n4.large", Family: "ecs.n4", VCPU: catalog.Of(2), ENIs: catalog.Of(2), IPv4PerENI: catalog.Of(2), Source: "docs 2021"},
		{Name: "ecs.t5-lc1m2.large", Family: "ecs.t5", ENIs: catalog.Of(2), IPv4PerENI: catalog.Of(2), Source: "docs 2021"},
	})
	if err != nil {
		t.Fatal(err)
	}
	merged, diff, err := table.Merge([]catalog.Type{
		{Name: "ecs.g7a.16xlarge", Family: "ecs.g7a", VCPU: catalog.Of(64), ENIs: catalog.Of(8), IPv4PerENI: catalog.Of(30), TrunkKnown: true, BandwidthBase: 16},
		{Name: "ecs.g6r.large", Family: "ecs.g6r", VCPU: catalog.Of(2), ENIs: catalog.Of(3), IPv4PerENI: catalog.Of(6)},
		{Name: "ecs.n4.large", Family: "ecs.n4", VCPU: catalog.Of(2), ENIs: catalog.Of(2), IPv4PerENI: catalog.Of(2)},
		{Name: "ecs.g9i.large", Family: "ecs.g9i", VCPU: catalog.Of(2), ENIs: catalog.Of(3)},
	}, "DescribeInstanceTypes 2026-11-24")
	if err != nil {
		t.Fatal(err)
	}
	var changed []string
	for _, c := range diff.Changed {
		changed = append(changed, c.String())
	}
	for what, lists := range map[string][2][]string{
		"changed": {changed, {
			"ecs.g7a.16xlarge: eni_quantity 7, now 8", "ecs.g7a.16xlarge: eni_trunk_supported unknown, now false",
			"ecs.g6r.large: ipv4_per_eni unknown, now 6"}},
		"new":  {diff.New, {"ecs.g9i.large"}},
		"gone": {diff.Gone, {"ecs.t5-lc1m2.large"}},
	} {
		if !slices.Equal(lists[0], lists[1]) {
			t.Errorf("%s: got %q, want %q", what, lists[0], lists[1])
		}
	}
	if diff.Confirmed != 1 {
		t.Errorf("%d types confirmed, want 1", diff.Confirmed)
	}
	// The cloud gives no burst bandwidth: it stays, and the row names its source.
	for name, want := range map[string]string{
		"ecs.g7a.16xlarge":   "DescribeInstanceTypes 2026-11-24; the rest: docs 2021",
		"ecs.g6r.large":      "DescribeInstanceTypes 2026-11-24",
		"ecs.t5-lc1m2.large": "docs 2021",
	} {
		if got, _ := merged.Lookup(name); got.Source != want {
			t.Errorf("%s: source %q, want %q", name, got.Source, want)
		}
	}
	if got, _ := merged.Lookup("ecs.g7a.16xlarge"); got.BandwidthBurst != 25 {
		t.Errorf("the burst bandwidth is %g after the refresh, want 25", got.BandwidthBurst)
	}
	if got, _ := merged.Lookup("ecs.g9i.large"); got.IPv4PerENI.Known {
		t.Errorf("a figure that nobody gave is %v", got.IPv4PerENI)
	}
}

func TestMergeRefusesAnAnswerThatContradictsItself(t *testing.T) {
	for name, live := range map[string][]catalog.Type{
		"twice":   {{Name: "ecs.g6.large"}, {Name: "ecs.g6.large"}},
		"no name": {{Family: "ecs.g6"}},
	} {
		if _, _, err := catalog.Default().Merge(live, "x"); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// For any answer, no number is lost, a second merge changes nothing, and sources do not grow.
func TestMergeProperties(t *testing.T) {
	some := rapid.Custom(func(rt *rapid.T) catalog.Count {
		if rapid.Bool().Draw(rt, "known") {
			return catalog.Of(rapid.IntRange(0, 3).Draw(rt, "n"))
		}
		return catalog.Count{}
	})
	typ := rapid.Custom(func(rt *rapid.T) catalog.Type {
		t := catalog.Type{Name: rapid.SampledFrom([]string{"ecs.a.l", "ecs.b.l", "ecs.c.l", "ecs.d.l"}).Draw(rt, "name"), Family: "ecs.x",
			VCPU: some.Draw(rt, "vcpu"), ENIs: some.Draw(rt, "enis"), IPv4PerENI: some.Draw(rt, "ipv4"), ENITotal: some.Draw(rt, "total"),
			BandwidthBase: float64(rapid.IntRange(0, 2).Draw(rt, "base")), Source: "docs"}
		if rapid.Bool().Draw(rt, "trunk known") {
			t.Trunk, t.TrunkKnown = rapid.Bool().Draw(rt, "trunk"), true
		}
		return t
	})
	list := rapid.SliceOfNDistinct(typ, 0, 4, func(t catalog.Type) string { return t.Name })
	rapid.Check(t, func(rt *rapid.T) {
		table, err := catalog.New(list.Draw(rt, "table"))
		if err != nil {
			rt.Fatal(err)
		}
		live := list.Draw(rt, "live")
		merged, diff, err := table.Merge(live, "live 1")
		if err != nil {
			rt.Fatal(err)
		}
		for _, was := range table.All() {
			is, ok := merged.Lookup(was.Name)
			if !ok || was.ENIs.Known && !is.ENIs.Known || was.IPv4PerENI.Known && !is.IPv4PerENI.Known ||
				was.BandwidthBase != 0 && is.BandwidthBase == 0 || was.TrunkKnown && !is.TrunkKnown {
				rt.Fatalf("%+v became %+v", was, is)
			}
		}
		for _, said := range live {
			is, ok := merged.Lookup(said.Name)
			if !ok || said.ENIs.Known && is.ENIs != said.ENIs || said.TrunkKnown && is.Trunk != said.Trunk {
				rt.Fatalf("the cloud gave %+v, the table has %+v", said, is)
			}
		}
		if n := len(diff.New) + len(diff.Gone); len(merged.All()) != len(table.All())+len(diff.New) || n > 8 {
			rt.Fatalf("%d types became %d, %+v", len(table.All()), len(merged.All()), diff)
		}
		again, diff, err := merged.Merge(live, "live 2")
		if err != nil || len(diff.New)+len(diff.Changed) > 0 || diff.Confirmed != len(live) {
			rt.Fatalf("the same answer again: %+v, %v", diff, err)
		}
		for _, t := range again.All() {
			if strings.Count(t.Source, "live") > 1 {
				rt.Fatalf("%s: the source grew to %q", t.Name, t.Source)
			}
		}
	})
}

func TestBelowTheRecommendation(t *testing.T) {
	for name, want := range map[string]string{
		"ecs.g6.2xlarge":        "",
		"ecs.g5.2xlarge":        "",
		"ecs.g6.xlarge":         "4 vCPUs are fewer than 8",
		"ecs.sn2ne.2xlarge":     "generation 2 is before 5",
		"ecs.n4.xlarge":         "4 vCPUs are fewer than 8; generation 4 is before 5",
		"ecs.i3.2xlarge":        "", // third generation of its own series, contemporary with g7
		"ecs.ebmi2g.24xlarge":   "",
		"ecs.ebmhfg5.2xlarge":   "",
		"ecs.u1-c1m4.xlarge":    "", // no source gives its vCPUs,
		"ecs.t5-c1m1.2xlarge":   "",
		"ecs.se1.2xlarge":       "generation 1 is before 5",
		"ecs.gn6i-c8g1.2xlarge": "",
	} {
		typ, ok := catalog.Lookup(name)
		if !ok {
			t.Errorf("%s is not in the catalogue", name)
			continue
		}
		if got := strings.Join(typ.Below(), "; "); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if why := (catalog.Type{Name: "ecs.x", Family: "ecs.x"}).Below(); why != nil {
		t.Errorf("an unknown type is below the recommendation: %v", why)
	}
}

func TestPodsWithPrefixes(t *testing.T) {
	typ, _ := catalog.Lookup("ecs.g6.2xlarge") // 4 ENIs of 10 addresses
	if n, ok := typ.MaxPodsPrefix(); !ok || n != 3*9*16 {
		t.Errorf("MaxPodsPrefix is %d, %v; want 432", n, ok)
	}
	if n, ok := (catalog.Type{ENIs: catalog.Of(3)}).MaxPodsPrefix(); ok {
		t.Errorf("MaxPodsPrefix is %d, though the addresses per ENI are unknown", n)
	}
}
