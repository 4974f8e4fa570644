package verify

import (
	"context"
	"fmt"

	"terway.dev/terway/internal/lab"
)

var release = Check{
	Name:   "release",
	About:  "after 0 → 20 → 0 pods the cloud's count of addresses is back within the pools' marks and no address is lost",
	NotFor: map[string]string{lab.NetworkFlannel: "host-local keeps addresses on the node, the cloud has none of them to give back"},
	Run: func(ctx context.Context, e *Env) (string, error) {
		before, err := e.consistent(ctx)
		if err != nil {
			return "", fmt.Errorf("before: %w", err)
		}
		n, err := e.burst(ctx)
		if err != nil {
			return "", err
		}
		d := e.deployment("burst", n)
		if err := d.create(ctx); err != nil {
			return "", err
		}
		pods, err := d.settle(ctx)
		if err != nil {
			return "", err
		}
		if err := sharedAddresses(pods); err != nil {
			return "", err
		}
		peak, err := e.accounts(ctx)
		if err != nil {
			return "", err
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
		return fmt.Sprintf("addresses in the cloud: %d before, %d with %d pods more, %d after (%s; free %d to %d wanted on each)",
			total(before), total(peak), n, total(after), describe(after), after[0].min, after[0].max), nil
	},
}
