package verify

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
)

// problems are those that "terwayctl status" tells, as an operator would read them: "node:
// text". It is an error if its exit status says something else.
func (e *Env) problems(ctx context.Context) ([]string, error) {
	o := &e.Lab.Options
	cmd := exec.CommandContext(ctx, o.Terwayctl(), "status", "--kubeconfig", o.Kubeconfig(), "-o", "json")
	var out, msg bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &msg
	failed := cmd.Run()
	var st struct {
		Controller struct{ Problems []string }
		Nodes      []struct {
			Node     string
			Problems []string
		}
	}
	if err := json.Unmarshal(out.Bytes(), &st); err != nil {
		return nil, fmt.Errorf("terwayctl status: %w: %s", err, strings.TrimSpace(msg.String()))
	}
	var all []string
	for _, p := range st.Controller.Problems {
		all = append(all, "controller: "+p)
	}
	for _, n := range st.Nodes {
		for _, p := range n.Problems {
			all = append(all, n.Node+": "+p)
		}
	}
	if (failed == nil) != (len(all) == 0) {
		return all, fmt.Errorf("terwayctl status: problems %q, and it ended with %v", all, failed)
	}
	return all, nil
}

// saysProblem waits until "terwayctl status" has a problem with all of the words, and
// returns it.
func (e *Env) saysProblem(ctx context.Context, words ...string) (said string, err error) {
	var all []string
	err = e.poll(ctx, fmt.Sprintf("terwayctl status to have a problem with %q", words), func() (_ bool, err error) {
		all, err = e.problems(ctx)
		said = withWords(all, words...)
		return said != "", err
	})
	if err != nil {
		return "", fmt.Errorf("%w; it has %q", err, all)
	}
	return said, nil
}

// noProblem waits until "terwayctl status" has none.
func (e *Env) noProblem(ctx context.Context) error {
	var all []string
	err := e.poll(ctx, "terwayctl status to have no problem", func() (_ bool, err error) {
		all, err = e.problems(ctx)
		return len(all) == 0, err
	})
	if err != nil {
		return fmt.Errorf("%w; it has %q", err, all)
	}
	return nil
}

// withWords is the first line that has all of the words; "" if none has.
func withWords(lines []string, words ...string) string {
next:
	for _, l := range lines {
		for _, w := range words {
			if !strings.Contains(l, w) {
				continue next
			}
		}
		return l
	}
	return ""
}
