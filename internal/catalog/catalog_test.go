package catalog_test

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"terway.dev/terway/internal/catalog"
)

// The max_pods columns of the table were not computed by this code.
func TestMaxPodsAgreeWithTheTable(t *testing.T) {
	raw, err := os.ReadFile("instance-types.csv")
	if err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(bytes.NewReader(raw)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := len(catalog.Default().All()), len(rows)-1; got != want {
		t.Fatalf("catalog has %d types, the table %d rows", got, want)
	}
	column := func(row []string, name string) string { return row[slices.Index(rows[0], name)] }
	figure := func(n int, ok bool) string {
		if !ok {
			return ""
		}
		return strconv.Itoa(n)
	}
	rapid.Check(t, func(rt *rapid.T) {
		row := rapid.SampledFrom(rows[1:]).Draw(rt, "row")
		name := column(row, "instance_type")
		typ, ok := catalog.Lookup(name)
		if !ok {
			rt.Fatalf("%s is in the table but not in the catalog", name)
		}
		for col, got := range map[string]string{
			"max_pods_shared_eni":    figure(typ.MaxPodsShared()),
			"max_pods_exclusive_eni": figure(typ.MaxPodsExclusive()),
			"max_pods_trunk_members": figure(typ.MaxPodsTrunk()),
			"eni_quantity":           strings.TrimPrefix(typ.ENIs.String(), "unknown"),
			"ipv4_per_eni":           strings.TrimPrefix(typ.IPv4PerENI.String(), "unknown"),
		} {
			if want := column(row, col); got != want {
				rt.Errorf("%s: %s is %q, the table says %q", name, col, got, want)
			}
		}
	})
}

func TestKnownTypes(t *testing.T) {
	for _, tt := range []struct {
		name                     string
		enis, ipv4, shared, excl int
		generation               int
		jumbo, trunk             bool
		kbit                     int
	}{
		{"ecs.g6.2xlarge", 4, 10, 30, 3, 6, false, false, 2560000},
		{"ecs.g7.xlarge", 4, 15, 45, 3, 7, true, true, 3072000},
		{"ecs.t6-c1m4.large", 2, 2, 2, 1, 6, false, false, 81920},
		{"ecs.ebmre7p.32xlarge", 32, 15, 465, 31, 7, true, true, 65536000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			typ, ok := catalog.Lookup(tt.name)
			if !ok {
				t.Fatal("not in the catalog")
			}
			shared, _ := typ.MaxPodsShared()
			excl, _ := typ.MaxPodsExclusive()
			if typ.ENIs != catalog.Of(tt.enis) || typ.IPv4PerENI != catalog.Of(tt.ipv4) || shared != tt.shared || excl != tt.excl {
				t.Errorf("ENIs %v, IPv4 %v, shared %d, exclusive %d; want %+v", typ.ENIs, typ.IPv4PerENI, shared, excl, tt)
			}
			if typ.Generation() != tt.generation || typ.JumboFrames() != tt.jumbo || typ.Trunk != tt.trunk {
				t.Errorf("generation %d, jumbo %v, trunk %v; want %+v", typ.Generation(), typ.JumboFrames(), typ.Trunk, tt)
			}
			if got := typ.BandwidthKbit(); got != tt.kbit {
				t.Errorf("bandwidth is %d kbit/s, want %d", got, tt.kbit)
			}
		})
	}
}

func TestUnknownFiguresStayUnknown(t *testing.T) {
	typ, ok := catalog.Lookup("ecs.g6r.large")
	if !ok {
		t.Fatal("ecs.g6r.large is not in the catalog")
	}
	if n, ok := typ.MaxPodsShared(); ok {
		t.Errorf("MaxPodsShared is %d, though no source gives the addresses per ENI", n)
	}
	if n, ok := typ.MaxPodsExclusive(); !ok || n != 2 {
		t.Errorf("MaxPodsExclusive is %d, %v; want 2", n, ok)
	}
	if _, ok := catalog.Lookup("ecs.none.large"); ok {
		t.Error("Lookup found a type that does not exist")
	}
	saved, err := json.Marshal(typ)
	if err != nil {
		t.Fatal(err)
	}
	var again catalog.Type
	if err := json.Unmarshal(saved, &again); err != nil || again != typ {
		t.Errorf("%s comes back as %+v, %v", saved, again, err)
	}
}

func TestParseNamesWhatIsWrong(t *testing.T) {
	header := "instance_type,family,vcpu,mem_gib,eni_quantity,ipv4_per_eni,ipv6_per_eni,eni_total_quantity,eni_trunk_supported,bw_base_gbps,bw_burst_gbps,nic_queues,source\n"
	for _, tt := range []struct{ name, text, want string }{
		{"no header", "", "header"},
		{"column missing", "instance_type,family\n", `column "vcpu" is missing`},
		{"not a number", header + "ecs.a.b,ecs.a,two,4,1,1,,,,1,,,x\n", `line 2, ecs.a.b: column vcpu is "two"`},
		{"negative", header + "ecs.a.b,ecs.a,2,4,-1,1,,,,1,,,x\n", `column eni_quantity is "-1"`},
		{"not finite", header + "ecs.a.b,ecs.a,2,NaN,1,1,,,,1,,,x\n", `column mem_gib is "NaN"`},
		{"infinite", header + "ecs.a.b,ecs.a,2,4,1,1,,,,+Inf,,,x\n", `column bw_base_gbps is "+Inf"`},
		{"not a flag", header + "ecs.a.b,ecs.a,2,4,1,1,,,maybe,1,,,x\n", `column eni_trunk_supported is "maybe"`},
		{"no name", header + ",ecs.a,2,4,1,1,,,,1,,,x\n", "no instance_type"},
		{"twice", header + "ecs.a.b,ecs.a,2,4,1,1,,,,1,,,x\necs.a.b,ecs.a,2,4,1,1,,,,1,,,x\n", "listed twice"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := catalog.Parse(strings.NewReader(tt.text)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}
