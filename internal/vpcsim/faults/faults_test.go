package faults

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func set(t *testing.T, seed uint64, rules ...Rule) *Set {
	t.Helper()
	s := New(seed)
	if _, err := s.Add(start, rules...); err != nil {
		t.Fatal(err)
	}
	return s
}

func half() *float64 { p := 0.5; return &p }

func TestWhichCallsAreHit(t *testing.T) {
	fail := &Error{Code: "Throttling"}
	for _, c := range []struct {
		name   string
		rule   Rule
		action string
		params url.Values
		want   string // for five calls, x for each hit
	}{
		{"every call", Rule{Error: fail}, "A", nil, "xxxxx"},
		{"another action", Rule{Action: "B", Error: fail}, "A", nil, "....."},
		{"wildcard", Rule{Action: "Assign*", Error: fail}, "AssignPrivateIpAddresses", nil, "xxxxx"},
		{"of this product", Rule{Action: "Ecs:A", Error: fail}, "A", nil, "xxxxx"},
		{"of another product", Rule{Action: "Vpc:A", Error: fail}, "A", nil, "....."},
		{"all of this product", Rule{Action: "Ecs:*", Error: fail}, "A", nil, "xxxxx"},
		{"of any product", Rule{Action: "*:A", Error: fail}, "A", nil, "xxxxx"},
		{"count", Rule{Error: fail, Count: 2}, "A", nil, "xx..."},
		{"skip", Rule{Error: fail, Skip: 3}, "A", nil, "...xx"},
		{"skip and count", Rule{Error: fail, Skip: 1, Count: 2}, "A", nil, ".xx.."},
		{"parameter that matches", Rule{Error: fail, Match: map[string]string{"Id": "eni-1"}}, "A", url.Values{"Id": {"eni-1"}}, "xxxxx"},
		{"parameter that differs", Rule{Error: fail, Match: map[string]string{"Id": "eni-1"}}, "A", url.Values{"Id": {"eni-2"}}, "....."},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := set(t, 1, c.rule)
			got := ""
			for range 5 {
				if s.Decide("Ecs", c.action, c.params, start).Error != nil {
					got += "x"
				} else {
					got += "."
				}
			}
			if got != c.want {
				t.Errorf("hits %s, want %s", got, c.want)
			}
		})
	}
}

func TestEffectsAddUp(t *testing.T) {
	s := set(t, 1,
		Rule{Name: "a", Latency: &Latency{Fixed: Duration(time.Second)}},
		Rule{Name: "b", Latency: &Latency{Fixed: Duration(2 * time.Second)}, Error: &Error{Code: "First", Status: 503}},
		Rule{Name: "c", Error: &Error{Code: "Second"}, LostAnswer: true, Stale: Duration(time.Minute)},
	)
	v := s.Decide("Ecs", "X", nil, start)
	if v.Delay != 3*time.Second || v.Error.Code != "First" || v.Error.Status != 503 || !v.LostAnswer || v.Stale != time.Minute {
		t.Errorf("verdict %+v", v)
	}
}

func TestErrorDefaults(t *testing.T) {
	s := set(t, 1, Rule{Error: &Error{Code: "Throttling"}})
	if e := s.Decide("Ecs", "X", nil, start).Error; e.Status != 400 || e.Message == "" {
		t.Errorf("error %+v, want status 400 and a message", e)
	}
}

func TestBursts(t *testing.T) {
	s := set(t, 1, Rule{Error: &Error{Code: "Throttling"},
		After: Duration(10 * time.Second), For: Duration(5 * time.Second), Every: Duration(20 * time.Second)})
	for second, want := range map[int]bool{0: false, 9: false, 10: true, 14: true, 15: false, 29: false, 30: true, 34: true, 35: false, 50: true} {
		if got := s.Decide("Ecs", "X", nil, start.Add(time.Duration(second)*time.Second)).Error != nil; got != want {
			t.Errorf("second %d: hit %v, want %v", second, got, want)
		}
	}
}

