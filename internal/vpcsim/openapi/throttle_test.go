package openapi

import (
	"testing"
	"time"
)

func TestThrottleBuckets(t *testing.T) {
	th := newThrottle(Throttle{PerMinute: map[string]int{"A": 60, "Vpc:A": 30, "B": 10}}, products())
	of := func(product, action string, calls int, at time.Time) int {
		n := 0
		for range calls {
			if th.allow(actionOf{product, action}, at) {
				n++
			}
		}
		return n
	}
	pass := func(action string, calls int, at time.Time) int { return of("Ecs", action, calls, at) }
	if n := pass("A", 100, noon); n != 60 {
		t.Errorf("%d of 100 calls at once, want a minute's 60", n)
	}
	if n := pass("A", 100, noon.Add(10*time.Second)); n != 10 {
		t.Errorf("%d calls after 10 s more, want 10", n)
	}
	if n := of("Vpc", "A", 100, noon); n != 30 {
		t.Errorf("%d calls of another product's action of that name, want its own 30", n)
	}
	if a, b := of("Ecs", "B", 100, noon), of("Vpc", "B", 100, noon); a != 10 || b != 10 {
		t.Errorf("%d and %d calls of two products' actions with one rate, want 10 of each", a, b)
	}
	if n := of("Vpc", "AttachNetworkInterface", 2000, noon); n != defaultPerMinute {
		t.Errorf("%d calls of a product without a rate for the action, want %d", n, defaultPerMinute)
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
