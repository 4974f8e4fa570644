//go:build bench

package policy

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"terway.dev/terway/test/bench/report"
)

// number reads a setting of the command; a usual value of 0 means that there is none.
func number(t testing.TB, name string, usual int) int {
	t.Helper()
	s := os.Getenv(name)
	if s == "" && usual > 0 {
		return usual
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q: want a number from 1 on", name, s)
	}
	return n
}

// A bench is a part of bench-policy that is running.
type bench struct {
	t       testing.TB
	part    string
	what    string // of the table
	started time.Time
	load    float64
	run     report.Run
	list    []report.Comparison
}

func begin(t testing.TB, part, what string) *bench {
	t.Helper()
	load, err := report.Load()
	if err != nil {
		t.Fatal(err)
	}
	return &bench{t: t, part: part, what: what, started: time.Now(), load: load}
}

// say prints immediately what go test would buffer.
func (b *bench) say(format string, args ...any) {
	fmt.Printf("%4.0f s  %s\n", time.Since(b.started).Seconds(), fmt.Sprintf(format, args...))
}

// value adds a line without a baseline to the report.
func (b *bench) value(metric, unit string, v float64, goal report.Goal) {
	k := report.Key{Datapath: b.what, Metric: metric}
	b.run.Add(0, k, v)
	b.list = append(b.list, report.Comparison{Name: metric, Unit: unit, Of: k, Goal: goal})
}

// line adds a line with the values of all rounds, and those of its baseline, to the report.
func (b *bench) line(what, metric, unit string, values, to []float64, goal report.Goal) {
	k := report.Key{Datapath: what, Metric: metric}
	base := report.Key{Datapath: what, Metric: metric + " (to)"}
	for round, v := range values {
		b.run.Add(round, k, v)
		b.run.Add(round, base, to[round])
	}
	b.list = append(b.list, report.Comparison{Name: metric, Unit: unit, Of: k, To: base, Baseline: "10 rules", Goal: goal})
}

// finish prints the report, and writes it to OUT and DOC.
func (b *bench) finish(notes ...string) {
	b.t.Helper()
	results, err := b.run.Compare(b.list)
	if err != nil {
		b.t.Fatal(err)
	}
	r := report.Report{Command: "make bench-policy", Date: b.started, Load: [2]float64{b.load}, Rounds: b.run.Rounds(), Notes: notes, Results: results}
	if err := r.Finish("../../../docs/benchmarks.md", "bench-policy", b.part); err != nil {
		b.t.Fatal(err)
	}
}
