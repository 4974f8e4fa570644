package ebpf

import (
	"os"
	"testing"

	"terway.dev/terway/internal/testutil"
)

// Every kernel on which the tests run supports it; the probe leaves this namespace unchanged.
func TestSupported(t *testing.T) {
	testutil.RequireRoot(t)
	before, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	if err := Supported(); err != nil {
		t.Errorf("the probe says: %v", err)
	}
	if after, err := os.Readlink("/proc/self/ns/net"); err != nil || after != before {
		t.Errorf("the process is in %s, was in %s (%v)", after, before, err)
	}
}
