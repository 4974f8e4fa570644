package lab

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/load"
)

// Failed requests are printed, and are the exit status.
func TestLoad(t *testing.T) {
	dir := t.TempDir()
	b, err := json.Marshal(lab.State{Options: lab.Options{Dir: dir}, Master: lab.Machine{Name: "master", NetNS: "/proc/self/ns/net"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "lab.json"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/hostname" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		fmt.Fprintln(w, "pod-1")
	}))
	defer web.Close()
	run := func(args ...string) (string, error) {
		var out bytes.Buffer
		cmd := NewCommand()
		cmd.SilenceUsage, cmd.SilenceErrors = true, true
		cmd.SetArgs(append([]string{"load", "--dir", dir}, args...))
		cmd.SetOut(&out)
		err := cmd.Execute()
		return out.String(), err
	}
	to := web.Listener.Addr().String()
	good := []string{to, "--from", "master", "--rate", "50", "--for", "200ms"}
	text, err := run(append(good, "--path", "hostname")...)
	if err != nil || !strings.Contains(text, "answered by 1 pods, 0 failed") {
		t.Errorf("%s, %v", text, err)
	}
	text, err = run(append(good, "--connections", "2")...)
	if err == nil || !strings.Contains(err.Error(), "requests failed") || !strings.Contains(text, "status 503 after") {
		t.Errorf("%s, %v", text, err)
	}
	text, err = run(append(good, "-o", "json")...)
	var r load.Report
	if err == nil || json.Unmarshal([]byte(text), &r) != nil || r.Sent == 0 || len(r.Failures) != r.Sent || r.Failures[0].Status != http.StatusServiceUnavailable {
		t.Errorf("%s, %v", text, err)
	}
	for _, c := range []struct {
		says string
		args []string
	}{
		{"want an address and a port", []string{"web:80"}},
		{"there are [master]; internet is outside of all", []string{to, "--from", "node7"}},
		{"rate 0", []string{to, "--from", "master", "--rate", "0"}},
	} {
		if _, err := run(c.args...); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%q: %v, want %q", c.args, err, c.says)
		}
	}
}
