package conformance

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/verify"
)

// Files of the source tree that Keep writes.
const (
	document = "docs/conformance.md"
	folder   = "test/conformance"
	results  = folder + "/results.json"
)

// Keep puts outcomes of whole suites into the source tree: what came out before of the same suite and kind is replaced, what
// came out of others stays.
func Keep(source string, outcomes []Outcome) error {
	path := filepath.Join(source, results)
	var all []Outcome
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, &all)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read the results so far, %s: %w", path, err)
	}
	for _, o := range outcomes {
		all = slices.DeleteFunc(all, func(old Outcome) bool { return old.Suite == o.Suite && old.Kind == o.Kind })
		all = append(all, o)
		if o.report == nil {
			continue
		}
		if err := write(filepath.Join(source, folder, "reports", o.Suite+"-"+o.Kind+".yaml"), o.report); err != nil {
			return err
		}
	}
	order(all)
	if b, err = json.MarshalIndent(all, "", " "); err != nil {
		return fmt.Errorf("encode the results: %w", err)
	}
	if err := write(path, append(b, '\n')); err != nil {
		return err
	}
	var doc bytes.Buffer
	writeDocument(&doc, all)
	return write(filepath.Join(source, document), doc.Bytes())
}

func write(path string, b []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o644)
}

// order sorts outcomes by suite and kind, in the order in which they run.
func order(all []Outcome) {
	at := func(o Outcome) int {
		suite := slices.IndexFunc(Suites(), func(s Suite) bool { return s.Name == o.Suite })
		return 100*suite + slices.Index(verify.Datapaths(), o.Kind)
	}
	slices.SortStableFunc(all, func(a, b Outcome) int { return at(a) - at(b) })
}

// WriteText prints how many specs ended how, and those that did not pass.
func WriteText(w io.Writer, outcomes []Outcome) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "SUITE\tKIND\tPASSED\tFAILED\tSKIPPED")
	for _, o := range outcomes {
		if o.NotRun != "" {
			fmt.Fprintf(t, "%s\t%s\tnot run: %s\n", o.Suite, o.Kind, o.NotRun)
			continue
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%d\n", o.Suite, o.Kind, o.Count(Passed), o.Count(Failed), o.Count(Skipped))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for i := range outcomes {
		o := &outcomes[i]
		known := suiteOf(o).known
		for _, s := range o.Specs {
			if s.State == Passed {
				continue
			}
			why := s.Why
			if reason := known[s.Name]; reason != "" {
				why += " (known: " + reason + ")"
			}
			fmt.Fprintf(w, "%s on %s: %s: %s: %s\n", o.Suite, o.Kind, s.State, s.Name, why)
		}
	}
	return nil
}

//go:embed head.md
var head string

// writeDocument writes the document from all results.
func writeDocument(w io.Writer, all []Outcome) {
	var suites []string
	for _, s := range Suites() {
		version := lab.KubernetesVersion
		if s.Name == "cluster-network-policy" {
			version = policyAPIVersion
		}
		suites = append(suites, fmt.Sprintf("| %s | %s, %s | %d |", s.Name, s.About, version, s.Count))
	}
	io.WriteString(w, strings.Replace(head, "SUITES", strings.Join(suites, "\n"), 1))
	for _, s := range Suites() {
		writeSuite(w, s, slices.DeleteFunc(slices.Clone(all), func(o Outcome) bool { return o.Suite != s.Name }))
	}
}

// policyAPIVersion is the version of network-policy-api in the suites' module; a test compares them.
const policyAPIVersion = "v0.3.0"

func writeSuite(w io.Writer, suite Suite, outcomes []Outcome) {
	fmt.Fprintf(w, "\n## %s\n\n", suite.Name)
	if len(outcomes) == 0 {
		io.WriteString(w, "It has not run yet.\n")
		return
	}
	io.WriteString(w, "| kind | passed | failed | skipped | date | kernel |\n|---|---|---|---|---|---|\n")
	for _, o := range outcomes {
		if o.NotRun != "" {
			fmt.Fprintf(w, "| %s | not run: %s | | | %s | %s |\n", o.Kind, o.NotRun, o.Date, o.Kernel)
			continue
		}
		fmt.Fprintf(w, "| %s | %d | %d | %d | %s | %s |\n", o.Kind, o.Count(Passed), o.Count(Failed), o.Count(Skipped), o.Date, o.Kernel)
	}
	outcomes = slices.DeleteFunc(outcomes, func(o Outcome) bool { return o.NotRun != "" })
	if len(outcomes) == 0 {
		return
	}
	var names []string
	io.WriteString(w, "\n| spec |")
	for _, o := range outcomes {
		fmt.Fprintf(w, " %s |", o.Kind)
		for _, s := range o.Specs {
			if !slices.Contains(names, s.Name) {
				names = append(names, s.Name)
			}
		}
	}
	io.WriteString(w, " why |\n|---|"+strings.Repeat("---|", len(outcomes)+1)+"\n")
	slices.Sort(names)
	for _, name := range names {
		mark := ""
		if slices.Contains(suite.selection, name) {
			mark = "● "
		}
		fmt.Fprintf(w, "| %s%s |", mark, cell(name))
		var why []string
		for _, o := range outcomes {
			sign := "·"
			if i := slices.IndexFunc(o.Specs, func(s Spec) bool { return s.Name == name }); i >= 0 {
				s := o.Specs[i]
				sign = map[State]string{Passed: "✔", Failed: "✘", Skipped: "–"}[s.State]
				for _, text := range []string{suite.known[name], s.Why} {
					if s.State != Passed && text != "" && !slices.Contains(why, text) {
						why = append(why, text)
					}
				}
			}
			fmt.Fprintf(w, " %s |", sign)
		}
		fmt.Fprintf(w, " %s |\n", cell(strings.Join(why, "; ")))
	}
}

// cell escapes what would end a cell of a table or begin an element.
func cell(s string) string {
	return strings.NewReplacer("|", `\|`, "<", "&lt;", "\n", " ").Replace(s)
}
