package podroute

import (
	"time"

	"terway.dev/terway/internal/cloud"
)

// ask is how a question that the cloud is asked again and again went the last time.
type ask struct {
	err      error // why there was no answer; nil: there was one
	failures int   // in a row
	again    time.Time
}

// went notes how it went. One that failed is not repeated for a while, whoever wakes the
// controller.
func (a *ask) went(err error, now time.Time, backoff func(failures int) time.Duration) {
	if err == nil {
		*a = ask{}
		return
	}
	a.err, a.failures = err, a.failures+1
	a.again = now.Add(backoff(a.failures))
}

// rests reports whether it failed so shortly before that it is not repeated yet.
func (a *ask) rests(now time.Time) bool { return a.err != nil && now.Before(a.again) }

// due is in how long it may be repeated: limit at most, and at most limit if it did not fail.
func (a *ask) due(now time.Time, limit time.Duration) time.Duration {
	if !a.rests(now) {
		return limit
	}
	return min(limit, a.again.Sub(now))
}

// itsOwn reports whether an error that came of an instance's id is about that instance, so
// that others are asked for all the same.
func itsOwn(err error) bool {
	class := cloud.ClassOf(err)
	return class == cloud.Invalid || class == cloud.NotFound
}
