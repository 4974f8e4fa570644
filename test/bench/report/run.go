// Package report computes comparable numbers from the rounds of a benchmark: medians, ratios to
// a baseline of the same round, and the spread of these ratios. It writes them for people, as
// JSON and into a document.
//
// It measures nothing; all numbers come from measurements.
package report

import (
	"fmt"
	"slices"
)

// Key identifies a series of measurements.
type Key struct {
	// Datapath is what was measured: one of our datapaths, or what it is compared with.
	Datapath string
	Metric   string
}

// Run collects the rounds of a run.
type Run struct {
	rounds []map[Key]float64
}

// Add adds a value that was measured in a round.
func (r *Run) Add(round int, k Key, value float64) {
	for len(r.rounds) <= round {
		r.rounds = append(r.rounds, map[Key]float64{})
	}
	r.rounds[round][k] = value
}

// Rounds returns the number of rounds.
func (r *Run) Rounds() int { return len(r.rounds) }

// Comparison is a line of the result: a series and its baseline.
type Comparison struct {
	// Name is the metric's name in the result.
	Name string
	Unit string
	Of   Key
	// To is the zero Key for a value without a baseline.
	To Key
	// Baseline is the name of To.
	Baseline string
	Goal     Goal
	// Cell is its place if it stands in a table with others; the zero value if it has a line
	// of its own.
	Cell Cell
}

// Cell is a place in a table. Comparisons of a datapath that follow each other, have cells and the same
// unit and baseline are a table.
type Cell struct {
	Row, Column string
}

// Goal is the goal for the ratio, or for the value if there is no baseline; the zero value is
// none.
type Goal struct {
	AtLeast, AtMost float64
}

// String formats the goal for people.
func (g Goal) String() string {
	switch {
	case g.AtLeast != 0 && g.AtMost != 0:
		return fmt.Sprintf("%.2f–%.2f", g.AtLeast, g.AtMost)
	case g.AtLeast != 0:
		return fmt.Sprintf("≥ %.2f", g.AtLeast)
	case g.AtMost != 0:
		return fmt.Sprintf("≤ %.2f", g.AtMost)
	}
	return ""
}

// Met reports whether a ratio or value reaches the goal.
func (g Goal) Met(what float64) bool {
	return (g.AtLeast == 0 || what >= g.AtLeast) && (g.AtMost == 0 || what <= g.AtMost)
}

// Result is a line of the result.
type Result struct {
	Datapath string `json:"datapath"`
	Metric   string `json:"metric"`
	// Value is the median over the rounds.
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	// Baseline is the name of the baseline; empty if there is none, and then there is no Ratio.
	Baseline string `json:"baseline"`
	// Ratio is the median of the rounds' ratios, each to the baseline of its own round.
	Ratio float64 `json:"ratio"`
	// Spread is the smallest and the largest of these ratios.
	Spread [2]float64 `json:"spread"`
	// Goal is empty if there is none.
	Goal string `json:"goal,omitempty"`
	Met  *bool  `json:"met,omitempty"`

	cell Cell
}

// Compare computes the results. Each comparison needs a round with both series.
func (r *Run) Compare(list []Comparison) ([]Result, error) {
	var out []Result
	for _, c := range list {
		var values, ratios []float64
		for _, round := range r.rounds {
			value, ok := round[c.Of]
			base, also := round[c.To]
			if ok && c.To == (Key{}) {
				values, ratios = append(values, value), append(ratios, 0)
				continue
			}
			if !ok || !also || base == 0 {
				continue
			}
			values = append(values, value)
			ratios = append(ratios, value/base)
		}
		if len(ratios) == 0 {
			return nil, fmt.Errorf("%s of %s: no round measured it and %s of %s", c.Of.Metric, c.Of.Datapath, c.To.Metric, c.To.Datapath)
		}
		res := Result{
			Datapath: c.Of.Datapath, Metric: c.Name, Value: Median(values), Unit: c.Unit, Baseline: c.Baseline,
			Ratio: Median(ratios), Spread: [2]float64{slices.Min(ratios), slices.Max(ratios)}, Goal: c.Goal.String(), cell: c.Cell,
		}
		if res.Goal != "" {
			what := res.Ratio
			if c.To == (Key{}) {
				what = res.Value
			}
			met := c.Goal.Met(what)
			res.Met = &met
		}
		out = append(out, res)
	}
	return out, nil
}

// Median of an even number of values is the mean of the two middle ones.
func Median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	if n == 0 {
		return 0
	}
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}
