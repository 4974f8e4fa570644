// Package answers caches the answers of a source that is slow, rate limited or not always
// reachable: the cloud's API, the service that issues credentials.
//
// It implements the rules of a cache in front of a rate limiter. At most one flight asks for a
// key, however many callers want it. An answer's age counts from the answer, not from the
// question, which may have waited for the rate limit. An old answer is used while the next one
// is fetched. A failed ask is remembered for a while. Callers can stop waiting. If a list lacks
// a key that was known, the old answer is used until a list at least Retry later lacks it too.
//
// It must never interpret an answer, and an error for one key must not affect another key.
package answers

import (
	"context"
	"sync"
	"time"
)

// Options configure a Cache: the source, and how long its answers are valid. Ask, Now, and Life
// or Times are required.
type Options[K comparable, V any] struct {
	// Ask queries the source for some keys. A key that is not in the answer does not exist; for
	// a known key two answers must say so.
	Ask func(ctx context.Context, keys []K) (map[K]V, error)
	// Missing returns the error for a key that does not exist.
	Missing func(K) error
	// Life is how long an answer is fresh. An old answer stays usable, and is renewed when it
	// is requested.
	Life time.Duration
	// Times, if set, returns until when an answer is fresh and until when it is usable; it
	// replaces Life.
	Times func(v V, answered time.Time) (fresh, usable time.Time)
	// Retry is how long a failed ask, or a missing key, is remembered.
	Retry time.Duration
	// Join is how long an ask waits for more keys. Batch is the maximum number of keys in an
	// ask (0: one). A batch also renews answers that will soon be old. Only a few batches run
	// at a time; later requests join the next one.
	Join  time.Duration
	Batch int
	// Divide reports whether an error may be caused by one key: then the keys are asked
	// separately.
	Divide func(error) bool
	// Timeout limits one ask, even if its callers have stopped waiting; 0: no limit.
	Timeout time.Duration
	Now     func() time.Time
	// Go starts an ask; by default in a goroutine.
	Go func(func())
}

// Cache keeps the answers of one source.
type Cache[K comparable, V any] struct {
	o Options[K, V]

	gate chan struct{} // limits batches

	mu      sync.Mutex
	entries map[K]*entry[K, V]
	open    *flight[K] // waits for more keys
	cut     time.Time  // when unused answers were last removed
}

// entry is the state of one key.
type entry[K comparable, V any] struct {
	value         V
	known         bool
	fresh, usable time.Time // end of freshness and usability; usable zero: always
	used          time.Time // last request

	err    error // error of the last ask
	failed time.Time
	absent time.Time // since when answers lack the key; zero: the last one had it

	flight *flight[K] // is asking for it now
	// expired counts the calls of Expire. An answer to an earlier question is old.
	expired int
}

// flight is a running ask.
type flight[K comparable] struct {
	keys    []K
	expired []int // each key's expired count when it was added
	started bool
	done    chan struct{}
}

// batches is the number of batches that run at a time.
const batches = 2

// New returns an empty Cache.
func New[K comparable, V any](o Options[K, V]) *Cache[K, V] {
	if o.Times == nil {
		o.Times = func(_ V, answered time.Time) (fresh, usable time.Time) { return answered.Add(o.Life), time.Time{} }
	}
	if o.Go == nil {
		o.Go = func(f func()) { go f() }
	}
	o.Batch = max(o.Batch, 1)
	return &Cache[K, V]{o: o, gate: make(chan struct{}, batches), entries: map[K]*entry[K, V]{}}
}

// Get returns the answer for a key. It waits only if there is no usable answer; an old answer
// is returned while the next one is fetched. The error is from the source or from ctx.
func (c *Cache[K, V]) Get(ctx context.Context, key K) (V, error) {
	return c.get(ctx, key, false)
}

// Renew waits for a fresh answer. If it cannot be fetched, Renew returns the old answer, or the
// error if there is none.
func (c *Cache[K, V]) Renew(ctx context.Context, key K) (V, error) {
	return c.get(ctx, key, true)
}

func (c *Cache[K, V]) get(ctx context.Context, key K, wait bool) (V, error) {
	for {
		v, err, done := c.try(ctx, key, wait)
		if done {
			return v, err
		}
	}
}

// try returns false if the answer was dropped as soon as it arrived.
func (c *Cache[K, V]) try(ctx context.Context, key K, wait bool) (v V, err error, done bool) {
	f := c.renew(key)
	if f != nil {
		c.launch(f)
		if old, ok := c.Known(key); wait || !ok {
			select {
			case <-f.done:
			case <-ctx.Done():
				if ok {
					return old, nil, true
				}
				return v, context.Cause(ctx), true
			}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entry(key)
	if e.serves(c.o.Now()) {
		return e.value, nil, true
	}
	return v, e.err, e.err != nil
}

// Peek returns the answer for a key without waiting. If it is old or unknown, Peek starts to
// fetch it.
func (c *Cache[K, V]) Peek(key K) (V, bool) {
	if f := c.renew(key); f != nil {
		c.launch(f)
	}
	return c.Known(key)
}

// renew returns the flight for a key's next answer, or nil if the answer is fresh or the last
// ask has just failed.
func (c *Cache[K, V]) renew(key K) *flight[K] {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.o.Now()
	e := c.entry(key)
	e.used = now
	switch {
	case e.known && now.Before(e.fresh):
		return nil
	case e.flight != nil:
		return e.flight
	case e.err != nil && now.Sub(e.failed) < c.o.Retry:
		return nil
	}
	return c.join(key, e)
}

// Known returns the answer for a key without asking the source.
func (c *Cache[K, V]) Known(key K) (V, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entries[key]; e != nil && e.serves(c.o.Now()) {
		return e.value, true
	}
	var none V
	return none, false
}

// Asking reports whether a key's next answer is being fetched, and the error of the last ask.
func (c *Cache[K, V]) Asking(key K) (now bool, failed error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entries[key]; e != nil {
		return e.flight != nil, e.err
	}
	return false, nil
}

func (e *entry[K, V]) serves(now time.Time) bool {
	return e.known && (e.usable.IsZero() || now.Before(e.usable))
}

// Expire makes a key's answer old, so that the next Get fetches it, and forgets a failed ask.
func (c *Cache[K, V]) Expire(key K) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entries[key]; e != nil {
		e.expire()
	}
}

// ExpireAll does the same for all keys.
func (c *Cache[K, V]) ExpireAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.entries {
		e.expire()
	}
}

