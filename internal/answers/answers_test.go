package answers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var errMissing = errors.New("there is none")

// source answers after a delay, in a bubble's time, and counts the asks.
type source struct {
	mu    sync.Mutex
	takes time.Duration
	err   error
	none  map[string]bool
	bad   map[string]bool // a question with one of these keys fails
	asks  [][]string
}

var errBad = errors.New("malformed")

func (s *source) ask(ctx context.Context, keys []string) (map[string]int, error) {
	s.mu.Lock()
	s.asks = append(s.asks, slices.Clone(keys))
	n, err := len(s.asks), s.err
	s.mu.Unlock()
	select {
	case <-time.After(s.takes):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	out := map[string]int{}
	for _, k := range keys {
		if s.bad[k] {
			return nil, errBad
		}
		if !s.none[k] {
			out[k] = n
		}
	}
	return out, err
}

func (s *source) cache(change ...func(*Options[string, int])) *Cache[string, int] {
	o := Options[string, int]{Ask: s.ask, Missing: func(string) error { return errMissing }, Life: time.Minute, Retry: 10 * time.Second, Now: time.Now}
	for _, f := range change {
		f(&o)
	}
	return New(o)
}

func want(t *testing.T, c *Cache[string, int], key string, v int) {
	t.Helper()
	if got, err := c.Get(t.Context(), key); err != nil || got != v {
		t.Fatalf("%s: %d, %v; want %d", key, got, err, v)
	}
}

// One ask serves all callers of a key, and the answer's age counts from the answer.
func TestOneFlightForAKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{takes: 50 * time.Second} // in a queue
		c := s.cache()
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() { want(t, c, "a", 1) })
		}
		wg.Wait()
		time.Sleep(55 * time.Second)
		want(t, c, "a", 1)
		if synctest.Wait(); len(s.asks) != 1 {
			t.Errorf("asked %d times: %v", len(s.asks), s.asks)
		}
	})
}

// An old answer is returned at once while the next one is fetched. A caller that needs a fresh
// one waits.
func TestOldAnswersServe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{takes: time.Second}
		c := s.cache()
		want(t, c, "a", 1)
		time.Sleep(time.Hour)
		begin := time.Now()
		want(t, c, "a", 1)
		want(t, c, "a", 1)
		if time.Now() != begin {
			t.Error("Get waits though there is an old answer")
		}
		if asking, err := c.Asking("a"); !asking || err != nil {
			t.Errorf("the next one is being fetched: %t, %v", asking, err)
		}
		if v, err := c.Renew(t.Context(), "a"); v != 2 || err != nil {
			t.Errorf("the fresh one is %d, %v", v, err)
		}
		if asking, err := c.Asking("a"); asking || err != nil || len(s.asks) != 2 {
			t.Errorf("asked %d times, and again: %t, %v", len(s.asks), asking, err)
		}
	})
}

// A source that fails is not asked all the time, and its old answers stay in use.
func TestFailuresAreRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{}
		c := s.cache()
		want(t, c, "a", 1)
		s.err = errors.New("away")
		time.Sleep(time.Hour)
		for range 10 {
			want(t, c, "a", 1)
			if v, err := c.Renew(t.Context(), "a"); v != 1 || err != nil {
				t.Errorf("%d, %v", v, err)
			}
			if _, err := c.Get(t.Context(), "b"); !errors.Is(err, s.err) {
				t.Errorf("an unknown key: %v", err)
			} else if asking, err := c.Asking("b"); asking || !errors.Is(err, s.err) {
				t.Errorf("it is being fetched: %t, and the last ask's error is %v", asking, err)
			}
			synctest.Wait()
		}
		if len(s.asks) != 3 {
			t.Errorf("asked %v, want once of each after the first", s.asks)
		}
		c.Expire("b")
		_, _ = c.Get(t.Context(), "b")
		if time.Sleep(10 * time.Second); len(s.asks) != 4 {
			t.Errorf("asked %v, want b again", s.asks)
		}
		s.err = nil
		want(t, c, "b", 5)
	})
}

