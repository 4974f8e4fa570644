package cloud

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

//go:generate go test -run TestErrorsDoc -update .

var update = flag.Bool("update", false, "write docs/errors.md instead of comparing it")

const errorsDoc = "../../docs/errors.md"

// TestErrorsDoc: docs/errors.md agrees with the table.
func TestErrorsDoc(t *testing.T) {
	want := errorsMarkdown()
	if *update {
		if err := os.WriteFile(errorsDoc, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	got, err := os.ReadFile(errorsDoc)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Error("docs/errors.md is not what the table says; run: go generate ./internal/cloud")
	}
}

func errorsMarkdown() string {
	var b strings.Builder
	b.WriteString(`# What the cloud's errors mean

<!-- Written from internal/cloud/table.go by "go generate ./internal/cloud"; do not edit. -->

Terway shows the *reason* in events and conditions, together with the cloud's own code, the cause and the
next step. The *class* is what the controller does about it.

| class | what the controller does |
|---|---|
| NotFound | treats the resource as gone and plans again |
| Conflict | waits for the resource, then checks again |
| Throttled | calls this action less often, for all nodes, and repeats |
| Quota | requests no more, reports it on the node, tries again at long intervals |
| VSwitchFull | parks the vSwitch and uses another one of the zone |
| Auth | fetches the credential again once, then reports it and tries again at long intervals |
| Invalid | does not repeat the call, reports it |
| Transient | repeats with growing pauses |

`)
	for i, class := range []Class{VSwitchFull, Quota, Auth, Throttled, NotFound, Conflict, Invalid, Transient} {
		if i > 0 {
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "## %s\n\n| reason | cause | next step | codes |\n|---|---|---|---|\n", class)
		for _, row := range table {
			if row.class == class {
				fmt.Fprintf(&b, "| %s | %s | %s | `%s` |\n", row.reason, row.cause, row.next, strings.Join(row.codes, "`, `"))
			}
		}
		other, silent := byClass(class), explainNoAnswer(class, nil)
		if class == badAnswer.Class {
			fmt.Fprintf(&b, "| %s | %s | %s | (no code in the answer) |\n", badAnswer.Reason, badAnswer.Cause, badAnswer.NextStep)
		}
		if silent.Reason != other.Reason {
			fmt.Fprintf(&b, "| %s | %s | %s | (no answer of the cloud) |\n", silent.Reason, silent.Cause, silent.NextStep)
		}
		if lookupReason(other.Reason) == nil {
			fmt.Fprintf(&b, "| %s | %s | %s | (any other code of this class) |\n", other.Reason, other.Cause, other.NextStep)
		}
	}
	return b.String()
}

func lookupReason(reason string) *entry {
	for i := range table {
		if table[i].reason == reason {
			return &table[i]
		}
	}
	return nil
}
