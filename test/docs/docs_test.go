package docs

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const root = "../.."

func pages(t *testing.T) []Page {
	t.Helper()
	pages, err := Pages(root)
	if err != nil {
		t.Fatal(err)
	}
	if len(pages) < 20 {
		t.Fatalf("only %d pages found", len(pages))
	}
	return pages
}

// prose returns the page's lines with those of code empty.
func prose(p *Page) []string {
	lines := slices.Clone(p.Lines)
	for _, b := range p.Blocks {
		for i := range b.Code {
			lines[b.Line-1+i] = ""
		}
	}
	return lines
}

// bin has the programs.
var bin string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		// What a shell leaves in the background becomes this process's child, which can wait for its end.
		err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
		if err != nil {
			panic(err)
		}
		if bin, err = os.MkdirTemp("", "docs"); err != nil {
			panic(err)
		}
		defer os.RemoveAll(bin)
		build := exec.Command("go", "build", "-buildvcs=false", "-ldflags=-s -w", "-o", bin+"/", "./cmd/terwayctl", "./cmd/terway-lab", "./cmd/terwayd", "./cmd/terway-controller")
		build.Dir = root
		if out, err := build.CombinedOutput(); err != nil {
			panic("build: " + string(out))
		}
		return m.Run()
	}())
}

// TestFill: names are replaced where they are whole words, and one that no command has is an error.
func TestFill(t *testing.T) {
	got, err := Fill([]string{"", "kubectl get nn NODE -o name # NODE_IP, NODE", "sed s,POD_CIDR,172.20.0.0/16,"}, map[string]string{"NODE": "$1", "172.20.0.0/16": "10.0.0.0/8"})
	if want := []string{"", "kubectl get nn $1 -o name # NODE_IP, $1", "sed s,POD_CIDR,10.0.0.0/8,"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, want %q: %v", got, want, err)
	}
	if got, err := Fill([]string{"NODE_IP"}, map[string]string{"NODE": "x"}); err == nil {
		t.Errorf("%q, want an error: no command has NODE", got)
	}
}

// TestTables: headers of tables are found in the block itself and right below it.
func TestTables(t *testing.T) {
	lines := strings.Split("```sh lab\na\n```\n\n    TIME  VERDICT\n    1     x\n\ntext\n\n    NOT  THIS\n\n```console lab\n$ b\nNODE  MODE\n```\n\n```sh node\nc\n```\n\n    DEVICE  CLASS", "\n")
	found, err := blocks(lines)
	if err != nil {
		t.Fatal(err)
	}
	p := &Page{Lines: lines, Blocks: found}
	if got, want := p.Tables("lab"), []string{"TIME VERDICT", "NODE MODE"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
