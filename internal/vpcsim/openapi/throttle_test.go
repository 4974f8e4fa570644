package openapi

import (
	"testing"
	"time"
)

func TestThrottleBuckets(t *testing.T) {
	th := newThrottle(Throttle{PerMinute: map[string]int{"A": 60}}, products())
	pass := func(action string, calls int, at time.Time) int {
		n := 0
		for range calls {
			if th.allow(action, at) {
				n++
			}
		}
		return n
	}
	if n := pass("A", 100, noon); n != 60 {
		t.Errorf("%d of 100 calls at once, want a minute's 60", n)
	}
	if n := pass("A", 100, noon.Add(10*time.Second)); n != 10 {
		t.Errorf("%d calls after 10 s more, want 10", n)
	}
	if n := pass("AttachNetworkInterface", 1000, noon); n != 500 {
		t.Errorf("%d calls of another action, want its own 500", n)
	}
	th = newThrottle(Throttle{Scale: 0.01}, products())
	if n := pass("AttachNetworkInterface", 1000, noon); n != 5 {
		t.Errorf("%d calls at a hundredth of the rate, want 5", n)
	}
	th = newThrottle(Throttle{Off: true}, products())
	if n := pass("AttachNetworkInterface", 1000, noon); n != 1000 {
		t.Errorf("%d calls with throttling off, want all", n)
	}
}
