package flannel_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"terway.dev/terway/internal/agent/flannel"
)

// upstreams is the configuration of upstream's manifest.
const upstreams = `{"name": "cbr0", "cniVersion": "0.3.1", "plugins": [{"type": "flannel"}, {"type": "portmap"}]}`

// installed returns a node's folders after the plugins and the configuration were installed and host-local has given out an address.
func installed(t *testing.T) flannel.Files {
	t.Helper()
	n := newNode(t)
	for _, name := range []string{"bridge", "host-local", "portmap"} {
		write(t, filepath.Join(n.PluginDir, name), "the program "+name)
	}
	write(t, n.SubnetFile, file)
	if err := n.Install(); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Sync(); err != nil {
		t.Fatal(err)
	}
	f := flannel.Files{ConfDir: n.ConfDir, BinDir: n.BinDir, PluginDir: n.PluginDir, StateDir: filepath.Join(filepath.Dir(n.ConfDir), "networks")}
	if err := os.MkdirAll(filepath.Join(f.StateDir, "cbr0"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"172.20.1.5", "last_reserved_ip.0", "lock"} {
		write(t, filepath.Join(f.StateDir, "cbr0", name), "id\r\neth0")
	}
	return f
}

// files returns all files of a node's folders.
func files(t *testing.T, f flannel.Files) (all []string) {
	t.Helper()
	for _, dir := range []string{f.ConfDir, f.BinDir, f.StateDir} {
		found, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range found {
			all = append(all, filepath.Base(path))
		}
	}
	return all
}

func TestRemove(t *testing.T) {
	all := []string{"10-flannel.conflist", "bridge", "host-local", "portmap", "cbr0"}
	for name, c := range map[string]struct {
		change func(f flannel.Files)
		stays  []string
		says   []string
	}{
		"all": {func(flannel.Files) {}, nil, nil},
		"upstream's configuration": {func(f flannel.Files) { write(t, filepath.Join(f.ConfDir, flannel.ConflistName), upstreams) }, all,
			[]string{"10-flannel.conflist is not of this chart", "bridge: ", "host-local: ", "portmap: ", "cbr0: "}},
		"a plugin of somebody else": {func(f flannel.Files) { write(t, filepath.Join(f.BinDir, "bridge"), "another") }, []string{"bridge"}, []string{"bridge is not the plugin of this chart"}},
		"another network's configuration": {func(f flannel.Files) {
			write(t, filepath.Join(f.ConfDir, "20-other.conf"), `{"name": "other", "type": "macvlan", "ipam": {"type": "host-local"}}`)
		}, []string{"20-other.conf", "host-local"}, []string{"host-local: ", "20-other.conf uses it too"}},
		"a plugin of another name": {func(f flannel.Files) { write(t, filepath.Join(f.BinDir, "loopback"), "the program loopback") }, []string{"loopback"}, nil},
		"another network's addresses": {func(f flannel.Files) {
			if err := os.Mkdir(filepath.Join(f.StateDir, "other"), 0o755); err != nil {
				t.Fatal(err)
			}
		}, []string{"other"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			f := installed(t)
			if got := files(t, f); !slices.Equal(got, all) {
				t.Fatalf("before: %q", got)
			}
			c.change(f)
			left, err := f.Remove()
			if err != nil {
				t.Fatal(err)
			}
			if got := files(t, f); !slices.Equal(got, c.stays) {
				t.Errorf("there is %q, want %q", got, c.stays)
			}
			for _, want := range c.says {
				if !strings.Contains(strings.Join(left, "\n"), want) {
					t.Errorf("it says %q, want %q", left, want)
				}
			}
			if (len(left) > 0) != (len(c.says) > 0) {
				t.Errorf("it says %q", left)
			}
			again, err := f.Remove()
			if err != nil || !slices.Equal(again, left) {
				t.Errorf("again: %q, %v; the first time %q", again, err, left)
			}
		})
	}
}

// What host-local has not written is not deleted.
func TestRemoveKeepsForeignState(t *testing.T) {
	f := installed(t)
	write(t, filepath.Join(f.StateDir, "cbr0", "notes.txt"), "mine")
	if _, err := f.Remove(); err == nil || !strings.Contains(err.Error(), "notes.txt") {
		t.Errorf("%v; want the file's name", err)
	}
	if _, err := os.Stat(filepath.Join(f.StateDir, "cbr0", "notes.txt")); err != nil {
		t.Error(err)
	}
}
