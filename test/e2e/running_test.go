//go:build e2e

package e2e

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"

	"terway.dev/terway/internal/lab"
)

// running is the lab that runs, for tests that change its cluster.
type running struct {
	c      *programs
	state  *lab.State
	client kubernetes.Interface
}

func attach(t *testing.T, c *programs) *running {
	t.Helper()
	s, err := lab.LoadState(lab.DefaultDir)
	if err != nil {
		t.Fatal(err)
	}
	client, err := s.Options.Client()
	if err != nil {
		t.Fatal(err)
	}
	return &running{c, s, client}
}

// run runs a program of the lab on the cluster, and returns what it has printed.
func (r *running) run(t *testing.T, stdin, program string, args ...string) (string, error) {
	t.Helper()
	cmd := labCommand(r.state, program, args...)
	cmd.Stdin = strings.NewReader(stdin)
	home := t.TempDir()
	cmd.Env = append(cmd.Env, "HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (r *running) must(t *testing.T, stdin, program string, args ...string) {
	t.Helper()
	if out, err := r.run(t, stdin, program, args...); err != nil {
		t.Fatalf("%s %s: %v\n%s", filepath.Base(program), strings.Join(args, " "), err, out)
	}
}

// eventually waits until f returns no error.
func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("wait until %s: %v", what, err)
		case <-time.After(500 * time.Millisecond):
		}
	}
}