func (e *entry[K, V]) expire() {
	e.expired++
	e.fresh, e.failed = time.Time{}, time.Time{}
}

// Drop removes a key's answer if wrong returns true for it.
func (c *Cache[K, V]) Drop(key K, wrong func(V) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entries[key]; e != nil && e.known && wrong(e.value) {
		e.expire()
		e.known, e.err = false, nil
	}
}

// Change applies f to a key's answer, if there is one.
func (c *Cache[K, V]) Change(key K, f func(V) V) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entries[key]; e != nil && e.known {
		e.value = f(e.value)
	}
}

// entry returns a key's entry. The caller holds c.mu.
func (c *Cache[K, V]) entry(key K) *entry[K, V] {
	e := c.entries[key]
	if e == nil {
		e = &entry[K, V]{}
		c.entries[key] = e
	}
	return e
}

// join adds a key to the flight that waits for more, or makes one. The caller holds c.mu.
func (c *Cache[K, V]) join(key K, e *entry[K, V]) *flight[K] {
	f := c.open
	if f == nil {
		f = &flight[K]{done: make(chan struct{})}
		c.open = f
	}
	f.keys, f.expired = append(f.keys, key), append(f.expired, e.expired)
	if len(f.keys) >= c.o.Batch {
		c.open = nil // before another caller joins
	}
	e.flight = f
	return f
}

// launch starts a flight once: immediately if it is full or accepts no more keys.
func (c *Cache[K, V]) launch(f *flight[K]) {
	c.mu.Lock()
	full := len(f.keys) >= c.o.Batch
	if f.started {
		c.mu.Unlock()
		return
	}
	f.started = true
	c.mu.Unlock()
	if full || c.o.Join == 0 {
		c.o.Go(func() { c.fly(f) })
		return
	}
	time.AfterFunc(c.o.Join, func() { c.fly(f) })
}

func (c *Cache[K, V]) fly(f *flight[K]) {
	if c.o.Batch > 1 {
		c.gate <- struct{}{}
		defer func() { <-c.gate }()
	}
	c.mu.Lock()
	if c.open == f {
		c.open = nil
	}
	c.takeAlong(f)
	c.mu.Unlock()
	ctx := context.Background()
	if c.o.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.o.Timeout)
		defer cancel()
	}
	c.ask(ctx, f, f.keys, f.expired)
	close(f.done)
}

// takeAlong fills a flight with answers that are in use and past three quarters of their life,
// so that not every key costs an ask. The caller holds c.mu.
func (c *Cache[K, V]) takeAlong(f *flight[K]) {
	if c.o.Batch == 1 || c.o.Life == 0 {
		return
	}
	now := c.o.Now()
	for key, e := range c.entries {
		if len(f.keys) >= c.o.Batch {
			return
		}
		if e.known && e.flight == nil && e.fresh.Sub(now) < c.o.Life/4 && now.Sub(e.used) < 2*c.o.Life {
			f.keys, f.expired = append(f.keys, key), append(f.expired, e.expired)
			e.flight = f
		}
	}
}

// ask asks for some keys of a flight and stores the result.
func (c *Cache[K, V]) ask(ctx context.Context, f *flight[K], keys []K, expired []int) {
	got, err := c.o.Ask(ctx, keys)
	if err != nil && len(keys) > 1 && c.o.Divide != nil && c.o.Divide(err) {
		half := len(keys) / 2
		c.ask(ctx, f, keys[:half], expired[:half])
		c.ask(ctx, f, keys[half:], expired[half:])
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.o.Now()
	for i, key := range keys {
		e := c.entry(key)
		if e.flight == f {
			e.flight = nil
		}
		v, there := got[key]
		switch {
		case err != nil:
			e.err, e.failed = err, now
		case !there:
			e.err, e.failed, e.fresh = c.o.Missing(key), now, time.Time{}
			if e.absent.IsZero() {
				e.absent = now
			} else if now.Sub(e.absent) >= c.o.Retry {
				e.known = false
			}
		default:
			e.value, e.known, e.err, e.absent = v, true, nil, time.Time{}
			if e.fresh, e.usable = c.o.Times(v, now); e.expired != expired[i] {
				e.fresh = time.Time{}
			}
		}
	}
	c.forget(now)
}

// forget removes, at intervals, answers that were not used for two lives. The caller holds
// c.mu.
func (c *Cache[K, V]) forget(now time.Time) {
	if c.o.Life == 0 || now.Sub(c.cut) < c.o.Life {
		return
	}
	c.cut = now
	for key, e := range c.entries {
		if e.flight == nil && now.Sub(e.used) >= 2*c.o.Life {
			delete(c.entries, key)
		}
	}
}
