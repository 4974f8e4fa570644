package compare

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"terway.dev/terway/internal/lab/instruments"
)

const (
	// upgradedPods are upgraded behind a load balancer, upgradedAtOnce more at a time.
	upgradedPods, upgradedAtOnce = 4, 2
	// upgradeRate is how many requests it gets in a second.
	upgradeRate = 200
)

// balanced makes all pods behind a CLB anew, some times, while a new connection is opened for each
// request: its program exits at SIGTERM.
func (c *cluster) balanced(ctx context.Context, upgrades int) (*LoadBalancer, error) {
	limit := time.Duration(upgrades+1) * patience
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it took more than %s", limit))
	defer cancel()
	if err := c.InjectGates(ctx, false); err != nil {
		return nil, err
	}
	b, err := c.Balance(ctx, instruments.BalancedService{Name: "balanced", Of: "balanced", Product: instruments.CLB, Annotations: instruments.QuickChecks()})
	if err != nil {
		return nil, err
	}
	d := c.Webservers("balanced", upgradedPods, upgradedAtOnce, 0)
	if err := d.Create(ctx); err != nil {
		return nil, err
	}
	pods, err := d.Settle(ctx)
	if err != nil {
		return nil, err
	}
	if err := b.Serves(ctx, pods); err != nil {
		return nil, err
	}
	lb, err := b.State(ctx)
	if err != nil {
		return nil, err
	}
	out := &LoadBalancer{Direct: true}
	for at := range instruments.Taking(lb) {
		out.Direct = out.Direct && isPod(at, pods)
	}
	l, err := b.LoadFrom(c.Lab.Master.NetNS, upgradeRate, 0, 5*time.Second)
	if err != nil {
		return nil, err
	}
	defer l.Stop()
	for range upgrades {
		if err := d.Rollout(ctx); err != nil {
			return nil, err
		}
		if _, err := d.Rolled(ctx); err != nil {
			return nil, err
		}
	}
	r := l.Stop()
	out.Sent, out.Failed = r.Sent, len(r.Failures)
	return out, nil
}

// isPod reports whether a backend is a webserver of one of the pods.
func isPod(at netip.AddrPort, pods []corev1.Pod) bool {
	return at.Port() == instruments.HTTPPort && slices.ContainsFunc(pods, func(p corev1.Pod) bool { return p.Status.PodIP == at.Addr().String() })
}
