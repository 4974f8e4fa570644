package cloud

import (
	"context"
	"errors"
	"time"
)

// Priority says whose call comes first where calls wait for a rate limit. Calls of one
// priority come in the order in which they were made, and no call that waits does so for
// ever. One that is deferred does not wait: while calls of a higher priority fill an
// action's queue, it is deferred again each time.
type Priority int

const (
	// PodsWait: pods, or all nodes, wait for what the call brings. A call whose context
	// says nothing has it.
	PodsWait Priority = iota
	// Refill: pools fill, for pods to come.
	Refill
	// GiveBack: nobody waits.
	GiveBack
	// Priorities is how many there are.
	Priorities int = iota
)

type contextKey int

const (
	priorityKey contextKey = iota
	deferredKey
)

// WithPriority gives calls a priority.
func WithPriority(ctx context.Context, p Priority) context.Context {
	return context.WithValue(ctx, priorityKey, p)
}

// PriorityOf returns the priority of a context's calls.
func PriorityOf(ctx context.Context) Priority {
	p, _ := ctx.Value(priorityKey).(Priority)
	return p
}

// WithDeferral is for a caller that has other work: a call is not made if too many of its own or a
// higher priority are queued before it, and its error says when to try again (Deferred). So one
// action that is slow or much wanted holds few callers.
func WithDeferral(ctx context.Context) context.Context {
	return context.WithValue(ctx, deferredKey, true)
}

// MayDefer reports whether a context's calls may be deferred.
func MayDefer(ctx context.Context) bool {
	b, _ := ctx.Value(deferredKey).(bool)
	return b
}

// Deferred reports whether an error is that of a deferred call, and how long to wait before the
// call is made again. Of joined errors all must be of that kind.
func Deferred(err error) (time.Duration, bool) {
	all := leaves(err, nil)
	var after time.Duration
	for _, e := range all {
		var c *Error
		if !errors.As(e, &c) || c.After == 0 {
			return 0, false
		}
		if after == 0 || c.After < after {
			after = c.After
		}
	}
	return after, len(all) > 0
}

// leaves takes joined errors apart.
func leaves(err error, to []error) []error {
	switch e := err.(type) {
	case nil:
		return to
	case interface{ Unwrap() []error }:
		for _, x := range e.Unwrap() {
			to = leaves(x, to)
		}
		return to
	case *Error:
		return append(to, err)
	case interface{ Unwrap() error }:
		if inner := e.Unwrap(); inner != nil {
			return leaves(inner, to)
		}
	}
	return append(to, err)
}
