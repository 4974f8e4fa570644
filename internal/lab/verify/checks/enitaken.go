package checks

import (
	"context"
	"errors"
	"fmt"
	"time"

	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/instruments"
	"terway.dev/terway/internal/lab/verify"
)

// eniPatience is far less than the period of the sweep, which would repair anything.
const eniPatience = time.Minute

var eniTaken = verify.Check{
	Name:    "eni-taken-away",
	About:   "pods on an ENI that is detached without Terway answer again, long before the sweep could find it (its period is set to an hour)",
	NotFor:  map[string]string{lab.NetworkFlannel: "pods have no ENIs"},
	Trouble: true, Shared: true,
	Run: run(func(ctx context.Context, e *env) (_ string, err error) {
		na, nb, err := e.TwoNodes()
		if err != nil {
			return "", err
		}
		defer func() { err = errors.Join(err, e.putControllerBackSurely(ctx)) }()
		if err := e.changeController(ctx, sweepRarely); err != nil {
			return "", err
		}
		pods, err := e.PodOn(ctx, na, nb)
		if err != nil {
			return "", err
		}
		if _, err := e.Consistent(ctx); err != nil {
			return "", fmt.Errorf("before: %w", err)
		}
		addr := pods[1].Status.PodIP
		eni, err := e.Holder(ctx, nb, addr)
		if err != nil {
			return "", err
		}
		if err := e.Lab.Cloud.DetachENI(eni.ID, nb.InstanceID); err != nil {
			return "", err
		}
		began := time.Now()
		var away bool
		if err := e.within(ctx, eniPatience, "a pod of the ENI to answer again", func(ctx context.Context) (bool, error) {
			now, err := e.Holder(ctx, nb, addr)
			if err != nil || now.Status != "InUse" {
				away = true
				return false, nil // attached to no instance
			}
			_, err = e.Curl(ctx, pods[0].Name, instruments.URL(addr, instruments.HTTPPort, "hostname"), "--max-time", "1")
			return away && err == nil, nil
		}); err != nil {
			return "", err
		}
		took := time.Since(began)
		after, err := e.Consistent(ctx)
		if err != nil {
			return "", fmt.Errorf("after: %w", err)
		}
		return fmt.Sprintf("%s with the pod's %s was detached from %s: it answered again after %.1f s; all agree (%s)", eni.ID, addr, nb.Name, took.Seconds(), instruments.DescribeAccounts(after)), nil
	}),
}

// within polls for at most d.
func (e *env) within(ctx context.Context, d time.Duration, what string, f func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, d, fmt.Errorf("not within %s", d))
	defer cancel()
	return e.Poll(ctx, what, func() (bool, error) { return f(ctx) })
}

// putControllerBackSurely also works after a failure or an interrupt.
func (e *env) putControllerBackSurely(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), 2*time.Minute, errors.New("not done within two minutes"))
	defer cancel()
	return e.putControllerBack(ctx)
}
