package agent

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"terway.dev/terway/internal/agent/journal"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/policy"
)

// Policies are the node's network policies, as the agent needs them; nodepolicy.Policies implements it
// and documents each call.
type Policies interface {
	Restore(pod policy.NamespacedName, addresses []netip.Addr)
	Lacks(kind string) error
	Await(ctx context.Context, namespace, kind string) error
	Enter(pod policy.NamespacedName, kind string, addresses []netip.Addr) error
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

// awaitPolicies waits until a pod of the namespace and of a kind, empty if none has been chosen yet, may start.
func (a *Agent) awaitPolicies(ctx context.Context, namespace, kind string) error {
	if a.Policies == nil {
		return nil
	}
	return a.orClosed(ctx, func(ctx context.Context) error { return a.Policies.Await(ctx, namespace, kind) })
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
	return mayNotStart(a.Policies.Enter(nameOf(e), e.Datapath, e.Addresses))
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

// KindOf returns the kind of a pod that is wired here; "" if it is not.
func (a *Agent) KindOf(pod policy.NamespacedName) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, e := range a.entries {
		if nameOf(e) == pod {
			return PodOf(e).Kind
		}
	}
	return ""
}

// unenforcedLocked says on which pods of the node policies are not enforced, those that run and those that come; "" if on all.
func (a *Agent) unenforcedLocked() string {
	pods := map[string]int{}
	switch {
	case a.desired.Mode == claims.ModeExclusive:
		pods[claims.Exclusive] = 0
	case a.kind != "":
		pods[a.kind] = 0
	}
	for _, e := range a.entries {
		pods[PodOf(e).Kind]++
	}
	var list []string
	for _, kind := range slices.Sorted(maps.Keys(pods)) {
		if why := a.Policies.Lacks(kind); why != nil {
			list = append(list, fmt.Sprintf("%v (%d run here; new ones start only in namespaces in which no policy can deny them anything)", why, pods[kind]))
		}
	}
	return strings.Join(list, "; ")
}

func mayNotStart(why error) error {
	if why == nil {
		return nil
	}
	return tryAgain(fmt.Sprintf("the pod may not start: %v", why), nil)
}
