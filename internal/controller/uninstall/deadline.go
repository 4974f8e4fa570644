package uninstall

import (
	"context"
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Within returns a context that ends a time after a Job has started, and not that time after now: a pod of the Job may start late, or be
// the second one. It returns an error if that is over.
func Within(ctx context.Context, c client.Reader, namespace, job string, timeout time.Duration, now time.Time) (context.Context, context.CancelFunc, error) {
	var o batchv1.Job
	if err := c.Get(ctx, client.ObjectKey{Namespace: namespace, Name: job}, &o); err != nil {
		return nil, nil, fmt.Errorf("--job: read Job %s/%s: %w", namespace, job, err)
	}
	start := o.CreationTimestamp.Time
	if o.Status.StartTime != nil {
		start = o.Status.StartTime.Time
	}
	gone := now.Sub(start)
	if gone >= timeout {
		return nil, nil, fmt.Errorf("the Job %s/%s has started %s ago, and may take %s (--timeout): this pod of it comes too late and changes nothing", namespace, job, gone.Round(time.Second), timeout)
	}
	ctx, cancel := context.WithDeadlineCause(ctx, now.Add(min(timeout, timeout-gone)), fmt.Errorf("not done within %s (--timeout) after Job %s/%s has started", timeout, namespace, job))
	return ctx, cancel, nil
}
