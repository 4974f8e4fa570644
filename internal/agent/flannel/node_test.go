package flannel_test

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"terway.dev/terway/internal/agent"
	"terway.dev/terway/internal/agent/flannel"
)

// newNode returns a Node with its folders.
func newNode(t *testing.T) *flannel.Node {
	dir := t.TempDir()
	n := &flannel.Node{
		SubnetFile: filepath.Join(dir, "run", "subnet.env"), Outdated: filepath.Join(dir, "run", "outdated"), ConfDir: filepath.Join(dir, "net.d"), BinDir: filepath.Join(dir, "bin"),
		PluginDir: filepath.Join(dir, "plugins"), CNIVersion: "1.1.0", Write: agent.WriteFile, Log: slog.New(slog.DiscardHandler), Now: time.Now,
		Publish: func(context.Context, []netip.Prefix) error { return nil },
	}
	for _, d := range []string{filepath.Dir(n.SubnetFile), n.PluginDir} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

const file = "FLANNEL_NETWORK=172.20.0.0/16\nFLANNEL_SUBNET=172.20.1.1/24\nFLANNEL_MTU=1500\nFLANNEL_IPMASQ=true\n"

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestSyncFollowsTheFile(t *testing.T) {
	n := newNode(t)
	conf := filepath.Join(n.ConfDir, flannel.ConflistName)
	if _, err := n.Sync(); err == nil || !strings.Contains(err.Error(), "flanneld has not written it yet") {
		t.Fatalf("without a file: %v", err)
	}
	if _, err := os.Stat(conf); err == nil {
		t.Fatal("a configuration without a file of flanneld's")
	}
	want := func(block string) {
		t.Helper()
		b, err := os.ReadFile(conf)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(b), `"subnet": "`+block+`"`) {
			t.Fatalf("want the block %s:\n%s", block, b)
		}
	}
	write(t, n.SubnetFile, file)
	if _, err := n.Sync(); err != nil {
		t.Fatal(err)
	}
	want("172.20.1.0/24")
	// A broken file leaves the configuration in place, which running pods need for DEL.
	write(t, n.SubnetFile, "FLANNEL_NETWORK=172.20.0.0/16\n")
	if _, err := n.Sync(); err == nil || !strings.Contains(err.Error(), "FLANNEL_SUBNET") {
		t.Fatalf("half a file: %v", err)
	}
	want("172.20.1.0/24")
	write(t, n.SubnetFile, strings.ReplaceAll(file, "172.20.1.1", "172.20.9.1"))
	if _, err := n.Sync(); err != nil {
		t.Fatal(err)
	}
	want("172.20.9.0/24")
	// Whoever deletes the configuration gets it back.
	if err := os.Remove(conf); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Sync(); err != nil {
		t.Fatal(err)
	}
	want("172.20.9.0/24")
	// The runtime reads every file of the folder: nothing else may stay there.
	left, err := os.ReadDir(n.ConfDir)
	if err != nil || len(left) != 1 {
		t.Errorf("files in %s: %v, %v", n.ConfDir, left, err)
	}
}

func TestRunIsReadyWithTheFile(t *testing.T) {
	n := newNode(t)
	ctx, cancel := context.WithCancel(t.Context())
	tick, done := make(chan time.Time), make(chan struct{})
	go func() {
		n.Run(ctx, tick)
		close(done)
	}()
	tick <- time.Time{} // the first check is done
	tick <- time.Time{}
	if n.Waits() == "" {
		t.Error("ready without a file")
	}
	write(t, n.SubnetFile, file)
	tick <- time.Time{}
	tick <- time.Time{} // received after the check before it is done
	if why := n.Waits(); why != "" {
		t.Errorf("not ready with the file: %s", why)
	}
	cancel()
	<-done
}

func TestInstallReplacesPlugins(t *testing.T) {
	n := newNode(t)
	if err := n.Install(); err == nil || !strings.Contains(err.Error(), "bridge") {
		t.Fatalf("without plugins: %v", err)
	}
	for _, p := range []string{"bridge", "host-local", "portmap"} {
		write(t, filepath.Join(n.PluginDir, p), "new "+p)
	}
	if err := os.Mkdir(n.BinDir, 0o755); err != nil {
		t.Fatal(err)
	}
	// A link, as a package may leave one, is replaced and its target left alone.
	old := filepath.Join(t.TempDir(), "bridge")
	write(t, old, "old")
	if err := os.Symlink(old, filepath.Join(n.BinDir, "bridge")); err != nil {
		t.Fatal(err)
	}
	if err := n.Install(); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"bridge", "host-local", "portmap"} {
		at := filepath.Join(n.BinDir, p)
		b, err := os.ReadFile(at)
		if err != nil || string(b) != "new "+p {
			t.Errorf("%s: %q, %v", p, b, err)
		}
		if st, err := os.Lstat(at); err != nil || st.Mode() != 0o755 {
			t.Errorf("%s: %v, %v", p, st.Mode(), err)
		}
	}
	if b, err := os.ReadFile(old); err != nil || string(b) != "old" {
		t.Errorf("the link's target: %q, %v", b, err)
	}
}
