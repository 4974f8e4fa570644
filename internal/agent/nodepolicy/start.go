package nodepolicy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/node"
)

const (
	// glance is how often a pod that waits looks for a hub.
	glance = 50 * time.Millisecond
	// mostLeavers is how many goroutines tell the hub of pods that left: those must not hold up pods that start.
	mostLeavers = 8
)

// Await waits until a pod of the namespace may start: the node follows a hub, and its kernel enforces policies; or by the last
// revision no policy can deny the pod anything. The error says why it may not.
func (p *Policies) Await(ctx context.Context, namespace string) error {
	ctx, cancel := context.WithTimeout(ctx, p.Wait)
	defer cancel()
	for {
		failure := p.failed()
		if c := p.client.Load(); c != nil {
			following := c.Status().Following // what it says holds: it has been settled
			if c.Open(namespace) {
				return nil
			}
			if unsupported(failure) && following {
				return mayDeny(namespace, failure)
			}
			if following {
				return nil
			}
		}
		select {
		case <-p.Clock.After(glance):
		case <-ctx.Done():
			if failure != nil {
				return fmt.Errorf("the node's policies cannot be written: %w", failure)
			}
			return fmt.Errorf("%s, and policies may deny a pod of namespace %q something", p.away(), namespace)
		}
	}
}

// mayDeny says why a pod must not start whose namespace is not open, on a kernel that cannot have policies.
func mayDeny(namespace string, lacks error) error {
	return fmt.Errorf("policies may deny a pod of namespace %q something, but they are not enforced on this node: %w", namespace, lacks)
}

// away says that no hub answers, and what the node has.
func (p *Policies) away() string {
	c := p.client.Load()
	if c == nil {
		return "the agent has just started and has not asked a policy hub yet"
	}
	s := c.Status()
	why := s.Error
	if why == "" {
		why = "no answer yet"
	}
	if s.Settled.IsZero() {
		return fmt.Sprintf("no replica of the policy hub has said yet what policies say (%s)", why)
	}
	return fmt.Sprintf("no replica of the policy hub answers (%s); the node has revision %d of %s, %s old", why, s.Revision, s.Hub, p.Clock.Since(s.Settled).Round(time.Second))
}

// Enter notes that a pod is about to have addresses here. When it returns nothing passes there but what the hub has said of this pod. If the
// kernel cannot have policies the error says so, unless the pod's namespace is open.
func (p *Policies) Enter(pod policy.NamespacedName, addresses []netip.Addr) error {
	c := p.client.Load()
	if failure := p.failed(); unsupported(failure) {
		if c == nil || !c.Open(pod.Namespace) {
			return mayDeny(pod.Namespace, failure)
		}
		p.pods.enter(pod, addresses)
		return nil
	}
	if !p.written.Load() {
		why := "nothing has been written"
		if c != nil && c.Status().Refused != "" {
			why = c.Status().Refused
		}
		return fmt.Errorf("the node's policies are not in the kernel yet: %s", why)
	}
	if !p.pods.enter(pod, addresses) {
		return nil
	}
	// Maps that are full take no new rules, but those of the pods that are gone go.
	if err := c.Again(); err != nil && !p.pods.closed(pod, addresses) {
		p.pods.leave(pod, addresses)
		return fmt.Errorf("close pod %s: %w", pod, err)
	}
	return nil
}

// Tell tells the hub a pod's addresses, and returns when the nodes whose rules name the pod know them, or after
// node.AddressWait. If the hub is gone meanwhile it does what Await does; a pod that starts then has no rules until the hub knows it.
// It does not start with an address that was another pod's when the hub was there last: rules would take it for that one.
func (p *Policies) Tell(ctx context.Context, pod policy.NamespacedName, addresses []netip.Addr) error {
	p.mu.Lock()
	p.claims[pod] = addresses
	p.leaving.drop(pod) // what is told now takes the place of what was
	before, done := p.turns.take(pod)
	p.mu.Unlock()
	defer done()
	select {
	case <-before:
	case <-ctx.Done():
		return ctx.Err()
	}
	p.told.Add(1)
	for {
		if err := p.Await(ctx, pod.Namespace); err != nil {
			return err
		}
		c := p.client.Load()
		_, err := c.PodAddress(ctx, pod, addresses...)
		away := errors.Is(err, node.ErrAway)
		switch {
		case err == nil:
			p.pods.start(pod, addresses)
			return nil
		case away && !c.Open(pod.Namespace):
			continue
		case away:
			if has, is := p.pods.other(pod, addresses); is {
				return fmt.Errorf("%s, and by the last revision pod %s has its address, so that rules would take it for that pod: another address is tried", p.away(), has)
			}
		}
		p.late.Add(1)
		p.Log.Warn("a pod starts before all nodes know its address", "pod", pod, "why", err)
		p.pods.start(pod, addresses)
		if c.Open(pod.Namespace) {
			_ = c.Again() // Apply reports what is wrong, and is tried again
		}
		return nil
	}
}

// Forget notes that a pod has addresses here no more, and tells the hub, later. If the pod comes again before, there is nothing to tell.
func (p *Policies) Forget(pod policy.NamespacedName, addresses []netip.Addr) {
	if p.pods.leave(pod, addresses) {
		signal(p.again)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !slices.Equal(p.claims[pod], addresses) {
		return // a newer sandbox of the pod has other addresses
	}
	delete(p.claims, pod)
	c := p.client.Load()
	if c == nil {
		return
	}
	p.leaving.add(pod)
	if p.leavers < mostLeavers {
		p.leavers++
		go p.tellLeaving(c)
	}
}

// tellLeaving tells the hub of pods that left, until there is none.
func (p *Policies) tellLeaving(c *node.Client) {
	for {
		p.mu.Lock()
		pod, ok := p.leaving.take()
		if !ok {
			p.leavers--
			p.mu.Unlock()
			return
		}
		before, done := p.turns.take(pod)
		p.mu.Unlock()
		<-before
		if _, err := c.PodAddress(context.Background(), pod); err != nil {
			p.Log.Debug("not all nodes know that a pod is gone; they learn it from the API server", "pod", pod, "why", err)
		}
		done()
	}
}