func TestConditionsAndTheirEdges(t *testing.T) {
	s := set(t, 1,
		Rule{Name: "stuck", StuckAttaching: true, After: Duration(10 * time.Second), For: Duration(10 * time.Second)},
		Rule{Name: "full", VSwitchFull: []string{"vsw-b", "vsw-a"}},
		Rule{Name: "full too", VSwitchFull: []string{"vsw-a"}},
		Rule{Name: "calls", Error: &Error{Code: "X"}, After: Duration(time.Second)},
	)
	c := s.Conditions(start)
	if c.StuckAttaching || strings.Join(c.VSwitchFull, " ") != "vsw-a vsw-b" {
		t.Errorf("at the start: %+v", c)
	}
	for _, want := range []struct {
		at    int
		stuck bool
		next  int
	}{{0, false, 10}, {10, true, 20}, {20, false, -1}} {
		now := start.Add(time.Duration(want.at) * time.Second)
		if got := s.Conditions(now).StuckAttaching; got != want.stuck {
			t.Errorf("second %d: stuck %v", want.at, got)
		}
		next, ok := s.NextEdge(now)
		if ok != (want.next >= 0) || ok && !next.Equal(start.Add(time.Duration(want.next)*time.Second)) {
			t.Errorf("second %d: next edge %v %v, want second %d", want.at, next, ok, want.next)
		}
	}
}

// Between two edges nothing changes, and at each edge something may: otherwise the simulator
// would miss the end of a burst.
func TestEdgesAreWhereActiveChanges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := &rule{start: start, Rule: Rule{StuckAttaching: true}}
		r.After = Duration(rapid.IntRange(0, 20).Draw(t, "after")) * Duration(time.Second)
		r.For = Duration(rapid.IntRange(0, 20).Draw(t, "for")) * Duration(time.Second)
		if r.For > 0 && rapid.Bool().Draw(t, "repeats") {
			r.Every = r.For + Duration(rapid.IntRange(1, 20).Draw(t, "pause"))*Duration(time.Second)
		}
		now := start
		for second := range 100 {
			at := start.Add(time.Duration(second) * time.Second)
			if next, ok := r.edge(now); (!ok || at.Before(next)) && r.active(at) != r.active(now) {
				t.Fatalf("%+v: active changes by %v although the edge after %v is %v (%v)", r.Rule, at, now, next, ok)
			} else if ok && !at.Before(next) {
				now = at
			}
		}
	})
}

// The effect of a rule depends on the seed and its own calls, not on other rules.
func TestReproducible(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64().Draw(t, "seed")
		r := Rule{Name: "r", Action: "A", Probability: half(), Latency: &Latency{Min: 1, Max: 1000}}
		alone, among := New(seed), New(seed)
		if _, err := alone.Add(start, r); err != nil {
			t.Fatal(err)
		}
		if _, err := among.Add(start, Rule{Name: "other", Probability: half(), LostAnswer: true}, r); err != nil {
			t.Fatal(err)
		}
		for i := range 50 {
			if rapid.Bool().Draw(t, "between") {
				among.Decide("Ecs", "B", nil, start)
			}
			a, b := alone.Decide("Ecs", "A", nil, start), among.Decide("Ecs", "A", nil, start)
			if a.Delay != b.Delay {
				t.Fatalf("call %d: delay %v alone, %v among others", i, a.Delay, b.Delay)
			}
		}
	})
}

func TestProbabilityIsNearlyKept(t *testing.T) {
	s := set(t, 7, Rule{Probability: half(), LostAnswer: true})
	hits := 0
	for range 10000 {
		if s.Decide("Ecs", "X", nil, start).LostAnswer {
			hits++
		}
	}
	if hits < 4800 || hits > 5200 {
		t.Errorf("%d of 10000 calls hit with probability 0.5", hits)
	}
}

func TestLatencyStaysInItsBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		low := rapid.Int64Range(0, 1e9).Draw(t, "min")
		high := low + rapid.Int64Range(1, 1e9).Draw(t, "width")
		r := Rule{Latency: &Latency{Min: Duration(low), Max: Duration(high)}}
		if rapid.Bool().Draw(t, "exponential") {
			r.Latency.Mean = Duration(rapid.Int64Range(1, 1e9).Draw(t, "mean"))
		}
		s := New(1)
		if _, err := s.Add(start, r); err != nil {
			t.Fatal(err)
		}
		for range 20 {
			if d := int64(s.Decide("Ecs", "X", nil, start).Delay); d < low || d > high {
				t.Fatalf("delay %d outside %d–%d", d, low, high)
			}
		}
	})
}

func TestRulesThatMeanNothing(t *testing.T) {
	for text, want := range map[string]string{
		`{}`:                                    "no effect",
		`{"action":"["}`:                        "no effect",
		`{"action":"[","lostAnswer":true}`:      "wildcards",
		`{"probability":2,"lostAnswer":true}`:   "want 0–1",
		`{"error":{}}`:                          "error.code is empty",
		`{"error":{"code":"X","status":200}}`:   "want 400–599",
		`{"latency":{}}`:                        "latency",
		`{"latency":{"fixed":"1s","max":"2s"}}`: "either fixed",
		`{"latency":{"fixed":"-1s"}}`:           "negative",
		`{"latency":{"fixed":1}}`:               "want a string",
		`{"stuckAttaching":true,"action":"AttachNetworkInterface"}`: "do not depend on calls",
		`{"stuckAttaching":true,"lostAnswer":true}`:                 "two rules",
		`{"lostAnswer":true,"every":"10s"}`:                         "want a for",
		`{"lostAnswers":true}`:                                      "unknown field",
		`[{"lostAnswer":true}`:                                      "want one JSON object",
		`{"lostAnswer":true} x`:                                     "more text",
	} {
		rules, err := Parse([]byte(text))
		if err == nil {
			_, err = New(1).Add(start, rules...)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one with %q", text, err, want)
		}
	}
}

func TestAdminEndpoint(t *testing.T) {
	s := New(1)
	changes := 0
	h := s.Handler(func() time.Time { return start }, func() { changes++ })
	call := func(method, path, body string) (int, string) {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
		return w.Code, w.Body.String()
	}
	if code, body := call("POST", "/", `[{"name":"slow","action":"Attach*","latency":{"fixed":"1.5s"}},{"lostAnswer":true,"count":1}]`); code != 200 {
		t.Fatalf("POST: %d %s", code, body)
	}
	s.Decide("Ecs", "AttachNetworkInterface", nil, start)
	code, body := call("GET", "/", "")
	var list []Status
	if err := json.Unmarshal([]byte(body), &list); err != nil || code != 200 {
		t.Fatalf("GET: %d %s: %v", code, body, err)
	}
	if len(list) != 2 || list[0].Hits != 1 || !list[0].Active || list[1].Name == "" || list[1].Hits != 1 || list[1].Active {
		t.Errorf("GET: %s", body)
	}
	if code, body := call("POST", "/", `{"name":"slow"}`); code != 400 || !strings.Contains(body, "no effect") {
		t.Errorf("bad rule: %d %s", code, body)
	}
	if code, _ := call("DELETE", "/?name=none", ""); code != http.StatusNotFound {
		t.Errorf("DELETE of an unknown rule: %d", code)
	}
	if code, _ := call("DELETE", "/?name=slow", ""); code != 200 || len(s.List(start)) != 1 {
		t.Errorf("DELETE of a rule: %d, %d left", code, len(s.List(start)))
	}
	if code, _ := call("DELETE", "/", ""); code != 200 || len(s.List(start)) != 0 {
		t.Errorf("DELETE of all: %d, %d left", code, len(s.List(start)))
	}
	if changes != 3 {
		t.Errorf("changed was called %d times, want 3", changes)
	}
}
