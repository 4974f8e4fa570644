package atomicfile

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

func TestWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "plan.yaml")
	for _, content := range []string{"a longer text\n", "short\n", ""} {
		if err := Write(path, []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
		onlyFile(t, path, content, 0o640)
	}
}

// A file that a killed process left is removed.
func TestWriteTakesAwayWhatWasLeft(t *testing.T) {
	path := filepath.Join(t.TempDir(), "plan.yaml")
	if err := os.WriteFile(filepath.Join(filepath.Dir(path), ".plan.yaml.new"), []byte("left"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Write(path, []byte("new"), 0o644); err != nil {
		t.Fatal(err)
	}
	onlyFile(t, path, "new", 0o644)
}

func TestCreate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "plan.yaml")
	if err := Create(path, []byte("first"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := Create(path, []byte("second"), 0o644); !errors.Is(err, fs.ErrExist) {
		t.Fatalf("a second Create: %v, want fs.ErrExist", err)
	}
	onlyFile(t, path, "first", 0o644)
}

// An error leaves the old file and no other.
func TestErrors(t *testing.T) {
	dir := t.TempDir()
	if err := Write(filepath.Join(dir, "none", "file"), nil, 0o644); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no folder: %v, want fs.ErrNotExist", err)
	}
	folder := filepath.Join(dir, "folder")
	if err := os.MkdirAll(filepath.Join(folder, "in it"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Write(folder, []byte("x"), 0o644); err == nil {
		t.Error("a file replaced a directory")
	}
	if err := Write(filepath.Join(dir, "file"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if n := e.Name(); n != "folder" && n != "file" {
			t.Errorf("%s is left", n)
		}
	}
}

// The fallback for file systems without unnamed files.
func TestNamed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(filepath.Join(filepath.Dir(path), ".file.part"), []byte("left by one that was killed"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	f, err := openNamed(dir, "file")
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString("content")
	if err := errors.Join(err, f.Chmod(0o644), link(f.File, path)); err != nil {
		t.Fatal(err)
	}
	f.discard()
	onlyFile(t, path, "content", 0o644)
}

// With concurrent writers the file has the complete content of one of them.
func TestManyWriters(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 50 {
				if err := Write(path, bytes.Repeat([]byte{byte('a' + i)}, 10_000), 0o644); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	data, err := os.ReadFile(path)
	if err != nil || len(data) != 10_000 || len(bytes.Trim(data, string(data[:1]))) != 0 {
		t.Fatalf("%d bytes, %v: not what one writer wrote", len(data), err)
	}
	onlyFile(t, path, string(data), 0o644)
}

const writerEnv = "ATOMICFILE_TEST_PATH"

func TestMain(m *testing.M) {
	if path := os.Getenv(writerEnv); path != "" { // the writer that TestKilled kills
		for i := 0; ; i++ {
			if err := Write(path, bytes.Repeat([]byte{byte('a' + i%26)}, 100_000), 0o644); err != nil {
				panic(err)
			}
		}
	}
	os.Exit(m.Run())
}

// A writer that is killed at any moment leaves a complete file, and at most one hidden file
// that the next write removes.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	for i := range 30 {
		writer := exec.Command(os.Args[0])
		writer.Env = append(os.Environ(), writerEnv+"="+path)
		if err := writer.Start(); err != nil {
			t.Fatal(err)
		}
		for _, err := os.Stat(path); err != nil; _, err = os.Stat(path) {
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Duration(i) * 300 * time.Microsecond)
		if err := writer.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		writer.Wait() // killed
		data, err := os.ReadFile(path)
		if err != nil || len(data) != 100_000 || len(bytes.Trim(data, string(data[:1]))) != 0 {
			t.Fatalf("%d bytes, %v: not what one write wrote", len(data), err)
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if n := e.Name(); n != "file" && n != ".file.new" {
				t.Fatalf("%s is left", n)
			}
		}
	}
	if err := Write(path, []byte("after"), 0o644); err != nil {
		t.Fatal(err)
	}
	onlyFile(t, path, "after", 0o644)
}

func onlyFile(t *testing.T, path, content string, mode fs.FileMode) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil || string(data) != content {
		t.Fatalf("%s has %d bytes, %v; want %d", filepath.Base(path), len(data), err, len(content))
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != mode {
		t.Fatalf("mode %v, %v; want %v", info.Mode(), err, mode)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Fatalf("the folder has %v, %v; want the file alone", entries, err)
	}
}
