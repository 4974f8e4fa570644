// Package answers keeps what a source said that is slow, paced or may be away: the
// cloud's API, the service that gives credentials.
//
// It holds the rules that a cache in front of a rate limit needs. One flight asks for
// a key, however many want it; an answer's age counts from the answer, not from the
// question, which may have waited long for its turn; an old answer serves while the
// next one is fetched; a failed ask is remembered for a while; who waits can give up. A
// list that lacks what was known is not believed alone: the old answer serves until one of
// Retry later lacks it too.
//
// It must never decide what an answer means, and never give one key's trouble to
// another key.
package answers

import (
	"context"
	"sync"
	"time"
)

// Options say whom a Cache asks, and how long it believes the answers. Ask, Now and
// Life or Times are required.
type Options[K comparable, V any] struct {
	// Ask asks the source about some keys. What is not in the answer does not exist; of
	// what was known two answers must say so.
	Ask func(ctx context.Context, keys []K) (map[K]V, error)
	// Missing is the error for a key that does not exist.
	Missing func(K) error
	// Life is how long an answer is fresh. An old one serves for good, and is renewed
	// when it is asked for.
	Life time.Duration
	// Times, if set, says of one answer until when it is fresh and until when it may
	// serve; it replaces Life.
	Times func(v V, answered time.Time) (fresh, usable time.Time)
	// Retry is how long a failed ask, or that a key does not exist, is remembered.
	Retry time.Duration
	// Join is how long an ask waits for other keys, Batch how many keys one ask takes
	// at most (0: one). A batch that is renewed takes answers along that are old soon.
	// Few batches are under way at a time: who comes meanwhile joins the next.
	Join  time.Duration
	Batch int
	// Divide says that an error may be one key's only: the others are asked apart.
	Divide func(error) bool
	// Timeout bounds one ask, whoever wanted it and may have gone; 0: nothing does.
	Timeout time.Duration
	Now     func() time.Time
	// Go runs what asks, beside the caller by default.
	Go func(func())
}

// Cache keeps the answers of one source.
type Cache[K comparable, V any] struct {
	o Options[K, V]

	gate chan struct{} // of batches

	mu      sync.Mutex
	entries map[K]*entry[K, V]
	open    *flight[K] // waits for more keys
	cut     time.Time  // when unused answers were last dropped
}

// entry is what is known of one key.
type entry[K comparable, V any] struct {
	value         V
	known         bool
	fresh, usable time.Time // until when; usable zero: for good
	used          time.Time // last asked for

	err    error // of the last ask, if it failed
	failed time.Time
	absent time.Time // since when the answers lack it; zero: the last one did not

	flight *flight[K] // asks for it now
	// expired counts the calls of Expire; an answer to a question from before is old.
	expired int
}

// flight is one ask.
type flight[K comparable] struct {
	keys    []K
	expired []int // each key's count when it was added
	started bool
	done    chan struct{}
}

// batches is how many asks for many keys are made at a time.
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

// Get returns the answer for a key. It waits only where nothing is known; while an old
// answer serves, the next one is fetched. The error is the source's, or ctx's.
func (c *Cache[K, V]) Get(ctx context.Context, key K) (V, error) {
	return c.get(ctx, key, false)
}

// Renew returns a fresh answer, which it waits for. If there is none to be had, it
// returns the old answer, or the error where there is none.
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

// try is done unless the answer was dropped as soon as it was there.
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

// Peek returns what is known of a key. It does not wait, but has an old or unknown answer
// fetched meanwhile.
func (c *Cache[K, V]) Peek(key K) (V, bool) {
	if f := c.renew(key); f != nil {
		c.launch(f)
	}
	return c.Known(key)
}

// renew returns the flight that fetches a key's next answer; nil if there is none, as
// the answer is fresh or the last ask has just failed.
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

// Known returns what is known of a key, and asks nobody.
func (c *Cache[K, V]) Known(key K) (V, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entries[key]; e != nil && e.serves(c.o.Now()) {
		return e.value, true
	}
	var none V
	return none, false
}

// Asking reports whether a key's next answer is being fetched, and why the last one
// could not be.
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

// Expire makes a key's answer old, so that the next Get has it fetched anew; a failed
// ask is forgotten.
func (c *Cache[K, V]) Expire(key K) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entries[key]; e != nil {
		e.expire()
	}
}

// ExpireAll does so with all keys.
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

// Drop forgets a key's answer if it is the one that wrong recognises.
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

// entry returns a key's entry; c.mu is held.
func (c *Cache[K, V]) entry(key K) *entry[K, V] {
	e := c.entries[key]
	if e == nil {
		e = &entry[K, V]{}
		c.entries[key] = e
	}
	return e
}

// join adds a key to the flight that waits for more, or opens one; c.mu is held.
func (c *Cache[K, V]) join(key K, e *entry[K, V]) *flight[K] {
	f := c.open
	if f == nil {
		f = &flight[K]{done: make(chan struct{})}
		if c.o.Batch > 1 {
			c.open = f
		}
	}
	f.keys, f.expired = append(f.keys, key), append(f.expired, e.expired)
	e.flight = f
	return f
}

// launch lets a flight begin, once: at once when it is full or nobody may join.
func (c *Cache[K, V]) launch(f *flight[K]) {
	c.mu.Lock()
	full := len(f.keys) >= c.o.Batch
	if full && c.open == f {
		c.open = nil
	}
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

// takeAlong fills a flight with answers that are in use and three quarters through
// their life, so that many keys do not cost an ask each; c.mu is held.
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

// ask asks for some keys of a flight and notes what comes of it.
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

// forget drops, now and then, what nobody has asked for during two lives; c.mu is held.
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
