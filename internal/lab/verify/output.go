package verify

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"terway.dev/terway/internal/lab/instruments"
)

// WriteMoving prints that the nodes are being switched.
func WriteMoving(w io.Writer, to string) {
	fmt.Fprintf(w, "\nswitching the nodes to %s\n", to)
}

// WriteBegin prints the nodes' datapath and the head of the table of results.
func WriteBegin(w io.Writer, g *Group) {
	if g.Lacking != "" || g.Error != "" {
		fmt.Fprintf(w, "no check has run on %s: %s\n", g.Datapath, g.Lacking+g.Error)
		return
	}
	var whys []string
	for _, n := range g.Nodes {
		if !slices.Contains(whys, n.Why) {
			whys = append(whys, n.Why)
		}
	}
	for _, why := range whys {
		var nodes []string
		name := ""
		for _, n := range g.Nodes {
			if n.Why == why {
				nodes, name = append(nodes, n.Node), n.Datapath
			}
		}
		fmt.Fprintf(w, "datapath %s on %s: %s\n", name, strings.Join(nodes, ", "), why)
	}
	fmt.Fprintf(w, "      %-25s %6s  %s\n", "CHECK", "TIME", "MEASURED")
}

// WriteLine prints a result as a row of the table.
func WriteLine(w io.Writer, r Result) {
	word := "ok  "
	switch {
	case r.Untested != "":
		word, r.Measured = "-   ", instruments.NothingToTest(r.Untested).Error()
	case !r.OK:
		word = "FAIL"
	}
	fmt.Fprintf(w, "%s  %-25s %5.1fs  %s\n", word, r.Name, r.Seconds, r.Measured)
	if r.Error != "" {
		for line := range strings.Lines(r.Error) {
			fmt.Fprintf(w, "        %s\n", strings.TrimRight(line, "\n"))
		}
	}
}

// WriteSummary prints the results of several datapaths.
func WriteSummary(w io.Writer, groups []*Group) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "\nDATAPATH\tPASSED\tFAILED\tUNTESTED\tTIME\tWHY NOT")
	for _, g := range groups {
		why := "-"
		if g.Lacking != "" || g.Error != "" {
			why = g.Lacking + g.Error
		}
		passed, failed := 0, g.Failed()
		for _, r := range g.Results {
			if r.OK {
				passed++
			}
		}
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%.0fs\t%s\n", g.Datapath, passed, failed, len(g.Results)-passed-failed, g.Seconds, why)
	}
	return t.Flush()
}

// A Summary is all results for programs.
type Summary struct {
	Checks []Result `json:"checks"`
	// NotFor are the checks that do not apply to the network.
	NotFor    []NotFor `json:"notFor,omitempty"`
	Datapaths []*Group `json:"datapaths,omitempty"`
}

// Summarize returns the results of groups.
func Summarize(groups []*Group, not []NotFor) Summary {
	answer := Summary{Checks: []Result{}, NotFor: not}
	for _, g := range groups {
		answer.Checks = append(answer.Checks, g.Results...)
		if g.Datapath != "" {
			answer.Datapaths = append(answer.Datapaths, g)
		}
	}
	return answer
}
