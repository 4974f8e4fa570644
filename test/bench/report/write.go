package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"terway.dev/terway/internal/kernel"
)

// Report is the result of a run, with its environment.
type Report struct {
	// Command is the command of the run, as a user types it.
	Command string    `json:"command"`
	Date    time.Time `json:"date"`
	Kernel  string    `json:"kernel"`
	CPUs    int       `json:"cpus"`
	// Load is the machine's load average over the last minute, before and after the run: other
	// processes distort the results.
	Load   [2]float64 `json:"load"`
	Rounds int        `json:"rounds"`
	// Notes are needed to understand the results.
	Notes   []string `json:"notes,omitempty"`
	Results []Result `json:"results"`
}

// Load returns the load average over the last minute.
func Load() (load float64, err error) {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0, fmt.Errorf("read the load: %w", err)
	}
	if _, err := fmt.Sscan(string(b), &load); err != nil {
		return 0, fmt.Errorf("/proc/loadavg %q: %w", b, err)
	}
	return load, nil
}

// WriteText writes tables and lines for each datapath.
func (r *Report) WriteText(w io.Writer) error {
	fmt.Fprintf(w, "%s, %s\n", r.Command, r.Date.Format("2006-01-02 15:04 MST"))
	fmt.Fprintf(w, "Linux %s, %d CPUs, load %.1f before and %.1f after, %d rounds\n", r.Kernel, r.CPUs, r.Load[0], r.Load[1], r.Rounds)
	for _, n := range r.Notes {
		fmt.Fprintf(w, "%s\n", n)
	}
	for i := 0; i < len(r.Results); {
		rest := r.Results[i:]
		n := slices.IndexFunc(rest, func(res Result) bool { return !rest[0].together(res) })
		if n < 0 {
			n = len(rest)
		}
		write := writeLines
		if rest[0].cell != (Cell{}) {
			write = writeTable
		}
		fmt.Fprintln(w)
		if err := write(w, rest[:n]); err != nil {
			return fmt.Errorf("write the report: %w", err)
		}
		i += n
	}
	return nil
}

// together reports whether two results stand in the same block.
func (res Result) together(o Result) bool {
	if res.Datapath != o.Datapath || (res.cell == Cell{}) != (o.cell == Cell{}) {
		return false
	}
	return res.cell == (Cell{}) || res.Unit == o.Unit && res.Baseline == o.Baseline
}

// writeLines writes a line for each result of a datapath.
func writeLines(w io.Writer, list []Result) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "%s\tmedian\t\tratio\tspread\tto\tgoal\n", list[0].Datapath)
	for _, res := range list {
		verdict := ""
		if res.Met != nil {
			verdict = res.Goal + " not met"
			if *res.Met {
				verdict = res.Goal + " met"
			}
		}
		if res.Baseline == "" {
			fmt.Fprintf(t, "  %s\t%s\t%s\t\t\t\t%s\n", res.Metric, figure(res.Value), res.Unit, verdict)
			continue
		}
		fmt.Fprintf(t, "  %s\t%s\t%s\t%.2f\t%.2f–%.2f\t%s\t%s\n",
			res.Metric, figure(res.Value), res.Unit, res.Ratio, res.Spread[0], res.Spread[1], res.Baseline, verdict)
	}
	return t.Flush()
}

