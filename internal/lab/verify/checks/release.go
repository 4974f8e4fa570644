package checks

import (
	"context"
	"fmt"

	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/instruments"
	"terway.dev/terway/internal/lab/verify"
)

var release = verify.Check{
	Name:    "release",
	About:   "after 0 → 20 → 0 pods the number of addresses in the cloud is within the pools' limits again and no address is lost",
	NotFor:  map[string]string{lab.NetworkFlannel: "host-local keeps addresses on the node, the cloud has none of them to give back"},
	PerMode: true,
	Run: run(func(ctx context.Context, e *env) (string, error) {
		before, err := e.Consistent(ctx)
		if err != nil {
			return "", fmt.Errorf("before: %w", err)
		}
		n, err := e.Burst(ctx)
		if err != nil {
			return "", err
		}
		d := e.NewDeployment("burst", n)
		if err := d.Create(ctx); err != nil {
			return "", err
		}
		pods, err := d.Settle(ctx)
		if err != nil {
			return "", err
		}
		if err := instruments.SharedAddresses(pods); err != nil {
			return "", err
		}
		peak, err := e.Accounts(ctx)
		if err != nil {
			return "", err
		}
		after, err := e.end(ctx, d)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("addresses in the cloud: %d before, %d with %d pods more, %d after (%s; free %d to %d wanted on each)",
			instruments.TotalAddresses(before), instruments.TotalAddresses(peak), n, instruments.TotalAddresses(after), instruments.DescribeAccounts(after), after[0].Min, after[0].Max), nil
	}),
}

// end ends a Deployment's pods, and returns the cloud's state when it no longer changes.
func (e *env) end(ctx context.Context, d *instruments.Deployment) ([]*instruments.Account, error) {
	if err := d.Scale(ctx, 0); err != nil {
		return nil, err
	}
	if _, err := d.Settle(ctx); err != nil {
		return nil, err
	}
	after, err := e.Consistent(ctx)
	if err != nil {
		return nil, fmt.Errorf("after: %w", err)
	}
	return after, nil
}
