package lab

import (
	"os"
	"path/filepath"
	"testing"
)

// A killed lab can leave a file on which no namespace is mounted: it does not stop the lab from
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
