// Package metrics writes docs/metrics.md from the source, and checks the names of all metrics and what uses them.
package metrics

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

//go:generate go test -run TestDoc -update .

var update = flag.Bool("update", false, "write docs/metrics.md instead of comparing it")

const (
	root = "../.."
	doc  = root + "/docs/metrics.md"
)

// programs are those that serve metrics, with where.
var programs = []struct{ name, title, where string }{
	{"terwayd", "`terwayd`, the agent of a node", "`/metrics` on `--metrics-address`, which is 127.0.0.1:10362 by default, and, [for others](configuration.md#scraping-metrics), on `--scrape-address`. They are about that node alone: the scraper's label `instance` says which."},
	{"terway-controller", "`terway-controller`", "`/metrics` on `--metrics-address`, which is :10363 by default ([who may read it](configuration.md#scraping-metrics)), together with controller-runtime's metrics (queues, reconciles, requests to the API server, leader election). What counts nodes, ENIs, addresses, vSwitches and pods comes from the replica that leads, so a sum over replicas is right. No label has the name of a node."},
	{"terway-lab", "The simulated VPC", "`/_admin/metrics` on the simulator's endpoint (`terway-lab vpcsim`)."},
}

// metric is one metric of the source.
type metric struct {
	name, help, kind string
	labels           []string
	at               string // file:line
}

// named matches the name of a metric.
var named = regexp.MustCompile(`^(terway|vpcsim)_[a-z0-9_]+$`)

