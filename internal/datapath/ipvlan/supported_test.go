package ipvlan

import (
	"errors"
	"strings"
	"testing"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/testutil"
)

// A kernel without a feature is distinguished from a failed test.
func TestSupportedNamesWhatIsMissing(t *testing.T) {
	testutil.RequireRoot(t)
	err := Supported()
	if err == nil {
		return // this kernel supports all, which the tests with the tag vm cover
	}
	var lacks *datapath.UnsupportedError
	if !errors.As(err, &lacks) || lacks.Feature == "" || !strings.Contains(err.Error(), lacks.Feature) {
		t.Errorf("got %v, want an UnsupportedError that names the feature", err)
	}
}

func TestInnerIndex(t *testing.T) {
	seen := map[int]string{}
	for _, device := range []string{"tw00000000000", "tw00000000001", "twfffffffffff", "tw8dc4bf1f597"} {
		index := innerIndex(device)
		if index < 1<<30 || index >= 1<<31 {
			t.Errorf("%s: index %d is not above those that the kernel gives out", device, index)
		}
		if other := seen[index]; other != "" {
			t.Errorf("%s and %s share index %d", device, other, index)
		}
		seen[index] = device
	}
}
