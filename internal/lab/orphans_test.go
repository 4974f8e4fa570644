package lab

import (
	"os"
	"path/filepath"
	"testing"
)

// A killed lab leaves a file where a namespace was to be mounted: it keeps nothing from
// being taken down.
func TestHurryPassesOverWhatIsNoNamespace(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tl-node1")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, file + "-gone"} {
		if err := hurry(path); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}
