package cloud

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Priority is the order of calls that wait for a rate limit. Calls of one priority are made in
// the order in which they were requested, and no waiting call waits for ever. A deferred call
// does not wait: it is deferred again as long as calls of a higher priority fill the queue of
// its action.
type Priority int

const (
	// PodsWait: pods, or all nodes, wait for the result. It is the default.
	PodsWait Priority = iota
	// Refill fills pools for future pods.
	Refill
	// GiveBack: nothing waits for the result.
	GiveBack
	// Priorities is the number of priorities.
	Priorities int = iota
)

type contextKey int

const (
	priorityKey contextKey = iota
	deferredKey
	sandboxesKey
)

// WithPriority sets the priority of calls.
func WithPriority(ctx context.Context, p Priority) context.Context {
	return context.WithValue(ctx, priorityKey, p)
}

// PriorityOf returns the priority of a context's calls.
func PriorityOf(ctx context.Context) Priority {
	p, _ := ctx.Value(priorityKey).(Priority)
	return p
}

// WithDeferral is for callers that have other work. A call is not made if too many calls of the
// same or a higher priority are queued; its error says when to try again (Deferred). So a slow
// or busy action blocks few callers.
func WithDeferral(ctx context.Context) context.Context {
	return context.WithValue(ctx, deferredKey, true)
}

// MayDefer reports whether a context's calls may be deferred.
func MayDefer(ctx context.Context) bool {
	b, _ := ctx.Value(deferredKey).(bool)
	return b
}

// WithSandboxes says for which waiting pods calls are made, by their sandboxes: only logs name them.
func WithSandboxes(ctx context.Context, ids []string) context.Context {
	return context.WithValue(ctx, sandboxesKey, ids)
}

// SandboxesOf returns the sandboxes for which a context's calls are made.
func SandboxesOf(ctx context.Context) []string {
	ids, _ := ctx.Value(sandboxesKey).([]string)
	return ids
}

// Deferred reports whether an error is from a deferred call, and how long to wait before the
// next try. All joined errors must be of this kind.
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

// leaves flattens joined errors.
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

// few is how many ids of sandboxes, of 64 characters each, a line of a log has.
const few = 4

// Few returns the first few ids of sandboxes, for a log, and how many there are beside them.
func Few(ids []string) []string {
	if len(ids) <= few {
		return ids
	}
	return append(slices.Clone(ids[:few]), fmt.Sprintf("and %d others", len(ids)-few))
}
