package loadbalancer

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

//go:generate go test -run TestAnnotationsDoc -update .

var update = flag.Bool("update", false, "write the table of docs/loadbalancer.md instead of comparing it")

const (
	annotationsDoc = "../../docs/loadbalancer.md"
	tableBegins    = "<!-- Written from internal/loadbalancer/annotations.go by \"go generate ./internal/loadbalancer\"; do not edit. -->\n"
	tableEnds      = "<!-- The end of what is written from annotations.go. -->\n"
)

// TestAnnotationsDoc: the table of annotations in docs/loadbalancer.md agrees with the code.
func TestAnnotationsDoc(t *testing.T) {
	page, err := os.ReadFile(annotationsDoc)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(page), tableBegins)
	_, after, ends := strings.Cut(rest, tableEnds)
	if !ok || !ends {
		t.Fatalf("docs/loadbalancer.md has no %q and %q", tableBegins, tableEnds)
	}
	want := before + tableBegins + annotationsMarkdown() + tableEnds + after
	if *update {
		if err := os.WriteFile(annotationsDoc, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if string(page) != want {
		t.Error("the table of docs/loadbalancer.md is not what the code does; run: go generate ./internal/loadbalancer")
	}
}

func annotationsMarkdown() string {
	var b strings.Builder
	b.WriteString("\n| annotation | value | CLB | NLB |\n|---|---|---|---|\n")
	for _, a := range Annotations {
		value := a.values.text
		if a.values.words {
			value = "`" + strings.ReplaceAll(value, ", ", "`, `") + "`"
		}
		if a.clb.kind == none && a.nlb.kind == none || a.clb.kind == byCode || a.nlb.kind == byCode {
			value = "" // what it does says it
		}
		clb, nlb := a.clb.markdown(CLB), a.nlb.markdown(NLB)
		if clb == nlb {
			nlb = "the same"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", a.Name, value, clb, nlb)
	}
	b.WriteString("\n")
	return b.String()
}

func (e effect) markdown(p Product) string {
	switch e.kind {
	case none:
		return "refused: " + e.refused
	case byCode:
		return e.does
	}
	text := "`" + e.parameter + "`"
	if len(e.protocols) > 0 {
		var names []string
		for _, p := range e.protocols {
			names = append(names, string(p))
		}
		text += " of " + strings.Join(names, " and ")
	}
	if e.kind == OfLoadBalancer && slices.Contains(fixed[p], e.parameter) {
		text += ", of a new one only"
	}
	switch e.unset {
	case "":
	case backendsPort:
		text += ", default the backend's port"
	default:
		text += ", default `" + e.unset + "`"
	}
	return text
}
