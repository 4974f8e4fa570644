package lab

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"terway.dev/terway/internal/lab"
)

// env returns the environment of a shell after eval $(terway-lab env) with a lab in dir.
func env(t *testing.T, dir string) map[string]string {
	t.Helper()
	b, err := json.Marshal(lab.State{
		Options: lab.Options{Dir: dir, Cache: filepath.Join(dir, "cache")},
		Cloud:   lab.Cloud{Endpoint: "http://127.0.0.1:1", AccessKeyID: "id", AccessKeySecret: "secret", Region: "cn-hangzhou"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "lab.json"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd := NewCommand()
	cmd.SetArgs([]string{"env", "--dir", dir})
	cmd.SetOut(&out)
	if err := cmd.Execute(); err != nil {
		t.Fatal(err)
	}
	shell := exec.Command("sh", "-c", "eval $(cat) && /usr/bin/env -0")
	shell.Stdin = &out
	all, err := shell.Output()
	if err != nil {
		t.Fatalf("the shell rejects it: %v", err)
	}
	vars := map[string]string{}
	for v := range strings.SplitSeq(string(all), "\x00") {
		name, value, _ := strings.Cut(v, "=")
		vars[name] = value
	}
	return vars
}

// TestEnvHasWhatDocsName: the commands of the README and the documents work as printed.
func TestEnvHasWhatDocsName(t *testing.T) {
	files, err := filepath.Glob("../../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	has := env(t, t.TempDir())
	found := 0
	for _, f := range append(files, "../../../README.md") {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`\$\{?([A-Z][A-Z0-9_]*)`).FindAllStringSubmatch(string(b), -1) {
			if m[1] == "SERVER_IP" { // a value of NLB's API: HealthCheckConfig.HealthCheckDomain
				continue
			}
			if regexp.MustCompile(`(?m)(^|\s)` + m[1] + `=`).Match(b) { // the page itself sets it
				continue
			}
			found++
			if has[m[1]] == "" {
				t.Errorf("%s: terway-lab env sets no $%s", f, m[1])
			}
		}
	}
	if found == 0 {
		t.Error("no variable was found in the README and the documents")
	}
}

// TestEnvPath: the lab's programs come first, and appear once however often the output is
// evaluated; a PATH with any characters survives the shell.
func TestEnvPath(t *testing.T) {
	dir := t.TempDir()
	bin := filepath.Join(dir, "bin")
	t.Setenv("PATH", os.Getenv("PATH")+":/a b:/it's")
	for range 2 {
		want := bin + ":" + strings.TrimPrefix(os.Getenv("PATH"), bin+":")
		got := env(t, dir)["PATH"]
		if got != want {
			t.Fatalf("PATH is %s\nwant    %s", got, want)
		}
		t.Setenv("PATH", got)
	}
}

func TestNextSteps(t *testing.T) {
	for _, c := range []struct {
		program, dir string
		want         []string
	}{
		{"bin/terway-lab", lab.DefaultDir, []string{"  eval $(bin/terway-lab env) ", "  bin/terway-lab verify ", "  bin/terway-lab shell node1 ", "  bin/terway-lab down\n"}},
		{"/my own/terway-lab", "/x", []string{"  eval $('/my own/terway-lab' env --dir /x) ", "  '/my own/terway-lab' shell --dir /x node1 "}},
	} {
		var out bytes.Buffer
		if err := writeNext(&out, c.program, c.dir); err != nil {
			t.Fatal(err)
		}
		for _, want := range c.want {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%q is not in:\n%s", want, out.String())
			}
		}
	}
}