// sources returns the Go files of a program, without tests.
func sources(t *testing.T, program string) (files []string) {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", "-f", `{{$dir := .Dir}}{{if .Module}}{{if .Module.Main}}{{range .GoFiles}}{{$dir}}/{{.}}
{{end}}{{end}}{{end}}`, "./cmd/"+program)
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list -deps ./cmd/%s: %v", program, err)
	}
	return strings.Fields(string(out))
}

// metrics returns the metrics that Go files define: calls with a metric's name as a literal, as the first
// argument or as the field Name of options.
func metrics(t *testing.T, files []string) (out []metric) {
	t.Helper()
	set := token.NewFileSet()
	packages := map[string][]*ast.File{}
	for _, name := range files {
		f, err := parser.ParseFile(set, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		dir := filepath.Dir(name)
		packages[dir] = append(packages[dir], f)
	}
	for _, dir := range slices.Sorted(maps.Keys(packages)) {
		lists := stringLists(packages[dir])
		for _, f := range packages[dir] {
			ast.Inspect(f, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok || len(call.Args) == 0 {
					return true
				}
				m, ok := parseMetric(call, lists)
				if ok {
					m.at = set.Position(call.Pos()).String()
					out = append(out, m)
				}
				return true
			})
		}
	}
	slices.SortFunc(out, func(a, b metric) int { return strings.Compare(a.name, b.name) })
	return out
}

// stringLists returns the variables of a package that are lists of string literals.
func stringLists(files []*ast.File) map[string][]string {
	out := map[string][]string{}
	for _, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			if v, ok := n.(*ast.ValueSpec); ok && len(v.Names) == len(v.Values) {
				for i := range v.Names {
					if list, ok := stringList(v.Values[i], nil); ok {
						out[v.Names[i].Name] = list
					}
				}
			}
			return true
		})
	}
	return out
}

func stringList(e ast.Expr, known map[string][]string) (list []string, ok bool) {
	switch e := e.(type) {
	case *ast.Ident:
		list, ok = known[e.Name]
		return list, ok || e.Name == "nil"
	case *ast.CompositeLit:
		for _, x := range e.Elts {
			s, ok := text(x)
			if !ok {
				return nil, false
			}
			list = append(list, s)
		}
		return list, len(list) > 0
	}
	return nil, false
}

// text returns the value of a string literal, or of several that are added.
func text(e ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		s, err := strconv.Unquote(e.Value)
		return s, err == nil && e.Kind == token.STRING
	case *ast.BinaryExpr:
		a, ok := text(e.X)
		b, also := text(e.Y)
		return a + b, ok && also && e.Op == token.ADD
	}
	return "", false
}

func parseMetric(call *ast.CallExpr, lists map[string][]string) (m metric, ok bool) {
	arg := func(i int) ast.Expr {
		if i < len(call.Args) {
			return call.Args[i]
		}
		return nil
	}
	labels := 1
	if options, is := arg(0).(*ast.CompositeLit); is {
		for _, e := range options.Elts {
			field, is := e.(*ast.KeyValueExpr)
			if !is {
				continue
			}
			switch key, _ := field.Key.(*ast.Ident); {
			case key == nil:
			case key.Name == "Name":
				m.name, _ = text(field.Value)
			case key.Name == "Help":
				m.help, _ = text(field.Value)
			}
		}
	} else {
		m.name, _ = text(arg(0))
		m.help, _ = text(arg(1))
		labels = 2
	}
	if !named.MatchString(m.name) {
		return m, false
	}
	m.labels, _ = stringList(arg(labels), lists)
	function := ""
	switch f := call.Fun.(type) {
	case *ast.Ident:
		function = f.Name
	case *ast.SelectorExpr:
		function = f.Sel.Name
	}
	switch {
	case strings.Contains(function, "Histogram"):
		m.kind = "histogram"
	case strings.Contains(function, "Gauge"):
		m.kind = "gauge"
	case strings.Contains(function, "Counter"), strings.HasSuffix(m.name, "_total"):
		m.kind = "counter"
	default:
		m.kind = "gauge"
	}
	return m, true
}

// wrong returns what is wrong with the metrics of all programs.
func wrong(all []metric) (problems []string) {
	at := map[string]string{}
	for _, m := range all {
		say := func(format string, args ...any) {
			problems = append(problems, fmt.Sprintf("%s: %s: ", m.at, m.name)+fmt.Sprintf(format, args...))
		}
		if before := at[m.name]; before != "" && before != m.at {
			say("the name has another meaning at %s", before)
		}
		at[m.name] = m.at
		switch {
		case (m.kind == "counter") != strings.HasSuffix(m.name, "_total"):
			say("a %s: counters, and no others, end in _total", m.kind)
		case (m.kind == "histogram") != strings.HasSuffix(m.name, "_duration_seconds"):
			say("a %s: histograms, which are all of durations, and no others end in _duration_seconds", m.kind)
		}
		if !strings.HasSuffix(m.help, ".") {
			say("help %q: want a sentence", m.help)
		}
	}
	return problems
}

// TestDoc: docs/metrics.md has all metrics.
func TestDoc(t *testing.T) {
	var b strings.Builder
	b.WriteString(`# Metrics

<!-- Written from the source by "go generate ./test/metrics"; do not edit. -->

Every metric of every program, in Prometheus' format. Programs in Go also have the metrics ` + "`go_…` and `process_…`" + `.
A series of a label's value appears when that value was first counted, unless the meaning says otherwise, and stays: what is
no more is 0.
`)
	var all []metric
	for _, p := range programs {
		list := metrics(t, sources(t, p.name))
		if len(list) == 0 {
			t.Fatalf("%s has no metrics: how are they defined?", p.name)
		}
		if p.name == "terway-lab" {
			list = slices.DeleteFunc(list, func(m metric) bool { return !strings.HasPrefix(m.name, "vpcsim_") })
		}
		all = append(all, list...)
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n| name | type | labels | meaning |\n|---|---|---|---|\n", p.title, p.where)
		for _, m := range list {
			labels := ""
			if len(m.labels) > 0 {
				labels = "`" + strings.Join(m.labels, "`, `") + "`"
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", m.name, m.kind, labels, strings.ReplaceAll(m.help, "|", `\|`))
		}
	}
	for _, p := range wrong(all) {
		t.Error(p)
	}
	if *update {
		if err := os.WriteFile(doc, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	got, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != b.String() {
		t.Error("docs/metrics.md is not what the source says; run: go generate ./test/metrics")
	}
}

// mention is a metric's name in a text, or that of a histogram's series.
var mention = regexp.MustCompile(`\b(?:terway_[a-z0-9_]*[a-z0-9]|vpcsim_[a-z0-9_]*_total)\b`)

// TestNamesExist: what speaks of a metric, in documents, the chart, dashboards and tests, uses a name that exists.
func TestNamesExist(t *testing.T) {
	known := map[string]bool{}
	for _, p := range programs {
		for _, m := range metrics(t, sources(t, p.name)) {
			known[m.name] = true
			if m.kind == "histogram" {
				for _, s := range []string{"_bucket", "_sum", "_count"} {
					known[m.name+s] = true
				}
			}
		}
	}
	seen := 0
	for _, dir := range []string{"README.md", "docs", "deploy", "cmd", "internal", "test"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || strings.HasSuffix(path, "test/metrics/metrics_test.go") {
				return err
			}
			switch filepath.Ext(path) {
			case ".md", ".go", ".yaml", ".yml", ".json", ".tpl", ".txt", ".sh":
			default:
				return nil
			}
			raw, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for _, name := range mention.FindAllString(string(raw), -1) {
				seen++
				if !known[name] {
					t.Errorf("%s: no metric %s", path, name)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if seen < len(known) {
		t.Errorf("only %d names were found", seen)
	}
}

// The checks find these mistakes.
func TestWrong(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a.go")
	source := `package a

var of = []string{"pod", "node"}

var (
	_ = NewDesc("terway_things", "Things, " + "by pod.", of, nil)
	_ = NewCounterVec(CounterOpts{Name: "terway_things", Help: "Others."}, []string{"kind"})
	_ = NewHistogram(Opts{Name: "terway_took_seconds", Help: "How long."})
	_ = NewGauge(Opts{Name: "terway_last_total", Help: "last"})
)
`
	if err := os.WriteFile(file, []byte(source), 0o644); err != nil {
		t.Fatal(err)
	}
	list := metrics(t, []string{file})
	if len(list) != 4 || list[1].help != "Things, by pod." || fmt.Sprint(list[1].labels) != "[pod node]" || list[1].kind != "gauge" {
		t.Fatalf("parsed: %+v", list)
	}
	got := strings.Join(wrong(list), "\n")
	for _, want := range []string{
		"terway_things: the name has another meaning", "terway_things: a counter: counters", "terway_took_seconds: a histogram",
		"terway_last_total: a gauge", `terway_last_total: help "last"`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("not found: %s; found:\n%s", want, got)
		}
	}
}
