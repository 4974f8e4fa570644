package checks

import (
	"context"
	"fmt"

	"terway.dev/terway/internal/lab/instruments"
	"terway.dev/terway/internal/lab/verify"
)

var hostPort = verify.Check{
	Name:   "hostport",
	About:  "a pod's hostPort answers on its node from another instance, from a pod of another node and from a pod beside it, and no longer once the pod is gone, until the next pod has it",
	Beside: true,
	Run: run(func(ctx context.Context, e *env) (string, error) {
		na, nb, err := e.TwoNodes()
		if err != nil {
			return "", err
		}
		const port = 18080
		spec := e.PodSpec(na.Name)
		spec.Containers[0].Ports[0].HostPort = port
		if err := e.CreatePod(ctx, "server", spec); err != nil {
			return "", err
		}
		if _, err := e.PodOn(ctx, na, nb); err != nil {
			return "", err
		}
		if _, err := e.Ready(ctx, "server"); err != nil {
			return "", err
		}
		at := na.Address.String()
		if err := e.answersAt(ctx, at, port, "server"); err != nil {
			return "", err
		}
		if err := e.DeletePod(ctx, "server"); err != nil {
			return "", err
		}
		if err := e.Poll(ctx, "the host port to close", func() (bool, error) {
			_, err := instruments.HTTPFrom(ctx, e.Lab.Master.NetNS, at, port, "hostname")
			return err != nil, nil
		}); err != nil {
			return "", err
		}
		if err := e.CreatePod(ctx, "next", spec); err != nil {
			return "", err
		}
		if _, err := e.Ready(ctx, "next"); err != nil {
			return "", err
		}
		if err := e.Poll(ctx, "the host port to open for the next pod", func() (bool, error) {
			_, err := instruments.HTTPFrom(ctx, e.Lab.Master.NetNS, at, port, "hostname")
			return err == nil, nil
		}); err != nil {
			return "", err
		}
		if err := e.answersAt(ctx, at, port, "next"); err != nil {
			return "", fmt.Errorf("the next pod with the host port: %w", err)
		}
		return fmt.Sprintf("%s:%d → the pod, from %s, from a pod on %s and from one on %s; closed after the pod's end, and open again with the next one", at, port, e.Lab.Master.Name, nb.Name, na.Name), nil
	}),
}

// answersAt checks which pod answers at a host port, from the control plane's instance and from
// the pods p1 and p2.
func (e *env) answersAt(ctx context.Context, at string, port uint16, want string) error {
	who, err := instruments.HTTPFrom(ctx, e.Lab.Master.NetNS, at, port, "hostname")
	if err != nil {
		return fmt.Errorf("%s:%d from %s: %w", at, port, e.Lab.Master.Name, err)
	}
	if who != want {
		return fmt.Errorf("%s:%d from %s: %q answered, not pod %s", at, port, e.Lab.Master.Name, who, want)
	}
	for _, from := range []string{"p1", "p2"} {
		who, err := e.Curl(ctx, from, instruments.URL(at, int(port), "hostname"))
		if err != nil {
			return fmt.Errorf("%s:%d from pod %s: %w", at, port, from, err)
		}
		if who != want {
			return fmt.Errorf("%s:%d from pod %s: %q answered, not pod %s", at, port, from, who, want)
		}
	}
	return nil
}
