package openapi

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Throttle are the rates of actions.
type Throttle struct {
	// Off lets every call through.
	Off bool
	// Scale multiplies every rate; 0 means 1.
	Scale float64
	// PerMinute overrides the rate of single actions, calls per minute.
	PerMinute map[string]int
}

// defaultPerMinute is the rate of an action that is not in perMinute.
const defaultPerMinute = 1000

// perMinute are the rates that clients of the real service count on (Terway's
// pkg/aliyun/client/ratelimit.go has the same).
func perMinute(action string) int {
	switch action {
	case "AttachNetworkInterface", "CreateNetworkInterface", "DeleteNetworkInterface":
		return 500
	case "DescribeNetworkInterfaces":
		return 800
	case "DescribeNetworkInterfaceAttribute":
		return 2000
	case "DetachNetworkInterface", "DescribeInstanceTypes",
		"AssignPrivateIpAddresses", "UnassignPrivateIpAddresses", "AssignIpv6Addresses", "UnassignIpv6Addresses":
		return 400
	case "DescribeVSwitches":
		return 300
	}
	return defaultPerMinute
}

// throttle is a token bucket for each action. A bucket holds one minute's calls:
// the real limits are counted by the minute, so a whole minute's worth may come at once.
type throttle struct {
	mu      sync.Mutex
	config  Throttle
	buckets map[string]*rate.Limiter
}

func newThrottle(c Throttle) *throttle {
	t := &throttle{}
	t.set(c)
	return t
}

// set changes the rates; every bucket is full then.
func (t *throttle) set(c Throttle) {
	if c.Scale == 0 {
		c.Scale = 1
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.config, t.buckets = c, map[string]*rate.Limiter{}
}

// allow takes a token of the action.
func (t *throttle) allow(action string, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.config.Off {
		return true
	}
	b := t.buckets[action]
	if b == nil {
		n, ok := t.config.PerMinute[action]
		if !ok {
			n = perMinute(action)
		}
		calls := float64(n) * t.config.Scale
		b = rate.NewLimiter(rate.Limit(calls/60), max(1, int(calls)))
		t.buckets[action] = b
	}
	return b.AllowN(now, 1)
}
