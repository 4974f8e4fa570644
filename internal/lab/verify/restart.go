package verify

import (
	"context"
	"fmt"
	"strings"

	"terway.dev/terway/internal/lab"
)

var agentRestart = Check{
	Name:   "agent-restart",
	About:  "kill -9 of every agent during 20 starting pods: all become ready, none shares an address, nothing is left over",
	NotFor: map[string]string{lab.NetworkFlannel: "there is no agent of Terway's: pods start without it"},
	Run: func(ctx context.Context, e *Env) (string, error) {
		return e.killDuringStart(ctx, "terwayd")
	},
}

var controllerRestart = Check{
	Name:   "controller-restart",
	About:  "kill -9 of every controller during 20 starting pods: all become ready, none shares an address, nothing is left over",
	NotFor: map[string]string{lab.NetworkFlannel: "pods start without the controller, which has no part in their addresses"},
	Run: func(ctx context.Context, e *Env) (string, error) {
		return e.killDuringStart(ctx, "terway-controller")
	},
}

var kubeletKilled = Check{
	Name:    "kubelet-restart",
	About:   "kill -9 of every kubelet and containerd during 20 starting pods: all become ready, none shares an address, nothing is left over",
	NotFor:  map[string]string{lab.NetworkFlannel: "host-local keeps the addresses, and nobody compares them with the pods"},
	Trouble: true,
	Run: func(ctx context.Context, e *Env) (string, error) {
		return e.killDuringStart(ctx, "containerd", "kubelet")
	},
}

// killDuringStart kills programs on every node. Those that are containers are started again
// by the kubelet, the others by the node's first process.
func (e *Env) killDuringStart(ctx context.Context, programs ...string) (string, error) {
	if _, err := e.consistent(ctx); err != nil {
		return "", fmt.Errorf("before: %w", err)
	}
	replicas, err := e.burst(ctx)
	if err != nil {
		return "", err
	}
	d := e.deployment("burst", replicas)
	if err := d.create(ctx); err != nil {
		return "", err
	}
	// In the middle: some pods have their address, others are still to be wired.
	addressed := 0
	if err := e.poll(ctx, "the first pods to have an address", func() (bool, error) {
		pods, err := d.pods(ctx)
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
		n, err := kill(program, e.Lab.Machines...)
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
	pods, err := d.settle(ctx)
	if err != nil {
		return "", err
	}
	if err := sharedAddresses(pods); err != nil {
		return "", err
	}
	full, err := e.consistent(ctx)
	if err != nil {
		return "", fmt.Errorf("with all pods: %w", err)
	}
	if err := d.scale(ctx, 0); err != nil {
		return "", err
	}
	if _, err := d.settle(ctx); err != nil {
		return "", err
	}
	after, err := e.consistent(ctx)
	if err != nil {
		return "", fmt.Errorf("after: %w", err)
	}
	return fmt.Sprintf("killed %d × %s when %d of %d pods had an address; all became ready with %d different addresses (%s); after their end %s",
		killed, program, addressed, replicas, len(pods), describe(full), describe(after)), nil
}
