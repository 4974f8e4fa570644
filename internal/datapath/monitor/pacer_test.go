package monitor

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestPacer(t *testing.T) {
	start := time.Unix(1000, 0)
	p := pacer{coalesce: DefaultCoalesce, slowest: DefaultSlowest}
	now := start
	event := func(what string) time.Duration {
		p.note(now, what)
		d := p.next(now)
		now = now.Add(d)
		return d
	}
	if d := event("rule"); d != DefaultCoalesce {
		t.Errorf("the first event waits %s, want %s", d, DefaultCoalesce)
	}
	// Rare events: none waits longer, however many there are.
	for range 50 {
		now = now.Add(2 * time.Second)
		if d := event("rule"); d != DefaultCoalesce {
			t.Fatalf("an event after a quiet time waits %s, want %s", d, DefaultCoalesce)
		}
		if c := p.contended(now); c != "" {
			t.Fatalf("contended: %q", c)
		}
	}
	// Repeated changes, as soon as they are repaired.
	now = now.Add(time.Minute)
	repairs, from := 0, now
	for now.Sub(from) < time.Minute {
		event("rule")
		event("route")
		repairs += 2
	}
	if least := int(time.Minute / DefaultSlowest); repairs < least || repairs > 3*least {
		t.Errorf("%d repairs in a minute of contention, want about %d", repairs, least)
	}
	if c := p.contended(now); !strings.Contains(c, "rule (") || !strings.Contains(c, "route (") {
		t.Errorf("contended: %q, want both reasons", c)
	}
	// Events that occur once or twice for each of many objects are no contention.
	now = now.Add(time.Minute)
	for i := range 30 {
		event(fmt.Sprintf("device eth%d of an ENI appeared", i))
		event(fmt.Sprintf("device eth%d of an ENI came up", i))
		if c := p.contended(now); c != "" {
			t.Fatalf("contended by ENIs that come: %q", c)
		}
	}
	// After the contention.
	now = now.Add(time.Minute)
	if c := p.contended(now); c != "" {
		t.Errorf("contended a minute later: %q", c)
	}
	if d := event("rule"); d != DefaultCoalesce || len(p.why) != 1 {
		t.Errorf("an event a minute later waits %s and the reasons are %v; want %s and one", d, p.why, DefaultCoalesce)
	}
}
