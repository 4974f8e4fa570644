package agent

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A node goes from another network to Terway and back; each step may be done twice.
func TestConfFiles(t *testing.T) {
	ours, err := Conflist("/run/terway/cni.sock", "1.0.0")
	if err != nil {
		t.Fatal(err)
	}
	const flannel, existing = `{"name": "cbr0", "plugins": [{"type": "flannel"}]}`, `{"plugins": [{"type": "terway", "capabilities": {"bandwidth": true}}]}`
	names := []string{"10-flannel.conflist", "10-terway.conf", "10-terway.conflist"}
	for name, c := range map[string]struct {
		before, during, after map[string]string
	}{
		"flannel": {
			map[string]string{"10-flannel.conflist": flannel, "99-loopback.conf": "x"},
			map[string]string{"10-flannel.conflist.before-terway": flannel, "10-terway.conflist": string(ours), "99-loopback.conf": "x"},
			map[string]string{"10-flannel.conflist": flannel, "99-loopback.conf": "x"},
		},
		"existing Terway, of whose names one is ours": {
			map[string]string{"10-terway.conf": "{}", "10-terway.conflist": existing},
			map[string]string{"10-terway.conf.before-terway": "{}", "10-terway.conflist": string(ours), "10-terway.conflist.before-terway": existing},
			map[string]string{"10-terway.conf": "{}", "10-terway.conflist": existing},
		},
	} {
		dir := t.TempDir()
		check := func(when string, want map[string]string) {
			t.Helper()
			if got := filesIn(t, dir); !maps.Equal(got, want) {
				t.Errorf("%s, %s: %v, want %v", name, when, got, want)
			}
		}
		for file, text := range c.before {
			write(t, dir, file, text)
		}
		if done, err := DisableConf(dir, names); err != nil || len(done) == 0 {
			t.Errorf("%s: disabled %q, %v", name, done, err)
		}
		write(t, dir, ConflistName, string(ours))
		if done, err := DisableConf(dir, names); err != nil || len(done) > 0 {
			t.Errorf("%s: disabled again %q, %v", name, done, err)
		}
		check("during", c.during)
		if _, err := EnableConf(dir, []string{ConflistName}); err == nil || !strings.Contains(err.Error(), "teardown") {
			t.Errorf("%s: enabled beside Terway's configuration: %v", name, err)
		}
		if err := os.Remove(filepath.Join(dir, ConflistName)); err != nil { // as terwayd teardown does
			t.Fatal(err)
		}
		if done, err := EnableConf(dir, names); err != nil || len(done) == 0 {
			t.Errorf("%s: enabled %q, %v", name, done, err)
		}
		if done, err := EnableConf(dir, names); err != nil || len(done) > 0 {
			t.Errorf("%s: enabled again %q, %v", name, done, err)
		}
		check("after", c.after)
	}
}

// What the other network has written again since is newer.
func TestEnableConfKeepsNewer(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "10-flannel.conflist.before-terway", "old")
	write(t, dir, "10-flannel.conflist", "new")
	if done, err := EnableConf(dir, []string{"10-flannel.conflist"}); err != nil || len(done) > 0 {
		t.Errorf("%q, %v", done, err)
	}
	if got := filesIn(t, dir); !maps.Equal(got, map[string]string{"10-flannel.conflist": "new"}) {
		t.Errorf("%v", got)
	}
}

// A folder where a file should be is reported.
func TestConfFilesErrors(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "10-flannel.conflist"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := DisableConf(dir, []string{"10-flannel.conflist"}); err == nil || !strings.Contains(err.Error(), "10-flannel.conflist") {
		t.Errorf("error %v", err)
	}
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func filesIn(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		files[e.Name()] = string(data)
	}
	return files
}
