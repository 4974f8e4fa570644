package verify

import (
	"strings"
	"testing"
)

func TestSummary(t *testing.T) {
	var b strings.Builder
	if err := WriteSummary(&b, []*Group{
		{Datapath: "route", Results: []Result{{OK: true, Seconds: 4}, {Seconds: 3}, {Untested: "too few ENIs"}}, Seconds: 5},
		{Datapath: "netkit", Lacking: "node1: this kernel lacks netkit"},
	}); err != nil {
		t.Fatal(err)
	}
	const want = `
DATAPATH  PASSED  FAILED  UNTESTED  TIME  WHY NOT
route     1       1       1         5s    -
netkit    0       0       0         0s    node1: this kernel lacks netkit
`
	if b.String() != want {
		t.Errorf("%s, want %s", b.String(), want)
	}
}
