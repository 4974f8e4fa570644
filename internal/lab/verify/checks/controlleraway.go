package checks

import (
	"context"
	"errors"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"

	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/instruments"
	"terway.dev/terway/internal/lab/verify"
)

var controllerAway = verify.Check{
	Name:    "controller-away",
	About:   "without a controller, terwayctl status and the events of pods that wait for an address say so, and running pods answer; when it is back the waiting pods start",
	NotFor:  map[string]string{lab.NetworkFlannel: "pods' addresses do not come from the controller"},
	Trouble: true, Shared: true,
	Run: run(func(ctx context.Context, e *env) (_ string, err error) {
		na, nb, err := e.TwoNodes()
		if err != nil {
			return "", err
		}
		if _, err := e.PodOn(ctx, na); err != nil {
			return "", err
		}
		before, err := e.Consistent(ctx)
		if err != nil {
			return "", fmt.Errorf("before: %w", err)
		}
		defer func() { err = errors.Join(err, e.putControllerBackSurely(ctx)) }()
		none := int32(0)
		if err := e.changeController(ctx, func(d *appsv1.DeploymentSpec) { d.Replicas = &none }); err != nil {
			return "", err
		}
		free, err := freeOn(before, nb)
		if err != nil {
			return "", err
		}
		d := e.NewDeployment("more", int32(free+2))
		d.Node = nb.Name
		if err := d.Create(ctx); err != nil {
			return "", err
		}
		said, err := e.SaysProblem(ctx, "controller: ")
		if err != nil {
			return "", err
		}
		event, err := e.waitingPodSays(ctx, d, controllerName)
		if err != nil {
			return "", err
		}
		pods, err := d.Pods(ctx)
		if err != nil {
			return "", err
		}
		asked := 0
		for _, p := range pods {
			if instruments.PodReady(&p) {
				if _, err := e.Curl(ctx, "p1", instruments.URL(p.Status.PodIP, instruments.HTTPPort, "hostname")); err != nil {
					return "", fmt.Errorf("a pod that runs while no controller does: %w", err)
				}
				asked++
			}
		}
		if err := e.putControllerBack(ctx); err != nil {
			return "", err
		}
		back := time.Now()
		if _, err := d.Settle(ctx); err != nil {
			return "", err
		}
		return fmt.Sprintf("no controller, %d pods for %d addresses on %s: status says %q, a pod that waits %q; %d that run answered; %.1f s after the controller was back all %d were ready",
			free+2, free, nb.Name, said, event, asked, time.Since(back).Seconds(), free+2), e.NoProblem(ctx)
	}),
}

// freeOn returns how many addresses of a machine are free.
func freeOn(all []*instruments.Account, m lab.Machine) (int, error) {
	for _, a := range all {
		if a.Node == m.Name {
			return a.Free(), nil
		}
	}
	return 0, fmt.Errorf("there is no account of the addresses of %s", m.Name)
}

// waitingPodSays waits for an event with all of the words on a pod that is not ready, and
// returns it.
func (e *env) waitingPodSays(ctx context.Context, d *instruments.Deployment, words ...string) (line string, err error) {
	var all []string
	err = e.Poll(ctx, fmt.Sprintf("an event of a pod that waits with %q", words), func() (bool, error) {
		pods, err := d.Pods(ctx)
		if err != nil {
			return false, err
		}
		all = all[:0]
		for i := range pods {
			if instruments.PodReady(&pods[i]) {
				continue
			}
			lines, err := e.Events(ctx, pods[i].Name)
			if err != nil {
				return false, err
			}
			all = append(all, lines...)
		}
		line = instruments.WithWords(all, words...)
		return line != "", nil
	})
	if err != nil {
		return "", fmt.Errorf("%w; they have %q", err, all)
	}
	return line, nil
}
