package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"terway.dev/terway/internal/oci"
	"terway.dev/terway/internal/product"
	"terway.dev/terway/internal/version"
)

const commit = "0123456789abcdef0123456789abcdef01234567"

// run executes the command in the source tree.
func run(t *testing.T, args ...string) error {
	cmd := newCommand()
	cmd.SetOut(t.Output())
	cmd.SetArgs(args)
	return cmd.ExecuteContext(t.Context())
}

func TestWhatIsNoReleaseIsRefused(t *testing.T) {
	t.Chdir("../..")
	out := filepath.Join(t.TempDir(), "out")
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"release", "--version=dev", "--commit=" + commit}, `--version "dev": want a release such as v1.2.3`},
		{[]string{"release", "--version=1.2.3", "--commit=" + commit}, `--version "1.2.3"`},
		{[]string{"release", "--version=v1.2.3-5-gabc/x", "--commit=" + commit}, `want a release`},
		{[]string{"release", "--version=v1.2.3", "--commit=" + commit + "-dirty"}, "-dirty\": a release is made of a commit"},
		{[]string{"release", "--version=v1.2.3", "--commit="}, `--commit ""`},
		{[]string{"images", "--version=v1.2.3", "--registry=No Registry"}, `--registry "No Registry"`},
		{[]string{"images", "--version=a b"}, `--version "a b"`},
		{[]string{"rootfs", "--arch=riscv64", "/nowhere"}, `"riscv64": there are amd64 and arm64`},
	} {
		if err := run(t, append(c.args, "--out", out)...); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%q: %v, want %s", c.args, err, c.says)
		}
	}
	if _, err := os.Stat(out); !os.IsNotExist(err) {
		t.Errorf("something was made: %v", err)
	}
}

func TestAChartWithoutTheKeysOfTheImageIsRefused(t *testing.T) {
	dir := t.TempDir()
	for _, values := range []string{"image:\n  repository: a\n  tag: b\nother:\n  digest: c\n", "digest: x\n"} {
		for file, content := range map[string]string{"Chart.yaml": "name: terway\nversion: 0\nappVersion: 0\nannotations:\n  images: |\n    - name: terway\n      image: a:b\n", "values.yaml": values} {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := stampedChart(dir, "1.2.3", "v1.2.3", image{repository: repository}); err == nil || !strings.Contains(err.Error(), "values.yaml: 0 lines match") {
			t.Errorf("%q: %v", values, err)
		}
	}
}

// The Dockerfile calls the program as it is, and its image has the same configuration.
func TestDockerfileMakesTheSameImage(t *testing.T) {
	b, err := os.ReadFile("../../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	labels, got := map[string]string{}, map[string]string{}
	values := strings.NewReplacer("$TARGETARCH", "arm64", "$VERSION", "v1.2.3", "$COMMIT", commit)
	for line := range strings.Lines(string(b)) {
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		rest = values.Replace(rest)
		if key, value, _ := strings.Cut(rest, "="); word == "LABEL" {
			labels[key] = strings.Trim(value, `"`)
			continue
		}
		got[word] = rest // the last one is the image's
	}
	config := product.Config(version.Info{Version: "v1.2.3", Commit: commit})
	for key, value := range config.Labels {
		if labels[key] != value {
			t.Errorf("label %s is %q, want %q", key, labels[key], value)
		}
	}
	if len(labels) != len(config.Labels) {
		t.Errorf("labels %v, want %v", labels, config.Labels)
	}
	entrypoint, err := json.Marshal(config.Entrypoint)
	if err != nil {
		t.Fatal(err)
	}
	for word, want := range map[string]string{"ENTRYPOINT": string(entrypoint), "ENV": "PATH=" + oci.Path, "WORKDIR": "/", "COPY": "--from=build /rootfs /"} {
		if got[word] != want {
			t.Errorf("%s %s, want %s", word, got[word], want)
		}
	}
	args := strings.Fields(got["RUN"])
	if len(args) < 4 || !slices.Equal(args[:3], []string{"go", "run", "./internal/release"}) {
		t.Fatalf("RUN %s", got["RUN"])
	}
	cmd, rest, err := newCommand().Find(args[3:])
	if err != nil || cmd.Name() != "rootfs" {
		t.Fatalf("RUN %s: %v", got["RUN"], err)
	}
	if err := cmd.ParseFlags(rest); err != nil || !slices.Equal(cmd.Flags().Args(), []string{"/rootfs"}) {
		t.Errorf("RUN %s: %v", got["RUN"], err)
	}
}

// What the Dockerfile copies is the image's files, with their modes.
func TestExtract(t *testing.T) {
	tree := oci.Tree{"/bin/x": {Mode: 0o755, Content: []byte("x")}}
	tree.Text("/etc/y", "y")
	tree.Link("/bin/z", "x")
	tree.Dir("/tmp", 0o1777)
	layer, err := tree.Layer()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := extract(layer, dir); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"bin/x": "-rwxr-xr-x", "etc/y": "-rw-r--r--", "bin/z": "Lrwxrwxrwx", "tmp": "dtrwxrwxrwx", "etc": "drwxr-xr-x"} {
		s, err := os.Lstat(filepath.Join(dir, name))
		if err != nil || s.Mode().String() != want {
			t.Errorf("%s: %v (%v), want %s", name, s.Mode(), err, want)
		}
	}
	if to, err := os.Readlink(filepath.Join(dir, "bin/z")); err != nil || to != "x" {
		t.Errorf("bin/z points to %s, %v", to, err)
	}
}
