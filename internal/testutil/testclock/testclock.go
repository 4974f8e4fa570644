// Package testclock is time for tests that wait for nothing.
//
// The package must never be imported by anything but tests.
package testclock

import (
	"time"

	clocktesting "k8s.io/utils/clock/testing"
)

// Clock stands still until it is stepped. Nobody really waits for it: what somebody
// waits for passes at once.
type Clock struct{ *clocktesting.FakeClock }

// New shows the time t.
func New(t time.Time) Clock { return Clock{clocktesting.NewFakeClock(t)} }

// After steps the clock to the time that it waits for.
func (c Clock) After(d time.Duration) <-chan time.Time {
	at := c.FakeClock.After(d)
	c.Step(d)
	return at
}