// The old answer is dropped if two lists at different times lack the key: one list may lack it
// by mistake.
func TestMissingKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{none: map[string]bool{}}
		c := s.cache()
		asks := func(n int) {
			t.Helper()
			if synctest.Wait(); len(s.asks) != n {
				t.Fatalf("asked %d times, want %d", len(s.asks), n)
			}
		}
		renew := func(want int) {
			t.Helper()
			if v, err := c.Renew(t.Context(), "a"); v != want || err != nil {
				t.Fatalf("%d, %v; want %d", v, err, want)
			}
		}
		want(t, c, "a", 1)
		s.none["a"] = true
		time.Sleep(time.Minute)
		renew(1)
		renew(1)
		asks(2) // the answer is remembered
		delete(s.none, "a")
		time.Sleep(10 * time.Second)
		renew(3)
		time.Sleep(time.Minute)
		s.none["a"] = true
		renew(3) // missing for the first time again
		c.Expire("a")
		renew(3) // at the same time: possibly the same list
		asks(5)
		time.Sleep(10 * time.Second)
		if _, err := c.Renew(t.Context(), "a"); !errors.Is(err, errMissing) {
			t.Error(err)
		}
		if _, err := c.Get(t.Context(), "a"); !errors.Is(err, errMissing) {
			t.Error(err)
		}
		asks(6)
		if _, err := c.Get(t.Context(), "b"); err != nil {
			t.Error(err)
		}
		s.none["c"] = true
		if _, err := c.Get(t.Context(), "c"); !errors.Is(err, errMissing) { // the answer was dropped
			t.Error(err)
		}
	})
}

// Requests that come while asks are running join the next one, so that a slow series of
// requests does not cost an ask for each few.
func TestAsksTakeWhatCameMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{takes: time.Second}
		c := s.cache(func(o *Options[string, int]) { o.Join, o.Batch = 50*time.Millisecond, 100 })
		var all sync.WaitGroup
		for i := range 500 {
			all.Go(func() {
				if _, err := c.Get(t.Context(), fmt.Sprint(i)); err != nil {
					t.Error(err)
				}
			})
			time.Sleep(5 * time.Millisecond)
		}
		all.Wait()
		if len(s.asks) > 10 {
			t.Errorf("%d asks in 2.5 s for 500 keys, of which an ask takes 100", len(s.asks))
		}
	})
}

// Requests at nearly the same time are one ask. A key that makes it fail is found, and the
// others get their answers.
func TestBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{bad: map[string]bool{"k13": true}}
		c := s.cache(func(o *Options[string, int]) {
			o.Join, o.Batch, o.Divide = 50*time.Millisecond, 32, func(err error) bool { return errors.Is(err, errBad) }
		})
		var wg sync.WaitGroup
		for i := range 64 {
			wg.Go(func() {
				_, err := c.Get(t.Context(), fmt.Sprintf("k%d", i))
				if want := i == 13; errors.Is(err, errBad) != want {
					t.Errorf("k%d: %v", i, err)
				}
			})
		}
		wg.Wait()
		if len(s.asks) > 2+2*5 {
			t.Errorf("%d asks for two batches, one of them with a bad key", len(s.asks))
		}
		for _, keys := range s.asks {
			if len(keys) > 32 {
				t.Errorf("an ask for %d keys, more than a batch", len(keys))
			}
		}
		delete(s.bad, "k13")
		// An answer that will soon be old is renewed with one that is old.
		time.Sleep(59 * time.Second)
		n := len(s.asks)
		_, _ = c.Renew(t.Context(), "new")
		if len(s.asks) != n+1 || len(s.asks[n]) != 32 {
			t.Errorf("asked %v, want a full batch", s.asks[n:])
		}
	})
}

// A caller can stop waiting; the ask goes on for the others.
func TestGivingUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{takes: time.Minute}
		c := s.cache()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.Get(ctx, "a"); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		want(t, c, "a", 1)
		if len(s.asks) != 1 {
			t.Errorf("asked %d times", len(s.asks))
		}
	})
}

// An answer to a question from before Expire is old too.
func TestExpiredInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{takes: time.Second}
		c := s.cache()
		go func() { _, _ = c.Get(t.Context(), "a") }()
		synctest.Wait()
		c.ExpireAll()
		want(t, c, "a", 1)
		if v, err := c.Renew(t.Context(), "a"); v != 2 || err != nil {
			t.Errorf("%d, %v", v, err)
		}
		c.Drop("a", func(v int) bool { return v == 1 })
		want(t, c, "a", 2)
		c.Drop("a", func(v int) bool { return v == 2 })
		want(t, c, "a", 3)
	})
}

// An answer with an end is not used after it.
func TestAnswersThatEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{}
		c := s.cache(func(o *Options[string, int]) {
			o.Times = func(_ int, at time.Time) (fresh, usable time.Time) {
				return at.Add(time.Minute), at.Add(2 * time.Minute)
			}
		})
		want(t, c, "a", 1)
		s.err = errors.New("away")
		time.Sleep(time.Minute)
		want(t, c, "a", 1)
		time.Sleep(time.Minute)
		if _, err := c.Get(t.Context(), "a"); !errors.Is(err, s.err) {
			t.Error(err)
		}
	})
}

// Answers that are no longer used are removed.
func TestUnusedAnswersGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := (&source{}).cache()
		want(t, c, "a", 1)
		time.Sleep(3 * time.Minute)
		want(t, c, "b", 2)
		if _, ok := c.Known("a"); ok || len(c.entries) != 1 {
			t.Errorf("%d entries", len(c.entries))
		}
	})
}
