package alibaba

import (
	"context"
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// untold is for who need not know how long a wait will be.
func untold(time.Duration) {}

func TestThrottlingSlowsAndRecovers(t *testing.T) {
	clock := newFakeClock()
	l := newLimiter(600) // 10 a second
	if l.rate() != 10 {
		t.Fatalf("rate %v, want 10", l.rate())
	}
	l.slow(clock.Now())
	l.slow(clock.Now()) // the answer to a call made at the same time
	if l.rate() != 5 {
		t.Fatalf("rate %v after one throttling, want 5", l.rate())
	}
	clock.advance(slowPause)
	l.slow(clock.Now())
	if l.rate() != 2.5 {
		t.Fatalf("rate %v after two, want 2.5", l.rate())
	}
	for range 100 {
		clock.advance(slowPause)
		l.slow(clock.Now())
	}
	if l.rate() != 0.2 {
		t.Fatalf("rate %v after many, want the floor 0.2", l.rate())
	}
	l.fine(clock.Now())
	if l.rate() != 0.2 {
		t.Fatal("one answer is no recovery")
	}
	clock.advance(recoverStep)
	l.fine(clock.Now())
	if l.rate() <= 0.2 || l.rate() > 0.25 {
		t.Fatalf("rate %v after one quiet step", l.rate())
	}
	clock.advance(time.Hour)
	l.fine(clock.Now())
	if l.rate() != 10 || l.bucket.Burst() != l.burst {
		t.Fatalf("rate %v, burst %d after a quiet hour", l.rate(), l.bucket.Burst())
	}
}

func TestTurnIsGivenBack(t *testing.T) {
	clock := newFakeClock()
	l := newLimiter(60)
	for range l.burst {
		if _, err := l.wait(t.Context(), clock, untold); err != nil {
			t.Fatal(err)
		}
	}
	var late errTooLate
	soon := deadlineAt{t.Context(), clock.Now().Add(time.Millisecond)}
	if _, err := l.wait(soon, clock, untold); !errors.As(err, &late) || late.wait != time.Second {
		t.Fatalf("%v, want a turn in 1 s", err)
	}
	if d, err := l.wait(t.Context(), clock, untold); err != nil || d != time.Second {
		t.Fatalf("next turn after %v (%v), want 1s: the one not taken is given back", d, err)
	}
}

// deadlineAt has a deadline of the fake clock's time.
type deadlineAt struct {
	context.Context
	at time.Time
}

func (d deadlineAt) Deadline() (time.Time, bool) { return d.at, true }

// However calls, throttlings and pauses are mixed, no stretch of time has more
// calls than the configured rate and one burst allow.
func TestNeverFasterThanConfigured(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		clock := newFakeClock()
		perMinute := rapid.IntRange(1, 3000).Draw(t, "perMinute")
		l := newLimiter(perMinute)
		base := float64(l.base)
		var calls []time.Time
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			switch rapid.IntRange(0, 5).Draw(t, "step") {
			case 0:
				l.slow(clock.Now())
			case 1:
				clock.advance(time.Duration(rapid.Int64Range(0, int64(20*time.Second)).Draw(t, "pause")))
			case 2:
				l.fine(clock.Now())
			default:
				if _, err := l.wait(context.Background(), clock, untold); err != nil {
					t.Fatal(err)
				}
				calls = append(calls, clock.Now())
			}
			if r := l.rate(); r > base || r < base*slowFloor*0.999 {
				t.Fatalf("rate %v is outside %v…%v", r, base*slowFloor, base)
			}
		}
		for i := range calls {
			for j := i; j < len(calls); j++ {
				allowed := float64(l.burst) + base*calls[j].Sub(calls[i]).Seconds() + 1e-6
				if n := float64(j - i + 1); n > allowed+0.001 {
					t.Fatalf("%v calls within %v, allowed %.3f", n, calls[j].Sub(calls[i]), allowed)
				}
			}
		}
	})
}

func TestBackoff(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n, r := rapid.IntRange(1, 1000).Draw(t, "n"), rapid.Float64Range(0, 0.999).Draw(t, "random")
		d := backoff(n, r)
		if d < backoffMin/2 || d > backoffMax || backoff(n+1, r) < d {
			t.Fatalf("pause %v after attempt %d", d, n)
		}
	})
}
