package podroute

import (
	"time"

	"terway.dev/terway/internal/cloud"
)

// query records the outcome of a query that is repeated.
type query struct {
	err      error // why there was no answer; nil: there was one
	failures int   // in a row
	again    time.Time
}

// record records the outcome. A failed query is not repeated for a while, whatever triggers a
// reconcile.
func (q *query) record(err error, now time.Time, backoff func(failures int) time.Duration) {
	if err == nil {
		*q = query{}
		return
	}
	q.err, q.failures = err, q.failures+1
	q.again = now.Add(backoff(q.failures))
}

// backsOff reports whether the last attempt failed so shortly before that it must not be repeated
// yet.
func (q *query) backsOff(now time.Time) bool { return q.err != nil && now.Before(q.again) }

// due returns in how long it may be repeated, limit at most.
func (q *query) due(now time.Time, limit time.Duration) time.Duration {
	if !q.backsOff(now) {
		return limit
	}
	return min(limit, q.again.Sub(now))
}

// itsOwn reports whether an error is about the one instance that was queried, so that the others
// are queried anyway.
func itsOwn(err error) bool {
	class := cloud.ClassOf(err)
	return class == cloud.Invalid || class == cloud.NotFound
}
