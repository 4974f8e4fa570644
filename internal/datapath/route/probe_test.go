package route

import (
	"testing"

	"terway.dev/terway/internal/testutil"
)

// Every kernel on which the tests run supports it; the probe leaves nothing.
func TestSupported(t *testing.T) {
	testutil.RequireRoot(t)
	if err := Supported(); err != nil {
		t.Errorf("the probe says: %v", err)
	}
}
