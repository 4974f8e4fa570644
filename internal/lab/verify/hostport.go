package verify

import (
	"context"
	"fmt"
)

var hostPort = Check{
	Name:  "hostport",
	About: "a pod's hostPort answers on its node from another instance, from a pod of another node and from a pod beside it, and no longer once the pod is gone",
	Run: func(ctx context.Context, e *Env) (string, error) {
		na, nb, err := e.twoNodes()
		if err != nil {
			return "", err
		}
		const port = 18080
		spec := e.podSpec(na.Name)
		spec.Containers[0].Ports[0].HostPort = port
		if err := e.pod(ctx, "server", spec); err != nil {
			return "", err
		}
		if _, err := e.podOn(ctx, na, nb); err != nil {
			return "", err
		}
		if _, err := e.ready(ctx, "server"); err != nil {
			return "", err
		}
		at := na.Address.String()
		who, err := httpFrom(ctx, e.Lab.Master.NetNS, at, port, "hostname")
		if err != nil {
			return "", fmt.Errorf("%s:%d from %s: %w", at, port, e.Lab.Master.Name, err)
		}
		if who != "server" {
			return "", fmt.Errorf("%s:%d from %s: %q answered, not the pod", at, port, e.Lab.Master.Name, who)
		}
		for _, from := range []string{"p1", "p2"} {
			who, err := e.curl(ctx, from, url(at, port, "hostname"))
			if err != nil {
				return "", fmt.Errorf("%s:%d from pod %s: %w", at, port, from, err)
			}
			if who != "server" {
				return "", fmt.Errorf("%s:%d from pod %s: %q answered, not the pod", at, port, from, who)
			}
		}
		if err := e.deletePod(ctx, "server"); err != nil {
			return "", err
		}
		if err := e.poll(ctx, "the host port to close", func() (bool, error) {
			_, err := httpFrom(ctx, e.Lab.Master.NetNS, at, port, "hostname")
			return err != nil, nil
		}); err != nil {
			return "", err
		}
		return fmt.Sprintf("%s:%d → the pod, from %s, from a pod on %s and from one on %s; closed after the pod's end", at, port, e.Lab.Master.Name, nb.Name, na.Name), nil
	},
}
