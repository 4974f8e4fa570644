package instruments

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
)

// Problems returns the problems that "terwayctl status" prints, as "node: text". It is an error
// if the exit status does not agree.
func (c *Cluster) Problems(ctx context.Context) ([]string, error) {
	o := &c.Lab.Options
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

// SaysProblem waits until "terwayctl status" prints a problem with all of the words, and
// returns it.
func (c *Cluster) SaysProblem(ctx context.Context, words ...string) (said string, err error) {
	var all []string
	err = c.Poll(ctx, fmt.Sprintf("terwayctl status to have a problem with %q", words), func() (_ bool, err error) {
		all, err = c.Problems(ctx)
		said = WithWords(all, words...)
		return said != "", err
	})
	if err != nil {
		return "", fmt.Errorf("%w; it has %q", err, all)
	}
	return said, nil
}

// NoProblem waits until "terwayctl status" prints no problem.
func (c *Cluster) NoProblem(ctx context.Context) error {
	var all []string
	err := c.Poll(ctx, "terwayctl status to have no problem", func() (_ bool, err error) {
		all, err = c.Problems(ctx)
		return len(all) == 0, err
	})
	if err != nil {
		return fmt.Errorf("%w; it has %q", err, all)
	}
	return nil
}

// WithWords returns the first line with all of the words; "" if there is none.
func WithWords(lines []string, words ...string) string {
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
