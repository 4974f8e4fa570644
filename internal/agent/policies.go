package agent

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"terway.dev/terway/internal/agent/journal"
	"terway.dev/terway/internal/policy"
)

// Policies are the node's network policies, as the agent needs them; nodepolicy.Policies implements it
// and documents each call.
type Policies interface {
	Restore(pod policy.NamespacedName, addresses []netip.Addr)
	Await(ctx context.Context, namespace string) error
	Enter(pod policy.NamespacedName, addresses []netip.Addr) error
	Tell(ctx context.Context, pod policy.NamespacedName, addresses []netip.Addr) error
	Forget(pod policy.NamespacedName, addresses []netip.Addr)
	State() (ok bool, reason, message string)
}

func nameOf(e *journal.Entry) policy.NamespacedName {
	return policy.NamespacedName{Namespace: e.Namespace, Name: e.Name}
}

// restorePolicies names the pods of the journal. New calls it.
func (a *Agent) restorePolicies() {
	if a.Policies == nil {
		return
	}
	list := slices.SortedFunc(maps.Values(a.entries), func(x, y *journal.Entry) int {
		return cmp.Or(x.Since.Compare(y.Since), cmp.Compare(x.Key.String(), y.Key.String()))
	})
	for _, e := range list {
		a.Policies.Restore(nameOf(e), e.Addresses)
	}
}

// awaitPolicies waits until a pod of the namespace may start.
func (a *Agent) awaitPolicies(ctx context.Context, namespace string) error {
	if a.Policies == nil {
		return nil
	}
	return a.orClosed(ctx, func(ctx context.Context) error { return a.Policies.Await(ctx, namespace) })
}

// orClosed waits, unless the agent stops.
func (a *Agent) orClosed(ctx context.Context, wait func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-a.closed:
			cancel(errClosing)
		case <-ctx.Done():
		}
	}()
	err := wait(ctx)
	if err != nil && context.Cause(ctx) == errClosing {
		return errClosing
	}
	return mayNotStart(err)
}

// enterPolicies closes the addresses of a new attachment for all that the hub does not allow this pod.
func (a *Agent) enterPolicies(e *journal.Entry) error {
	if a.Policies == nil {
		return nil
	}
	return mayNotStart(a.Policies.Enter(nameOf(e), e.Addresses))
}

// leavePolicies is for an attachment that is no more.
func (a *Agent) leavePolicies(e *journal.Entry) {
	if a.Policies != nil {
		a.Policies.Forget(nameOf(e), e.Addresses)
	}
}

// tell tells the nodes whose policies name the pod its address; what it returns waits for that.
func (a *Agent) tell(ctx context.Context, e *journal.Entry) (told func() error) {
	if a.Policies == nil || e.Name == "" {
		return func() error { return nil }
	}
	done := make(chan error, 1)
	go func() {
		done <- a.orClosed(ctx, func(ctx context.Context) error { return a.Policies.Tell(ctx, nameOf(e), e.Addresses) })
	}()
	return func() error { return <-done }
}

func mayNotStart(why error) error {
	if why == nil {
		return nil
	}
	return tryAgain(fmt.Sprintf("the pod may not start: %v", why), nil)
}
