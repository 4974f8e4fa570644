package kernel_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/kernel"
	"terway.dev/terway/internal/testutil"
)

// A namespace is removed also if its folder was mounted over itself since, once or twice, and the mounts of others stay.
func TestRemoveNamespace(t *testing.T) {
	testutil.RequireRoot(t)
	for over := range 3 {
		dir := t.TempDir()
		t.Cleanup(func() {
			for _, path := range []string{dir + "/a", dir + "/b", dir, dir + "/a", dir + "/b", dir, dir + "/a", dir + "/b"} {
				unix.Unmount(path, unix.MNT_DETACH) // what a failed test has left
			}
		})
		a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
		for _, path := range []string{a, b} {
			if err := os.WriteFile(path, nil, 0o444); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
				t.Fatal(err)
			}
		}
		for range over {
			if err := unix.Mount(dir, dir, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
				t.Fatal(err)
			}
		}
		if err := kernel.RemoveNamespace(a); err != nil {
			t.Fatalf("below %d mounts of its folder: %v", over, err)
		}
		mounts, err := os.ReadFile("/proc/self/mounts")
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(mounts), a+" ") {
			t.Errorf("below %d mounts of its folder: it is still mounted:\n%s", over, mounts)
		}
		if n := strings.Count(string(mounts), b+" "); n != over+1 {
			t.Errorf("below %d mounts of its folder: another namespace is mounted %d times, want %d", over, n, over+1)
		}
		if _, err := os.Lstat(a); !os.IsNotExist(err) {
			t.Errorf("below %d mounts of its folder: its file: %v", over, err)
		}
		if err := kernel.RemoveNamespace(a); err != nil {
			t.Errorf("a second time: %v", err)
		}
		for range over {
			if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
				t.Fatal(err)
			}
		}
		if err := kernel.RemoveNamespace(b); err != nil {
			t.Fatal(err)
		}
	}
}
