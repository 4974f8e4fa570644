//go:build bench

package bench

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"terway.dev/terway/test/bench/report"
	"terway.dev/terway/test/bench/traffic"
)

// number reads a setting of the command, for example ROUNDS=3 make bench-datapath.
func number(t testing.TB, name string, usual int) int {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return usual
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q: want a number from 1 on", name, s)
	}
	return n
}

// chosen returns the datapaths to measure: DATAPATHS, separated by commas, or all that the
// kernel supports. The notes list those that are left out.
func chosen(t testing.TB) (list []kind, notes []string) {
	t.Helper()
	asked := strings.FieldsFunc(os.Getenv("DATAPATHS"), func(r rune) bool { return r == ',' })
	var names []string
	for _, k := range kinds() {
		names = append(names, k.name)
		switch {
		case len(asked) > 0 && !slices.Contains(asked, k.name):
		case k.lacks != nil:
			notes = append(notes, fmt.Sprintf("Not measured: %s; %v.", k.name, k.lacks))
		default:
			list = append(list, k)
		}
	}
	for _, name := range asked {
		if !slices.Contains(names, name) {
			t.Fatalf("DATAPATHS: %q is none of %s", name, strings.Join(names, ", "))
		}
	}
	return list, notes
}

// say prints immediately what go test would buffer.
func say(format string, args ...any) {
	fmt.Printf(format+"\n", args...)
}

// bench is a running benchmark.
type bench struct {
	t       testing.TB
	name    string
	part    string // empty: it is the benchmark's only one
	started time.Time
	load    float64
	run     report.Run
}

func begin(t testing.TB, name string) *bench {
	t.Helper()
	load, err := report.Load()
	if err != nil {
		t.Fatal(err)
	}
	traffic.Prefer(t)
	// Threads that block in system calls must not wait for each other.
	runtime.GOMAXPROCS(traffic.Threads + runtime.NumCPU())
	return &bench{t: t, name: name, started: time.Now(), load: load}
}

func (b *bench) progress(format string, args ...any) {
	say("%4.0f s  %s", time.Since(b.started).Seconds(), fmt.Sprintf(format, args...))
}

// finish prints the report, and writes it to OUT and DOC.
func (b *bench) finish(list []report.Comparison, notes []string) {
	b.t.Helper()
	results, err := b.run.Compare(list)
	if err != nil {
		b.t.Fatal(err)
	}
	r := report.Report{
		Command: "make " + b.name, Date: b.started, Load: [2]float64{b.load}, Rounds: b.run.Rounds(), Notes: notes, Results: results,
	}
	if err := r.Finish("../../docs/benchmarks.md", b.name, b.part); err != nil {
		b.t.Fatal(err)
	}
}
