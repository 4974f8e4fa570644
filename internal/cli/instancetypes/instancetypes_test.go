package instancetypes_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"terway.dev/terway/internal/catalog"
	"terway.dev/terway/internal/cli/instancetypes"
	"terway.dev/terway/internal/vpcsim"
	"terway.dev/terway/internal/vpcsim/faults"
)

var update = flag.Bool("update", false, "write the golden files anew")

// run returns the output of "terwayctl instance-types ARGS".
func run(args ...string) (string, error) {
	var out bytes.Buffer
	cmd := instancetypes.NewCommand()
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(&bytes.Buffer{})
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	err := cmd.ExecuteContext(context.Background())
	return out.String(), err
}

func TestTable(t *testing.T) {
	for name, args := range map[string][]string{
		"family":    {"--family", "g6,ecs.g6r,u1-c1m4"},
		"prefix":    {"--mode", "prefix", "--min-pods", "1000", "--generation", "7", "--max-vcpu", "16", "--sort", "pods"},
		"trunk":     {"--mode", "trunk", "--min-pods", "1", "--family", "g6,g7"},
		"bandwidth": {"--sort", "bandwidth", "--min-vcpu", "100", "--family", "c7,g7,r7"},
		"json":      {"--family", "hfc5", "-o", "json"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := run(args...)
			if err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", name+".txt")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func TestWrongFlagsAreNamedAllAtOnce(t *testing.T) {
	_, err := run("--mode", "vlan", "--sort", "age", "--min-vcpu", "8", "--max-vcpu", "4", "--min-pods", "-1")
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{`--mode "vlan"`, `--sort "age"`, "--max-vcpu 4", "--min-pods -1"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not name %s: %v", want, err)
		}
	}
	if _, err := run("--family", "g6,ecs.hfg66"); err == nil || !strings.Contains(err.Error(), `--family "ecs.hfg66": the catalogue has no such family, the nearest is hfg6`) {
		t.Errorf("a family that does not exist: %v", err)
	}
	for want, args := range map[string][]string{
		"no instance type of the catalogue matches": {"--family", "c5", "--min-vcpu", "1000"},
		"3 may match": {"--family", "g6r", "--min-pods", "1", "--min-vcpu", "16"},
	} {
		if _, err := run(args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %s", args, err, want)
		}
	}
	if _, err := run("--catalogue", "/none.csv"); err == nil || !strings.Contains(err.Error(), "--catalogue") {
		t.Errorf("a table that does not exist: %v", err)
	}
}

// One number for the kubelet, for the given mode.
func TestMaxPods(t *testing.T) {
	for mode, want := range map[string]string{"": "30\n", "shared": "30\n", "exclusive": "3\n", "prefix": "432\n"} {
		args := []string{"--max-pods", "ecs.g6.2xlarge"}
		if mode != "" {
			args = append(args, "--mode", mode)
		}
		if got, err := run(args...); err != nil || got != want {
			t.Errorf("mode %q: %q, %v; want %q", mode, got, err, want)
		}
	}
	for want, args := range map[string][]string{
		"mode shared needs": {"--max-pods", "ecs.g6r.large"},
		"no such":           {"--max-pods", "ecs.none.large"},
		`--mode "vlan"`:     {"--max-pods", "ecs.g6.2xlarge", "--mode", "vlan"},
	} {
		if got, err := run(args...); err == nil || got != "" || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %q, %v; want %s", args, got, err, want)
		}
	}
}

// For any query, every row shown is known to match.
func TestFiltersNeverGuess(t *testing.T) {
	type shown struct {
		VCPU, PodsShared, PodsExclusive, PodsPrefix, PodsTrunk catalog.Count
		Generation                                             int
	}
	rapid.Check(t, func(rt *rapid.T) {
		least, most := rapid.IntRange(0, 64).Draw(rt, "least"), rapid.IntRange(0, 128).Draw(rt, "most")
		pods := rapid.IntRange(0, 400).Draw(rt, "pods")
		mode := rapid.SampledFrom([]string{"shared", "exclusive", "prefix", "trunk"}).Draw(rt, "mode")
		out, err := run("-o", "json", "--mode", mode, "--generation", "5,6,7",
			"--min-vcpu", num(least), "--max-vcpu", num(least+most), "--min-pods", num(pods))
		if err != nil {
			if strings.Contains(err.Error(), "no instance type") {
				return
			}
			rt.Fatal(err)
		}
		var rows []shown
		if err := json.Unmarshal([]byte(out), &rows); err != nil {
			rt.Fatal(err)
		}
		for _, r := range rows {
			holds := map[string]catalog.Count{"shared": r.PodsShared, "exclusive": r.PodsExclusive, "prefix": r.PodsPrefix, "trunk": r.PodsTrunk}[mode]
			if r.Generation < 5 || r.Generation > 7 || least+most > 0 && (!r.VCPU.Known || r.VCPU.N < least || r.VCPU.N > least+most) ||
				pods > 0 && (!holds.Known || holds.N < pods) {
				rt.Fatalf("%+v is not known to have %d–%d vCPUs and room for %d pods (%s)", r, least, least+most, pods, mode)
			}
		}
	})
}

