package report

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		in   []float64
		want float64
	}{{[]float64{3, 1, 2}, 2}, {[]float64{4, 1, 3, 2}, 2.5}, {[]float64{7}, 7}, {nil, 0}} {
		if got := Median(c.in); got != c.want {
			t.Errorf("Median(%v) = %v, want %v", c.in, got, c.want)
		}
	}
}

func run() *Run {
	r := &Run{}
	host, ours := Key{"host", "stream"}, Key{"route", "stream"}
	for round, v := range [][2]float64{{10, 9}, {20, 16}, {10, 8.5}} {
		r.Add(round, host, v[0])
		r.Add(round, ours, v[1])
	}
	return r
}

// A ratio uses the baseline of its own round: the second round, in which the machine was twice
// as fast, must not change the result.
func TestRatiosAreOfOneRound(t *testing.T) {
	met := true
	got, err := run().Compare([]Comparison{{
		Name: "stream", Unit: "Gbit/s", Of: Key{"route", "stream"}, To: Key{"host", "stream"}, Baseline: "host",
		Goal: Goal{AtLeast: 0.85},
	}})
	if err != nil {
		t.Fatal(err)
	}
	want := []Result{{
		Datapath: "route", Metric: "stream", Value: 9, Unit: "Gbit/s", Baseline: "host", Ratio: 0.85,
		Spread: [2]float64{0.8, 0.9}, Goal: "≥ 0.85", Met: &met,
	}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestNothingIsComparedThatWasNotMeasured(t *testing.T) {
	r := run()
	r.Add(0, Key{"route", "alone"}, 1)
	for _, c := range []Comparison{
		{Of: Key{"route", "alone"}, To: Key{"host", "alone"}},
		{Of: Key{"ebpf", "stream"}, To: Key{"host", "stream"}},
	} {
		if got, err := r.Compare([]Comparison{c}); err == nil {
			t.Errorf("%v: got %+v, want an error", c.Of, got)
		}
	}
}

func TestGoals(t *testing.T) {
	for _, c := range []struct {
		g     Goal
		ratio float64
		want  bool
	}{
		{Goal{AtLeast: 0.97}, 0.97, true}, {Goal{AtLeast: 0.97}, 0.96, false},
		{Goal{AtMost: 1.05}, 1.05, true}, {Goal{AtMost: 1.05}, 1.06, false}, {Goal{}, 99, true},
		{Goal{AtLeast: 0.97, AtMost: 1.02}, 1.02, true}, {Goal{AtLeast: 0.97, AtMost: 1.02}, 1.03, false}, {Goal{AtLeast: 0.97, AtMost: 1.02}, 0.96, false},
	} {
		if got := c.g.Met(c.ratio); got != c.want {
			t.Errorf("%+v.Met(%v) = %v", c.g, c.ratio, got)
		}
	}
}

func report(t *testing.T) *Report {
	t.Helper()
	list, err := run().Compare([]Comparison{
		{Name: "stream", Unit: "Gbit/s", Of: Key{"host", "stream"}, To: Key{"host", "stream"}, Baseline: "host"},
		{Name: "stream", Unit: "Gbit/s", Of: Key{"route", "stream"}, To: Key{"host", "stream"}, Baseline: "host", Goal: Goal{AtLeast: 0.9}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return &Report{Command: "make bench-x", Date: time.Unix(0, 0).UTC(), Kernel: "6.1", CPUs: 2, Load: [2]float64{1, 2}, Rounds: 3,
		Notes: []string{"A note."}, Results: list}
}

func TestText(t *testing.T) {
	var b bytes.Buffer
	if err := report(t).WriteText(&b); err != nil {
		t.Fatal(err)
	}
	const want = `make bench-x, 1970-01-01 00:00 UTC
Linux 6.1, 2 CPUs, load 1.0 before and 2.0 after, 3 rounds
A note.

host      median          ratio  spread     to    goal
  stream  10.0    Gbit/s  1.00   1.00–1.00  host

route     median          ratio  spread     to    goal
  stream  9.00    Gbit/s  0.85   0.80–0.90  host  ≥ 0.90 not met
`
	if got := trimLines(b.String()); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// The JSON format, which programs rely on.
func TestJSON(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out.json")
	if err := report(t).WriteJSON(path); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got struct{ Results []map[string]any }
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"datapath": "route", "metric": "stream", "value": 9.0, "unit": "Gbit/s", "baseline": "host", "ratio": 0.85,
		"spread": []any{0.8, 0.9}, "goal": "≥ 0.90", "met": false,
	}
	if len(got.Results) != 2 || !reflect.DeepEqual(got.Results[1], want) {
		t.Errorf("got %v, want %v", got.Results, want)
	}
}

func TestReplace(t *testing.T) {
	const doc = "before\n<!-- a -->\nold\n<!-- /a -->\nafter <!-- b -->\n"
	got, err := Replace(doc, "a", "new\n")
	if want := strings.Replace(doc, "old", "new", 1); err != nil || got != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	for _, name := range []string{"b", "c"} {
		if _, err := Replace(doc, name, "x"); err == nil {
			t.Errorf("marks of %q: no error", name)
		}
	}
}

// Results with cells are a table: rows and columns in the order in which they come, the spread of
// the whole row, and a mark at what misses its goal. Others keep a line each.
func TestTable(t *testing.T) {
	r := &Run{}
	var list []Comparison
	add := func(c Comparison, values, bases []float64) {
		c.Of = Key{"route", c.Name}
		if c.Baseline != "" {
			c.To = Key{"route", c.Name + " base"}
		}
		for i, v := range values {
			r.Add(i, c.Of, v)
			if c.Baseline != "" {
				r.Add(i, c.To, bases[i])
			}
		}
		list = append(list, c)
	}
	goal := Goal{AtLeast: 0.9}
	ten := []float64{10, 10, 10}
	add(Comparison{Name: "out 1", Unit: "Mbit/s", Baseline: "limit", Cell: Cell{"out", "one"}, Goal: goal}, []float64{9, 9.5, 10}, ten)
	add(Comparison{Name: "out 8", Unit: "Mbit/s", Baseline: "limit", Cell: Cell{"out", "eight"}, Goal: Goal{AtLeast: 0.97}}, []float64{8, 8.5, 8.2}, ten)
	add(Comparison{Name: "in 8", Unit: "Mbit/s", Baseline: "limit", Cell: Cell{"in", "eight"}}, ten, ten)
	add(Comparison{Name: "again", Unit: "%", Cell: Cell{"again", "eight"}, Goal: Goal{AtMost: 0.1}}, []float64{0.02}, nil)
	add(Comparison{Name: "alone", Unit: "ms"}, []float64{3}, nil)
	results, err := r.Compare(list)
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	if err := (&Report{Results: results}).WriteText(&got); err != nil {
		t.Fatal(err)
	}
	want := `
route: ÷ limit  one   eight   spread     goal
  out           0.95  0.82 !  0.80–1.00  ≥ 0.90, ≥ 0.97 not met (!)
  in                  1.00    1.00–1.00

route: %  eight  goal
  again   0.02   ≤ 0.10 met

route    median      ratio  spread  to  goal
  alone  3.00    ms
`
	if _, text, _ := strings.Cut(got.String(), "rounds\n"); trimLines(text) != want {
		t.Errorf("got\n%s\nwant\n%s", text, want)
	}
	results = append(results[:1], results[0])
	if err := (&Report{Results: results}).WriteText(&got); err == nil {
		t.Error("two results in one cell: no error")
	}
}
