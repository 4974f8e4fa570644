//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"testing"
)

// failures collects the failures of checks, for the end of a long output.
var failures []string

// failed fails a test with the result of a check.
func failed(t *testing.T, text string) {
	t.Helper()
	t.Error(text)
	failures = append(failures, t.Name()+": "+text)
}

func TestMain(m *testing.M) {
	code := m.Run()
	for _, f := range failures {
		fmt.Println(f)
	}
	if built.dir != "" {
		if err := os.RemoveAll(built.dir); err != nil {
			fmt.Println(err)
			code = 1
		}
	}
	os.Exit(code)
}