// writeTable writes results with the same unit and baseline as a table: ratios if there is a
// baseline, else values. A figure that misses its goal is marked. The spread is that of the
// whole row.
func writeTable(w io.Writer, list []Result) error {
	what, first := list[0].Unit, list[0]
	if first.Baseline != "" {
		what = "÷ " + first.Baseline
	}
	var columns, rows []string
	cells := map[Cell]Result{}
	for _, res := range list {
		if _, twice := cells[res.cell]; twice {
			return fmt.Errorf("two results are %q in column %q", res.cell.Row, res.cell.Column)
		}
		cells[res.cell] = res
		if !slices.Contains(columns, res.cell.Column) {
			columns = append(columns, res.cell.Column)
		}
		if !slices.Contains(rows, res.cell.Row) {
			rows = append(rows, res.cell.Row)
		}
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "%s: %s\t%s\t", first.Datapath, what, strings.Join(columns, "\t"))
	if first.Baseline != "" {
		fmt.Fprint(t, "spread\t")
	}
	fmt.Fprintln(t, "goal")
	for _, row := range rows {
		fmt.Fprintf(t, "  %s\t", row)
		spread, verdict := [2]float64{math.Inf(1), math.Inf(-1)}, ""
		var goals []string
		for _, column := range columns {
			res, ok := cells[Cell{row, column}]
			if !ok {
				fmt.Fprint(t, "\t")
				continue
			}
			text := figure(res.Value)
			if res.Baseline != "" {
				text = fmt.Sprintf("%.2f", res.Ratio)
				spread = [2]float64{min(spread[0], res.Spread[0]), max(spread[1], res.Spread[1])}
			}
			if res.Met != nil {
				if !slices.Contains(goals, res.Goal) {
					goals = append(goals, res.Goal)
				}
				if verdict == "" {
					verdict = " met"
				}
				if !*res.Met {
					text, verdict = text+" !", " not met (!)"
				}
			}
			fmt.Fprintf(t, "%s\t", text)
		}
		if first.Baseline != "" {
			fmt.Fprintf(t, "%.2f–%.2f\t", spread[0], spread[1])
		}
		fmt.Fprintln(t, strings.Join(goals, ", ")+verdict)
	}
	return t.Flush()
}

// figure formats a number with at least three significant digits.
func figure(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// Finish completes the report with the load and the kernel's version as they are now, prints it,
// and does what the command's settings say: OUT is a file for it as JSON; with DOC it is written
// between the marks with the benchmark's name in the document; and with GATE a missed goal is an
// error. A benchmark of several parts has a file and a block for each: FILE.part, name-part.
func (r *Report) Finish(doc, name, part string) (err error) {
	if r.Kernel, err = kernel.Version(); err != nil {
		return err
	}
	if r.Load[1], err = Load(); err != nil {
		return err
	}
	r.CPUs = runtime.NumCPU()
	fmt.Println()
	if err := r.WriteText(os.Stdout); err != nil {
		return err
	}
	path := os.Getenv("OUT")
	if part != "" {
		name += "-" + part
		if path != "" {
			path += "." + part
		}
	}
	if path != "" {
		if err := r.WriteJSON(path); err != nil {
			return err
		}
	}
	if os.Getenv("DOC") != "" {
		if err := r.WriteDoc(doc, name); err != nil {
			return err
		}
	}
	if os.Getenv("GATE") == "" {
		return nil
	}
	for _, res := range r.Results {
		if res.Met != nil && !*res.Met {
			err = errors.Join(err, fmt.Errorf("%s of %s: the goal is missed, %s", res.Metric, res.Datapath, res.Goal))
		}
	}
	return err
}

// WriteJSON writes the report to a file.
func (r *Report) WriteJSON(path string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("report as JSON: %w", err)
	}
	if err := os.WriteFile(path, append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

// WriteDoc writes the report as text between the marks with this name in a document.
func (r *Report) WriteDoc(path, name string) error {
	old, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("document for the report: %w", err)
	}
	var text bytes.Buffer
	if err := r.WriteText(&text); err != nil {
		return err
	}
	doc, err := Replace(string(old), name, "```\n"+trimLines(text.String())+"```\n")
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := os.WriteFile(path, []byte(doc), 0o644); err != nil {
		return fmt.Errorf("write the report into a document: %w", err)
	}
	return nil
}

// trimLines removes trailing blanks, which empty columns leave.
func trimLines(s string) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		b.WriteString(strings.TrimRight(line, " \n"))
		b.WriteByte('\n')
	}
	return b.String()
}

// Replace replaces the text between the lines <!-- name --> and <!-- /name --> of a document.
func Replace(doc, name, text string) (string, error) {
	begin, end := "<!-- "+name+" -->\n", "<!-- /"+name+" -->\n"
	before, rest, ok := strings.Cut(doc, begin)
	_, after, also := strings.Cut(rest, end)
	if !ok || !also {
		return "", fmt.Errorf("want the lines %q and, after it, %q", strings.TrimSpace(begin), strings.TrimSpace(end))
	}
	return before + begin + text + end + after, nil
}
