package checks

import (
	"context"
	"fmt"
	"strings"

	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/instruments"
	"terway.dev/terway/internal/lab/verify"
)

var agentRestart = verify.Check{
	Name:   "agent-restart",
	About:  "kill -9 of every agent during 20 starting pods: all become ready, none shares an address, nothing is left over",
	NotFor: map[string]string{lab.NetworkFlannel: "there is no agent of Terway's: pods start without it"},
	Run: run(func(ctx context.Context, e *env) (string, error) {
		return e.killDuringStart(ctx, "terwayd")
	}),
}

var controllerRestart = verify.Check{
	Name:   "controller-restart",
	About:  "kill -9 of every controller during 20 starting pods: all become ready, none shares an address, nothing is left over",
	NotFor: map[string]string{lab.NetworkFlannel: "pods start without the controller, which has no part in their addresses"},
	Once:   true,
	Run: run(func(ctx context.Context, e *env) (string, error) {
		return e.killDuringStart(ctx, "terway-controller")
	}),
}

var kubeletKilled = verify.Check{
	Name:    "kubelet-restart",
	About:   "kill -9 of every kubelet and containerd during 20 starting pods: all become ready, none shares an address, nothing is left over",
	NotFor:  map[string]string{lab.NetworkFlannel: "host-local keeps the addresses, and nobody compares them with the pods"},
	Trouble: true,
	Run: run(func(ctx context.Context, e *env) (string, error) {
		return e.killDuringStart(ctx, "containerd", "kubelet")
	}),
}

// killDuringStart kills programs on every node. The kubelet restarts containers, and the node's
// first process restarts the others.
func (e *env) killDuringStart(ctx context.Context, programs ...string) (string, error) {
	if _, err := e.Consistent(ctx); err != nil {
		return "", fmt.Errorf("before: %w", err)
	}
	replicas, err := e.Burst(ctx)
	if err != nil {
		return "", err
	}
	d := e.NewDeployment("burst", replicas)
	if err := d.Create(ctx); err != nil {
		return "", err
	}
	// At this time some pods have their address, and others are not wired yet.
	addressed := 0
	if err := e.Poll(ctx, "the first pods to have an address", func() (bool, error) {
		pods, err := d.Pods(ctx)
		addressed = 0
		for _, p := range pods {
			if p.Status.PodIP != "" {
				addressed++
			}
		}
		return addressed > 0, err
	}); err != nil {
		return "", err
	}
	killed := 0
	for _, program := range programs {
		n, err := instruments.Kill(program, e.Lab.Machines...)
		if err != nil {
			return "", err
		}
		killed += n
		if program != "containerd" && program != "kubelet" {
			e.Killed += n
		}
	}
	program := strings.Join(programs, ", ")
	if addressed >= int(replicas) {
		return "", fmt.Errorf("all pods had an address before %s was killed: nothing was tested", program)
	}
	pods, err := d.Settle(ctx)
	if err != nil {
		return "", err
	}
	if err := instruments.SharedAddresses(pods); err != nil {
		return "", err
	}
	full, err := e.Consistent(ctx)
	if err != nil {
		return "", fmt.Errorf("with all pods: %w", err)
	}
	after, err := e.end(ctx, d)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("killed %d × %s when %d of %d pods had an address; all became ready with %d different addresses (%s); after their end %s",
		killed, program, addressed, replicas, len(pods), instruments.DescribeAccounts(full), instruments.DescribeAccounts(after)), nil
}
