package checks

import (
	"context"
	"errors"
	"fmt"
	"time"

	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/instruments"
	"terway.dev/terway/internal/lab/verify"
)

// forwardPatience is how long a node may take to repair, or report, what blocks new connections
// to its pods.
const forwardPatience = time.Minute

var forwardPolicy = verify.Check{
	Name:    "forward-policy",
	About:   "if a program sets the policy of a node's chain FORWARD to DROP, new connections to its pods still open, or terwayctl status reports it until it is gone",
	NotFor:  map[string]string{lab.NetworkFlannel: "flanneld adds rules of its own that accept"},
	Trouble: true,
	Run: run(func(ctx context.Context, e *env) (measured string, err error) {
		_, nb, pods, err := e.PodsOnTwo(ctx, 1)
		if err != nil {
			return "", err
		}
		reach := func() error {
			// Each request uses a new connection.
			for from, to := range map[int]int{0: 1, 1: 0} {
				if _, err := e.Curl(ctx, pods[from].Name, instruments.URL(pods[to].Status.PodIP, instruments.HTTPPort, "hostname"), "--max-time", "2"); err != nil {
					return err
				}
			}
			return nil
		}
		if err := reach(); err != nil {
			return "", fmt.Errorf("before: %w", err)
		}
		defer func() { err = errors.Join(err, e.forward(nb.Name, true)) }()
		if err := e.forward(nb.Name, false); err != nil {
			return "", err
		}
		var how, named string
		wait, cancel := context.WithTimeoutCause(ctx, forwardPatience, fmt.Errorf("neither within %s", forwardPatience))
		defer cancel()
		if err := e.Poll(wait, "pods to be reached, or terwayctl status to name FORWARD", func() (bool, error) {
			if reach() == nil {
				how = "new connections both ways were made"
				return true, nil
			}
			all, err := e.Problems(wait)
			if named = instruments.WithWords(all, nb.Name, "FORWARD"); named != "" {
				how = "new connections were not made, and terwayctl status says: " + named
			}
			return named != "", err
		}); err != nil {
			return "", err
		}
		if err := e.forward(nb.Name, true); err != nil {
			return "", err
		}
		if err := e.Poll(ctx, "new connections to be made again", func() (bool, error) { return reach() == nil, nil }); err != nil {
			return "", err
		}
		return fmt.Sprintf("policy DROP for FORWARD on %s: %s", nb.Name, how), e.NoProblem(ctx)
	}),
}
