package openapi

import (
	"cmp"
	"maps"
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

// defaultPerMinute is the rate of an action of which its product says nothing. Those
// that products name are what clients of the real service count on (Terway's
// pkg/aliyun/client/ratelimit.go has the same).
const defaultPerMinute = 1000

// throttle is a token bucket for each action. A bucket holds one minute's calls:
// the real limits are counted by the minute, so a whole minute's worth may come at once.
type throttle struct {
	perMinute map[string]int // what products say of their actions

	mu      sync.Mutex
	config  Throttle
	buckets map[string]*rate.Limiter
}

func newThrottle(c Throttle, products []product) *throttle {
	t := &throttle{perMinute: map[string]int{}}
	for _, p := range products {
		maps.Copy(t.perMinute, p.perMinute)
	}
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
			n = cmp.Or(t.perMinute[action], defaultPerMinute)
		}
		calls := float64(n) * t.config.Scale
		b = rate.NewLimiter(rate.Limit(calls/60), max(1, int(calls)))
		t.buckets[action] = b
	}
	return b.AllowN(now, 1)
}
