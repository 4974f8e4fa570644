package checks

import (
	"context"
	"fmt"
	"strings"

	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/instruments"
	"terway.dev/terway/internal/lab/verify"
)

// sameNameRounds is how often the pod is recreated.
const sameNameRounds = 3

var sameName = verify.Check{
	Name:   "same-name-again",
	About:  "a pod that is recreated with the same name, as in a StatefulSet, answers the first request from another node; it has another address, and the old one does not answer (except with exclusive ENIs)",
	NotFor: map[string]string{lab.NetworkFlannel: "host-local gives out addresses, and the bridge plugin wires pods"},
	Run: run(func(ctx context.Context, e *env) (string, error) {
		na, nb, err := e.TwoNodes()
		if err != nil {
			return "", err
		}
		if _, err := e.PodOn(ctx, na); err != nil {
			return "", err
		}
		// Like a pod of a StatefulSet, it is deleted from the API only after it has ended on
		// the node.
		spec, grace := e.PodSpec(nb.Name), int64(1)
		spec.TerminationGracePeriodSeconds = &grace
		var had []string
		for range sameNameRounds {
			if err := e.CreatePod(ctx, "web-0", spec); err != nil {
				return "", err
			}
			web, err := e.Ready(ctx, "web-0")
			if err != nil {
				return "", err
			}
			addr := web[0].Status.PodIP
			who, err := e.Curl(ctx, "p1", instruments.URL(addr, instruments.HTTPPort, "hostname"), "--max-time", "2")
			if err != nil {
				return "", fmt.Errorf("the first request to the new pod, at %s: %w", addr, err)
			}
			if who != "web-0" {
				return "", fmt.Errorf("the first request to the new pod, at %s: %q answered", addr, who)
			}
			// An ENI that has served a pod may serve the next.
			if len(had) > 0 && !e.Exclusive(nb.Name) {
				old := had[len(had)-1]
				if old == addr {
					return "", fmt.Errorf("the new pod has the old one's address %s at once: clients of the old pod reach the new one", addr)
				}
				if who, err := e.Curl(ctx, "p1", instruments.URL(old, instruments.HTTPPort, "hostname"), "--max-time", "2"); err == nil {
					return "", fmt.Errorf("the old pod's address %s is still answered, by %q", old, who)
				}
			}
			had = append(had, addr)
			if err := e.DeletePod(ctx, "web-0"); err != nil {
				return "", err
			}
		}
		return fmt.Sprintf("web-0 on %s created %d times, with %s: each answered the first request from %s", nb.Name, sameNameRounds, strings.Join(had, ", "), na.Name), nil
	}),
}