func num(n int) string { b, _ := json.Marshal(n); return string(b) }

// The environment variables of Alibaba Cloud's own tools.
const (
	accessKeyID     = "ALIBABA_CLOUD_ACCESS_KEY_ID"
	accessKeySecret = "ALIBABA_CLOUD_ACCESS_KEY_SECRET"
)

// End to end: the official SDK asks a cloud whose types differ from the table.
func TestRefresh(t *testing.T) {
	var types []catalog.Type
	for _, typ := range catalog.Default().All() {
		switch typ.Name {
		case "ecs.g6.large":
			typ.IPv4PerENI = catalog.Of(8)
		case "ecs.g6.xlarge":
			continue // not offered
		}
		types = append(types, typ)
	}
	types = append(types, catalog.Type{Name: "ecs.g10.large", Family: "ecs.g10", VCPU: catalog.Of(2), MemoryGiB: 8,
		ENIs: catalog.Of(3), IPv4PerENI: catalog.Of(20), BandwidthBase: 2.5})
	sold, err := catalog.New(types)
	if err != nil {
		t.Fatal(err)
	}
	sim, err := vpcsim.New(vpcsim.Options{Seed: 1, Catalog: sold})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sim.Close(); err != nil {
			t.Error(err)
		}
	})
	account := sim.Account()
	t.Setenv(accessKeyID, account.AccessKeyID)
	t.Setenv(accessKeySecret, account.AccessKeySecret)
	table := filepath.Join(t.TempDir(), "types.csv")
	args := []string{"refresh", "--region", sim.Region(), "--endpoint", sim.Endpoint(), "--date", "2026-11-24", "--out", table}

	out, err := run(args...)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"new:\n  ecs.g10.large\n", "ecs.g6.large: ipv4_per_eni 6, now 8\n",
		"not offered in " + sim.Region() + ", their rows stay:\n  ecs.g6.xlarge\n", "1 new, ", "written to " + table} {
		if !strings.Contains(out, want) {
			t.Errorf("the answer lacks %q", want)
		}
	}
	if t.Failed() {
		t.Log(out)
	}
	list, err := run("--catalogue", table, "--family", "g10,g6", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var rows []struct {
		Type, Source       string
		PodsShared         catalog.Count
		BandwidthGbps      *float64
		BandwidthBurstGbps *float64
	}
	if err := json.Unmarshal([]byte(list), &rows); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, r := range rows {
		seen[r.Type] = true
		switch r.Type {
		case "ecs.g10.large":
			if r.PodsShared != catalog.Of(40) || r.Source != "DescribeInstanceTypes 2026-11-24" || r.BandwidthGbps == nil || *r.BandwidthGbps != 2.5 || r.BandwidthBurstGbps != nil {
				t.Errorf("%+v", r)
			}
		case "ecs.g6.large":
			if r.PodsShared != catalog.Of(8) || !strings.HasPrefix(r.Source, "DescribeInstanceTypes 2026-11-24; the rest: ") || r.BandwidthBurstGbps == nil {
				t.Errorf("%+v", r)
			}
		case "ecs.g6.xlarge":
			if strings.Contains(r.Source, "DescribeInstanceTypes") {
				t.Errorf("%+v", r)
			}
		}
	}
	if !seen["ecs.g10.large"] || !seen["ecs.g6.large"] || !seen["ecs.g6.xlarge"] {
		t.Errorf("the new table shows %v", seen)
	}
	// The same answer again changes nothing.
	again, err := run(append(args, "--catalogue", table)...)
	if err != nil || !strings.Contains(again, "0 new, 0 changed, ") {
		t.Errorf("again: %q, %v", again, err)
	}

	t.Run("refused", func(t *testing.T) {
		before, err := os.ReadFile(table)
		if err != nil {
			t.Fatal(err)
		}
		t.Setenv(accessKeySecret, "wrong")
		if _, err := run(args...); err == nil || !strings.Contains(err.Error(), "SignatureDoesNotMatch") || strings.Contains(err.Error(), "controller") {
			t.Errorf("a wrong secret: %v", err)
		}
		t.Setenv(accessKeySecret, account.AccessKeySecret)
		if err := sim.AddFaults(faults.Rule{Name: "no right", Action: "DescribeInstanceTypes", Error: &faults.Error{Code: "Forbidden.RAM", Status: 403}}); err != nil {
			t.Fatal(err)
		}
		if _, err := run(args...); err == nil || !strings.Contains(err.Error(), "let your RAM user or role do ecs:DescribeInstanceTypes") {
			t.Errorf("without the right: %v", err)
		}
		t.Setenv("ALIBABA_CLOUD_REGION_ID", "")
		if _, err := run("refresh"); err == nil || !strings.Contains(err.Error(), "--region") {
			t.Errorf("no region: %v", err)
		}
		if _, err := run("refresh", "--date", "today"); err == nil || !strings.Contains(err.Error(), `--date "today"`) {
			t.Errorf("a day that is none: %v", err)
		}
		if after, err := os.ReadFile(table); err != nil || !bytes.Equal(before, after) {
			t.Errorf("a refused refresh changed the table: %v", err)
		}
	})
}
