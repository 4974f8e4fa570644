package compare

import (
	"bytes"
	"encoding/json"
	"flag"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "write the golden files anew")

// example returns a report with invented values.
func example() *Report {
	rounds := []Round{
		{Speed{9e9, 50e-6, 90e-6, 100e-6}, Speed{10e9, 40e-6, 90e-6, 80e-6}},
		{Speed{8e9, 60e-6, 80e-6, 90e-6}, Speed{10e9, 40e-6, 100e-6, 90e-6}},
		{Speed{11e9, 44e-6, 99e-6, 70e-6}, Speed{10e9, 40e-6, 90e-6, 70e-6}},
	}
	slow := []Round{{Speed{5e9, 80e-6, 180e-6, 160e-6}, Speed{10e9, 40e-6, 90e-6, 80e-6}}}
	return &Report{Date: "2026-01-31", Kernel: "6.1.0", CPUs: 2, Nodes: 3, InstanceType: "ecs.g6.2xlarge", Rounds: 3, Upgrades: 3, Pods: 30, Networks: []Network{
		{Name: "terway", Datapath: "ebpf", Default: true, Paths: []Path{summary(PathPodToPod, rounds), summary(PathPodToInstance, rounds[:1])},
			Seen: Seen{Pod: "192.168.32.5", As: "192.168.32.5", Node: "192.168.0.2"}, Policy: Policy{Enforced: true, Tried: 7, Passed: 4, Seconds: 1.25},
			Limits:       []Limit{{"egress", 10e6, 9.6e6}, {"ingress", 10e6, 9.8e6}},
			Addresses:    Addresses{Pods: 32, OnENIs: 45},
			LoadBalancer: &LoadBalancer{Direct: true, Sent: 12000}},
		{Name: "flannel", Paths: []Path{summary(PathPodToPod, slow)},
			Seen: Seen{Pod: "10.0.0.5", As: "192.168.0.2", Node: "192.168.0.2"}, Policy: Policy{Tried: 50, Passed: 50, Seconds: 15.1},
			Limits:       []Limit{{"egress", 10e6, 4.2e9}},
			Addresses:    Addresses{Pods: 32, InBlocks: 768, Blocks: []string{"10.0.0.0/24", "10.0.1.0/24", "10.0.2.0/24"}, Routes: 3},
			LoadBalancer: &LoadBalancer{Sent: 12000, Failed: 34}},
	}}
}

func TestMarkdown(t *testing.T) {
	for name, r := range map[string]*Report{
		"both.md": example(),
		// Without measurements no cell has a result.
		"nothing.md": {Date: "2026-01-31", Networks: []Network{{Name: "terway"}}},
	} {
		t.Run(name, func(t *testing.T) {
			var got bytes.Buffer
			if err := r.WriteMarkdown(&got); err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", name)
			if *update {
				if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got.String() != string(want) {
				t.Errorf("got\n%s\nwant\n%s", &got, want)
			}
		})
	}
}

// The committed document has the same rows that the program writes.
func TestTheDocumentIsUpToDate(t *testing.T) {
	b, err := os.ReadFile("../../../docs/comparison.md")
	if err != nil {
		t.Fatal(err)
	}
	first := func(table string) (out []string) {
		for line := range strings.Lines(table) {
			if strings.HasPrefix(line, "| ") {
				out = append(out, strings.TrimSpace(strings.SplitN(line, "|", 3)[1]))
			}
		}
		return out
	}
	if got, want := first(string(b)), first(example().Table()); !slices.Equal(got, want) {
		t.Errorf("docs/comparison.md has the rows\n%s\nthe program writes\n%s\nrun make compare", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestJSONHasEveryRound(t *testing.T) {
	b, err := json.Marshal(example())
	if err != nil {
		t.Fatal(err)
	}
	var back Report
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	if got := back.Networks[0].Paths[0]; len(got.Rounds) != 3 || got.Rounds[1].Pods.BitsPerSecond != 8e9 {
		t.Errorf("%+v", got)
	}
}

// Ratios are computed within a round, in which the machine was the same for both.
func TestSummaryComparesWithinARound(t *testing.T) {
	p := summary("x", []Round{
		{Speed{1e9, 1, 1, 1}, Speed{2e9, 1, 1, 1}}, // a busy moment
		{Speed{5e9, 1, 1, 1}, Speed{10e9, 1, 1, 1}},
	})
	if p.Stream != (Spread{0.5, 0.5, 0.5}) {
		t.Errorf("stream is %+v, want half in each round", p.Stream)
	}
}

func TestQuantiles(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		values := rapid.SliceOfN(rapid.Float64Range(0, 1000), 1, 200).Draw(rt, "values")
		before := slices.Clone(values)
		s := spreadOf(values)
		p99 := quantile(values, 0.99)
		if !slices.Equal(before, values) {
			rt.Fatal("the measurements were put into another order")
		}
		if s.Low > s.Median || s.Median > s.High || p99 < s.High || p99 > slices.Max(values) || s.Low < slices.Min(values) {
			rt.Fatalf("%+v, p99 %g", s, p99)
		}
		below, above := 0, 0
		for _, v := range values {
			if v < s.Median {
				below++
			}
			if v > s.Median {
				above++
			}
		}
		if below > len(values)/2 || above > len(values)/2 {
			rt.Fatalf("%d below and %d above the median of %d", below, above, len(values))
		}
		// Outliers in less than a quarter of the rounds do not change the spread.
		for i := range (len(values) - 1) / 4 {
			values[i] = rapid.SampledFrom([]float64{-1e9, 1e9}).Draw(rt, "a moment when something else ran")
		}
		if s := spreadOf(values); s.Low < slices.Min(before) || s.High > slices.Max(before) {
			rt.Fatalf("a quarter of the values moved the spread to %+v", s)
		}
	})
	hundred := make([]float64, 200)
	for i := range hundred {
		hundred[i] = float64(i)
	}
	if got := quantile(hundred, 0.99); math.Abs(got-197.01) > 1e-9 {
		t.Errorf("p99 of 0…199 is %g, want 197.01", got)
	}
	if got := spreadOf([]float64{5, 1, 2, 4, 3}); got != (Spread{3, 2, 4}) {
		t.Errorf("1…5 is %+v", got)
	}
}

func TestCommonDatapath(t *testing.T) {
	for in, want := range map[string]string{
		`{"items":[]}`: "",
		`{"items":[{"status":{"datapath":"route"}},{"status":{"datapath":"route"}},{"status":{}}]}`: "route",
		`{"items":[{"status":{"datapath":"route"}},{"status":{"datapath":"ebpf"}}]}`:                "ebpf, route",
	} {
		if got, err := commonDatapath([]byte(in)); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", in, got, err, want)
		}
	}
	if _, err := commonDatapath([]byte("{")); err == nil {
		t.Error("no error for what is no JSON")
	}
}
