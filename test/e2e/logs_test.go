//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// logger is a program of the cluster that logs.
type logger struct{ pods, container, program string }

var loggers = []logger{{"daemonset/terwayd", "terwayd", "terwayd"}, {"deployment/terway-controller", "controller", "terway-controller"}}

// setLevel changes the levels of agent and controller by the command log-level in their pods, and waits until they say so.
func (g *growth) setLevel(t *testing.T, level string) {
	t.Helper()
	for _, l := range loggers {
		before := len(g.levels(t, l))
		g.must(t, "", g.state.Options.Bin("kubectl"), "-n", metav1.NamespaceSystem, "exec", l.pods, "-c", l.container, "--", l.program, "log-level", level)
		eventually(t, l.pods+" says that its level has been set", func() error {
			if len(g.levels(t, l)) == before {
				return errors.New("it does not")
			}
			return nil
		})
	}
}

// logged expects lines of level debug in the logs before the level was set to info, and since it was set to debug; none between.
func (g *growth) logged(t *testing.T) {
	t.Helper()
	for _, l := range loggers {
		eventually(t, l.pods+" logs calls again", func() error {
			parts := g.levels(t, l)
			if len(parts) != 3 {
				t.Fatalf("%s: its level was set %d times, want twice", l.pods, len(parts)-1)
			}
			if !slices.Contains(parts[0], "DEBUG") {
				t.Fatalf("%s has not logged at the level of the chart's values: %q", l.pods, parts[0])
			}
			if slices.Contains(parts[1], "DEBUG") {
				t.Fatalf("%s has logged at level debug after its level was set to info: %q", l.pods, parts[1])
			}
			if !slices.Contains(parts[2], "DEBUG") {
				return fmt.Errorf("levels %q since it was set to debug", parts[2])
			}
			return nil
		})
	}
}

// levels returns the levels of a log's lines, each of which must be a record in JSON: those before its level was set, and those since each time.
func (g *growth) levels(t *testing.T, l logger) [][]string {
	t.Helper()
	out, err := labCommand(g.state, g.state.Options.Bin("kubectl"), "-n", metav1.NamespaceSystem, "logs", l.pods, "-c", l.container).Output()
	var ended *exec.ExitError
	if errors.As(err, &ended) {
		err = fmt.Errorf("%w: %s", err, ended.Stderr)
	}
	if err != nil {
		t.Fatalf("the log of %s: %v", l.pods, err)
	}
	parts := [][]string{nil}
	for line := range strings.Lines(string(out)) {
		var r struct{ Level, Msg string }
		if err := json.Unmarshal([]byte(line), &r); err != nil || r.Level == "" || r.Msg == "" {
			t.Fatalf("a line of %s is no record in JSON: %v: %s", l.pods, err, line)
		}
		if r.Msg == "the log's level has been set" {
			parts = append(parts, nil)
		}
		parts[len(parts)-1] = append(parts[len(parts)-1], r.Level)
	}
	return parts
}
