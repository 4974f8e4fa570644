package lab

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"

	"terway.dev/terway/internal/cli/program"
	"terway.dev/terway/internal/lab/compare"
)

// -o says what is printed; an incomplete comparison replaces no document.
func TestCompared(t *testing.T) {
	r := &compare.Report{Date: "2026-01-31", Rounds: 3, Networks: []compare.Network{{Name: "flannel", Policy: compare.Policy{Tried: 5}}}}
	document := filepath.Join(t.TempDir(), "comparison.md")
	print := func(format string, whole bool) string {
		t.Helper()
		var output program.Output
		output.Add(pflag.NewFlagSet("", pflag.ContinueOnError))
		if err := output.Set(format); err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if err := compared(&b, &output, r, document, whole); err != nil {
			t.Fatalf("%s: %v", format, err)
		}
		return b.String()
	}
	var got compare.Report
	if out := print("json", false); json.Unmarshal([]byte(out), &got) != nil || len(got.Networks) != 1 || got.Rounds != 3 {
		t.Errorf("json:\n%s", out)
	}
	got = compare.Report{}
	if out := print("yaml", false); yaml.Unmarshal([]byte(out), &got) != nil || len(got.Networks) != 1 || !strings.Contains(out, "date:") {
		t.Errorf("yaml:\n%s", out)
	}
	if out := print("text", false); out != "\n"+r.Table() {
		t.Errorf("text:\n%s", out)
	}
	if _, err := os.Stat(document); !os.IsNotExist(err) {
		t.Errorf("an incomplete comparison: %v", err)
	}
	print("json", true)
	if b, err := os.ReadFile(document); err != nil || !strings.Contains(string(b), "2026-01-31") {
		t.Errorf("document %q, %v", b, err)
	}
}
