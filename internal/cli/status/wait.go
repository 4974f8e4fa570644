package status

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"terway.dev/terway/internal/inventory"
)

// The flag --wait, and how long it waits without a value.
const (
	flagWait     = "wait"
	standardWait = 5 * time.Minute
)

// Wait is what --wait does: it looks at a cluster until it has no problem, at most for a time, and returns what it has seen last. say gets
// a line each time that it waits for something else.
func Wait(ctx context.Context, look func(context.Context) (*inventory.Objects, error), most time.Duration, say io.Writer) (*inventory.Objects, error) {
	return waiter{look: look, most: most, poll: poll, say: say}.until(ctx)
}

// waiter looks at a cluster until it has no problem.
type waiter struct {
	look       func(context.Context) (*inventory.Objects, error)
	most, poll time.Duration
	// say gets a line each time that it waits for something else.
	say io.Writer
}

// until returns what was seen last, with problems if the time is over. It waits while the cluster
// cannot be read, but not if that is forbidden.
func (w waiter) until(ctx context.Context) (*inventory.Objects, error) {
	began, said := time.Now(), ""
	for {
		o, err := w.look(ctx)
		trouble := err
		if err == nil {
			trouble = o.Status().Verdict()
		}
		switch {
		case trouble == nil:
			return o, nil
		case ctx.Err() != nil, apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
			return nil, errors.Join(err, ctx.Err())
		case time.Since(began)+w.poll > w.most:
			if err != nil {
				err = fmt.Errorf("after %s: %w", w.most, err)
			}
			return o, err
		}
		if line := trouble.Error(); line != said {
			fmt.Fprintf(w.say, "waiting: %s\n", line)
			said = line
		}
		select {
		case <-time.After(w.poll):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
