package route

import (
	"testing"

	"terway.dev/terway/internal/testutil"
)

// Every kernel that the tests run on can do it; the try leaves nothing.
func TestSupported(t *testing.T) {
	testutil.RequireRoot(t)
	if err := Supported(); err != nil {
		t.Errorf("the probe says: %v", err)
	}
}
