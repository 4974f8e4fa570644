package openapi

import (
	"cmp"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Throttle has the rates of actions.
type Throttle struct {
	// Off disables throttling.
	Off bool
	// Scale multiplies every rate; 0 means 1.
	Scale float64
	// PerMinute overrides the rate of single actions in calls per minute: by name, or by
	// PRODUCT:NAME if several products have an action of that name.
	PerMinute map[string]int
}

// defaultPerMinute is the rate of actions without a rate of their own. The others are the rates
// that clients of the real service rely on (Terway's pkg/aliyun/client/ratelimit.go has the
// same).
const defaultPerMinute = 1000

// throttle is a token bucket for each action. A bucket holds the calls of one minute: the real
// limits are counted by the minute, so all of these may come at once.
type throttle struct {
	perMinute map[actionOf]int // the products' own rates

	mu      sync.Mutex
	config  Throttle
	buckets map[actionOf]*rate.Limiter
}

// actionOf is a product's action.
type actionOf struct{ product, name string }

func newThrottle(c Throttle, products []product) *throttle {
	t := &throttle{perMinute: map[actionOf]int{}}
	for _, p := range products {
		for name, n := range p.perMinute {
			t.perMinute[actionOf{p.name, name}] = n
		}
	}
	t.set(c)
	return t
}

// set changes the rates and fills every bucket.
func (t *throttle) set(c Throttle) {
	if c.Scale == 0 {
		c.Scale = 1
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.config, t.buckets = c, map[actionOf]*rate.Limiter{}
}

// allow takes a token of the action.
func (t *throttle) allow(a actionOf, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.config.Off {
		return true
	}
	b := t.buckets[a]
	if b == nil {
		n := cmp.Or(t.config.PerMinute[a.product+":"+a.name], t.config.PerMinute[a.name], t.perMinute[a], defaultPerMinute)
		calls := float64(n) * t.config.Scale
		b = rate.NewLimiter(rate.Limit(calls/60), max(1, int(calls)))
		t.buckets[a] = b
	}
	return b.AllowN(now, 1)
}
