package verify

import (
	"strings"
	"testing"
)

// The rows of a table are below their heads, whatever the check's name is.
func TestTableIsAligned(t *testing.T) {
	g := &Group{Datapath: "ebpf", Nodes: []NodeDatapath{{"node1", "ebpf", "chosen by spec.datapath"}, {"node2", "ebpf", "chosen by spec.datapath"}}}
	var b strings.Builder
	WriteBegin(&b, g)
	for _, c := range Checks() {
		WriteLine(&b, Result{Name: c.Name, OK: true, Measured: "MEASURED", Seconds: 12.3})
	}
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	if lines[0] != "datapath ebpf on node1, node2: chosen by spec.datapath" {
		t.Errorf("first line %q", lines[0])
	}
	at := strings.Index(lines[1], "MEASURED")
	for _, l := range lines[1:] {
		if strings.Index(l, "MEASURED") != at {
			t.Errorf("not aligned:\n%s\n%s", lines[1], l)
		}
	}
}

func TestSummary(t *testing.T) {
	var b strings.Builder
	if err := WriteSummary(&b, []*Group{
		{Datapath: "route", Results: []Result{{OK: true, Seconds: 2}, {Seconds: 3}}},
		{Datapath: "netkit", Lacking: "node1: this kernel lacks netkit"},
	}); err != nil {
		t.Fatal(err)
	}
	const want = `
DATAPATH  PASSED  FAILED  TIME  WHY NOT
route     1       1       5s    -
netkit    0       0       0s    node1: this kernel lacks netkit
`
	if b.String() != want {
		t.Errorf("%s, want %s", b.String(), want)
	}
}
