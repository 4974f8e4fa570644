package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"terway.dev/terway/internal/testutil"
)

// The command refuses while a pod is connected, and then leaves nothing but what is somebody else's, which it names.
func TestTeardownOfFlannel(t *testing.T) {
	testutil.RequireRoot(t)
	ns := testutil.NewNS(t, "teardown")
	ns.IPs("link add cni0 type bridge", "address add 172.20.1.1/24 dev cni0", "link add veth1 type veth peer name pod1", "link set veth1 master cni0")
	dir := t.TempDir()
	for name, data := range map[string]string{"cni/bridge": "program", "cni/portmap": "program", "cni/host-local": "program", "bin/bridge": "program", "bin/portmap": "another", "state/cbr0/172.20.1.2": "id",
		"conf/10-flannel.conflist": `{"name":"cbr0","plugins":[{"type":"bridge","bridge":"cni0","ipam":{"type":"host-local"}},{"type":"portmap"}]}`} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	run := func(args ...string) (string, error) {
		t.Helper()
		cmd := teardownCommand(&flags{cniConfDir: filepath.Join(dir, "conf"), cniBinDir: filepath.Join(dir, "bin")})
		var out bytes.Buffer
		cmd.SetOut(&out)
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		cmd.SetArgs(append([]string{"--plugin-dir=" + filepath.Join(dir, "cni"), "--ipam-dir=" + filepath.Join(dir, "state")}, args...))
		err := ns.Do(func() error { return cmd.ExecuteContext(t.Context()) })
		return out.String(), err
	}
	if _, err := run("--flannel=172.20.0.0"); err == nil || !strings.Contains(err.Error(), `--flannel "172.20.0.0": want`) {
		t.Errorf("not a range: %v", err)
	}
	if _, err := run("--flannel=172.20.0.0/16"); err == nil || !strings.Contains(err.Error(), "bridge cni0 connects 1 pods") {
		t.Fatalf("with a pod: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "conf/10-flannel.conflist")); err != nil {
		t.Errorf("after the refusal: %v", err)
	}
	out, err := run("--flannel=172.20.0.0/16", "--force")
	if err != nil || strings.Count(out, "left: ") != 1 || !strings.Contains(out, "bin/portmap is not the plugin of this chart") {
		t.Errorf("%v; it says %q, want which plugin is not ours", err, out)
	}
	if devices := ns.IP("-o link"); strings.Contains(devices, "cni0") || strings.Contains(devices, "veth1") {
		t.Errorf("devices:\n%s", devices)
	}
	for name, want := range map[string]bool{"conf/10-flannel.conflist": false, "bin/bridge": false, "bin/portmap": true, "state/cbr0": false, "state": true} {
		if _, err := os.Stat(filepath.Join(dir, name)); (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
}
