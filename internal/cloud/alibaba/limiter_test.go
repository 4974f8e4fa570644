package alibaba

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/utils/clock"
	"pgregory.net/rapid"

	"terway.dev/terway/internal/cloud"
)

// untold ignores how long a wait will be.
func untold(time.Duration) {}

func TestThrottlingSlowsAndRecovers(t *testing.T) {
	clock := newFakeClock()
	l := newLimiter(600, slowFloor) // 10 a second
	if l.rate() != 10 {
		t.Fatalf("rate %v, want 10", l.rate())
	}
	l.slow(clock.Now())
	l.slow(clock.Now()) // the answer to a call made at the same time
	if l.rate() != 5 {
		t.Fatalf("rate %v after one throttling, want 5", l.rate())
	}
	clock.Step(slowPause)
	l.slow(clock.Now())
	if l.rate() != 2.5 {
		t.Fatalf("rate %v after two, want 2.5", l.rate())
	}
	for range 100 {
		clock.Step(slowPause)
		l.slow(clock.Now())
	}
	if l.rate() != 0.2 {
		t.Fatalf("rate %v after many, want the floor 0.2", l.rate())
	}
	l.fine(clock.Now())
	if l.rate() != 0.2 {
		t.Fatal("one answer is no recovery")
	}
	clock.Step(recoverStep)
	l.fine(clock.Now())
	if l.rate() <= 0.2 || l.rate() > 0.25 {
		t.Fatalf("rate %v after one quiet step", l.rate())
	}
	clock.Step(time.Hour)
	l.fine(clock.Now())
	l.count(clock.Now())
	clock.Step(time.Hour)
	if l.count(clock.Now()); l.rate() != 10 || l.tokens != float64(l.burst) {
		t.Fatalf("rate %v, burst %v after a quiet hour", l.rate(), l.tokens)
	}
}

