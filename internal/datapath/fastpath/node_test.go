package fastpath

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestLeastTimeout(t *testing.T) {
	dir := t.TempDir() + "/"
	if got, err := leastTimeout(dir); err != nil || got != usualTimeout {
		t.Errorf("without conntrack: %v, %v", got, err)
	}
	for name, c := range map[string]struct {
		value string
		want  time.Duration
	}{
		conntrackTimeouts[0]: {"120\n", usualTimeout}, conntrackTimeouts[1]: {"10\n", 10 * time.Second}, conntrackTimeouts[2]: {"5\n", 5 * time.Second},
	} {
		if err := os.MkdirAll(filepath.Dir(dir+name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dir+name, []byte(c.value), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := leastTimeout(dir); err != nil || got != 5*time.Second {
		t.Errorf("least %v, %v; want 5s", got, err)
	}
}
