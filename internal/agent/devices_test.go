package agent

import (
	"os"
	"path/filepath"
	"testing"
)

// A sandbox whose path the kernel says nothing about is not dead: its pod would lose its network.
func TestSandboxAlive(t *testing.T) {
	dir := t.TempDir()
	left, loop := filepath.Join(dir, "left"), filepath.Join(dir, "loop")
	if err := os.WriteFile(left, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(loop, loop); err != nil {
		t.Fatal(err)
	}
	for path, alive := range map[string]bool{"/proc/self/ns/net": true, loop: true, left: false, left + "-not": false, "": false} {
		if got := SandboxAlive(path); got != alive {
			t.Errorf("%q: alive %v, want %v", path, got, alive)
		}
	}
}
