package compare

import (
	"context"
	"errors"
	"fmt"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/internal/lab/instruments"
)

// How long a NetworkPolicy may take to have an effect, and how many consecutive connections
// must fail to prove it.
const (
	policyPatience = 15 * time.Second
	policyPause    = 300 * time.Millisecond
	policyInARow   = 3
)

// tryPolicy denies all ingress to the pods and tests whether connections to one of them still
// pass. They must pass before, and again afterwards.
func (c *cluster) tryPolicy(ctx context.Context, p instruments.Pair) (Policy, error) {
	passes := func() (bool, error) { return p.Passes(ctx) }
	if err := c.wait(ctx, "a connection to pass before any policy", passes); err != nil {
		return Policy{}, err
	}
	policies := c.Client.NetworkingV1().NetworkPolicies(namespace)
	deny := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "deny-all"},
		Spec: networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}}}
	if _, err := policies.Create(ctx, deny, metav1.CreateOptions{}); err != nil {
		return Policy{}, fmt.Errorf("make a NetworkPolicy: %w", err)
	}
	result, err := watchPolicy(ctx, passes, time.Now, policyPatience, policyPause)
	if err := errors.Join(err, policies.Delete(ctx, deny.Name, metav1.DeleteOptions{})); err != nil {
		return Policy{}, err
	}
	if err := c.wait(ctx, "connections to pass again without the policy", passes); err != nil {
		return Policy{}, err
	}
	return result, nil
}

// watchPolicy tries connections until enough consecutive ones fail or the time is up.
func watchPolicy(ctx context.Context, passes func() (bool, error), now func() time.Time, patience, pause time.Duration) (Policy, error) {
	var p Policy
	began, failed := now(), 0
	for {
		ok, err := passes()
		if err != nil {
			return p, err
		}
		p.Tried++
		if ok {
			p.Passed++
			p.Seconds, failed = now().Sub(began).Seconds(), 0
		} else {
			failed++
		}
		if failed == policyInARow {
			p.Enforced = true // Seconds is the time of the last one that passed
			return p, nil
		}
		if passed := now().Sub(began); passed >= patience && failed == 0 {
			p.Seconds = passed.Seconds()
			return p, nil
		}
		select {
		case <-ctx.Done():
			return p, context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}
