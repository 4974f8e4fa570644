// Package testclock is a clock for tests that do not wait.
//
// Only tests may import the package.
package testclock

import (
	"time"

	clocktesting "k8s.io/utils/clock/testing"
)

// Clock is a fake clock. A wait returns at once and advances the clock by its duration.
type Clock struct{ *clocktesting.FakeClock }

// New returns a Clock at the time t.
func New(t time.Time) Clock { return Clock{clocktesting.NewFakeClock(t)} }

// After advances the clock by d and returns at once.
func (c Clock) After(d time.Duration) <-chan time.Time {
	at := c.FakeClock.After(d)
	c.Step(d)
	return at
}