func TestTurnIsGivenBack(t *testing.T) {
	clock := newFakeClock()
	l := newLimiter(60, slowFloor)
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

// deadlineAt is a context with a deadline in the fake clock's time.
type deadlineAt struct {
	context.Context
	at time.Time
}

func (d deadlineAt) Deadline() (time.Time, bool) { return d.at, true }

// However often they are throttled, calls about load balancers go on at a tenth of the configured rate, others at a fiftieth.
func TestThrottlingLeavesMoreForLoadBalancers(t *testing.T) {
	all, err := newLimiters(map[string]int{"DescribeInstances": 600})
	if err != nil {
		t.Fatal(err)
	}
	for action, want := range map[string]float64{"slb:SetVServerGroupAttribute": 5, "nlb:UpdateServerGroupServersAttribute": 5, "DescribeInstances": 0.2} {
		clock := newFakeClock()
		for range 100 {
			clock.Step(time.Minute)
			all[action].slow(clock.Now())
		}
		if r := all[action].rate(); math.Abs(r-want) > 1e-9 {
			t.Errorf("%s: %v calls a second, want %v", action, r, want)
		}
	}
}

// For any mix of calls, throttling and pauses, no period has more calls than the configured
// rate and one burst allow.
func TestNeverFasterThanConfigured(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		clock := newFakeClock()
		perMinute := rapid.IntRange(1, 3000).Draw(t, "perMinute")
		floor := rapid.SampledFrom([]float64{slowFloor, balancerFloor}).Draw(t, "floor")
		l := newLimiter(perMinute, floor)
		base := l.base
		var calls []time.Time
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			switch rapid.IntRange(0, 5).Draw(t, "step") {
			case 0:
				l.slow(clock.Now())
			case 1:
				clock.Step(time.Duration(rapid.Int64Range(0, int64(20*time.Second)).Draw(t, "pause")))
			case 2:
				l.fine(clock.Now())
			default:
				if _, err := l.wait(context.Background(), clock, untold); err != nil {
					t.Fatal(err)
				}
				calls = append(calls, clock.Now())
			}
			if r := l.rate(); r > base || r < base*floor*0.999 {
				t.Fatalf("rate %v is outside %v…%v", r, base*floor, base)
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

// docs/configuration.md has the limits of the controller's calls.
func TestLimitsAreDocumented(t *testing.T) {
	b, err := os.ReadFile("../../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(b), "\n## Rate limits\n")
	got := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([A-Za-z:]+)` \\| ([0-9]+) \\|$").FindAllStringSubmatch(section, -1) {
		got[m[1]] = m[2]
	}
	want := map[string]string{}
	for name, a := range actions {
		if a.by&byController != 0 {
			want[name] = strconv.Itoa(a.perMinute)
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("documented are %v, want %v", got, want)
	}
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

// Calls that pods wait for come first, calls of one priority keep their order, and none waits
// for ever.
func TestPriorities(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(60, slowFloor)
		for l.tokens > 0 {
			_, _ = l.wait(t.Context(), clock.RealClock{}, untold)
		}
		var (
			mu    sync.Mutex
			order []cloud.Priority
			wg    sync.WaitGroup
		)
		call := func(ctx context.Context, p cloud.Priority) {
			wg.Go(func() {
				if _, err := l.wait(cloud.WithPriority(ctx, p), clock.RealClock{}, untold); err == nil {
					mu.Lock()
					order = append(order, p)
					mu.Unlock()
				}
			})
			time.Sleep(time.Millisecond)
		}
		for range 2 {
			call(t.Context(), cloud.GiveBack)
			call(t.Context(), cloud.Refill)
		}
		gone, cancel := context.WithCancel(t.Context())
		call(gone, cloud.PodsWait)
		cancel() // its slot goes to another
		for range 20 {
			call(t.Context(), cloud.PodsWait)
		}
		begin := time.Now()
		wg.Wait()
		if took := time.Since(begin); len(order) != 24 || took.Round(time.Second) != 24*time.Second {
			t.Errorf("%d calls in %v", len(order), took)
		}
		first := slices.Index(order, cloud.GiveBack)
		if first < 1 || first >= fairTurn || slices.Index(order, cloud.Refill) <= first {
			t.Errorf("order %v: want the one that waits longest at a fair turn, and else those for pods", order)
		}
		for i, p := range order[:first+5] {
			if i != first && p != cloud.PodsWait {
				t.Errorf("order %v", order)
			}
		}
		if l.dispatches || l.waiting() {
			t.Error("nobody waits, and turns are given")
		}
	})
}

// A deferrable call does not block: the error says when to retry, calls that pods wait for are
// not behind others, and a retry succeeds.
func TestDeferral(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(600, slowFloor) // 10 a second
		held, served := 0, 0
		var mu sync.Mutex
		var wg sync.WaitGroup
		call := func(p cloud.Priority) {
			ctx := cloud.WithDeferral(cloud.WithPriority(t.Context(), p))
			wg.Go(func() {
				for {
					after := l.admit(ctx, time.Now())
					if after > deferMax {
						t.Errorf("told to come again in %v", after)
					}
					if after == 0 {
						break
					}
					time.Sleep(after)
				}
				mu.Lock()
				held++
				mu.Unlock()
				if _, err := l.wait(ctx, clock.RealClock{}, untold); err != nil {
					t.Error(err)
				}
				l.release(ctx)
				mu.Lock()
				held, served = held-1, served+1
				mu.Unlock()
			})
		}
		begin := time.Now()
		for range 2000 {
			call(cloud.Refill)
		}
		synctest.Wait()
		if held != int(holdFor.Seconds()*10) {
			t.Errorf("%d calls wait in the queue", held)
		}
		call(cloud.PodsWait)
		time.Sleep(time.Second)
		if l.calls[cloud.PodsWait] != 0 {
			t.Error("a call for which pods wait is behind the others")
		}
		wg.Wait()
		if bound, took := 200*time.Second, time.Since(begin); took > bound*115/100 || served != 2001 {
			t.Errorf("%d calls took %v, the rate would allow %v", served, took, bound)
		}
	})
}

func TestDeferredErrors(t *testing.T) {
	later := func(d time.Duration) error {
		return fmt.Errorf("assign: %w", &cloud.Error{Class: cloud.Throttled, After: d})
	}
	if d, ok := cloud.Deferred(errors.Join(later(3*time.Second), nil, errors.Join(later(2*time.Second)))); !ok || d != 2*time.Second {
		t.Errorf("%v, %v", d, ok)
	}
	for _, err := range []error{nil, errors.New("no"), errors.Join(later(time.Second), &cloud.Error{Class: cloud.Auth})} {
		if d, ok := cloud.Deferred(err); ok {
			t.Errorf("%v: %v", err, d)
		}
	}
}
