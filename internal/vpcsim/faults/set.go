package faults

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync"
	"time"
)

// Verdict is what happens to a call. The zero value means: nothing.
type Verdict struct {
	Delay      time.Duration
	Error      *Error
	LostAnswer bool
	Stale      time.Duration
}

// Conditions are the active changes of the cloud.
type Conditions struct {
	StuckAttaching bool
	FailingAttach  bool
	StrictDetach   bool
	TypeBandwidth  bool
	StuckJobs      bool
	FailingJobs    bool
	VSwitchFull    []string // sorted
}

// Status is a rule with its counters.
type Status struct {
	Rule
	// Seen counts calls that matched the rule, Hits those on which it had an effect.
	Seen   int  `json:"seen"`
	Hits   int  `json:"hits"`
	Active bool `json:"active"`
}

// Set is the set of rules of a simulator. It is safe for concurrent use; a nil *Set has no
// rules.
type Set struct {
	seed uint64

	mu    sync.Mutex
	rules []*rule // in the order they were added
	made  int     // number of generated names
}

type rule struct {
	Rule
	start  time.Time
	random *rand.Rand
	seen   int
	hits   int
}

// New returns an empty set.
func New(seed uint64) *Set { return &Set{seed: seed} }

// Add adds all rules or none, and replaces those with the same names. Their times start now.
func (s *Set) Add(now time.Time, rules ...Rule) ([]Status, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range rules {
		if err := rules[i].check(); err != nil {
			return nil, fmt.Errorf("fault rule %q (number %d): %w", rules[i].Name, i+1, err)
		}
	}
	added := make([]Status, len(rules))
	for i, r := range rules {
		if r.Name == "" {
			s.made++
			r.Name = fmt.Sprintf("fault-%d", s.made)
		}
		h := fnv.New64a()
		fmt.Fprint(h, r.Name)
		fresh := &rule{Rule: r, start: now, random: rand.New(rand.NewPCG(s.seed, h.Sum64()))}
		if at := slices.IndexFunc(s.rules, func(x *rule) bool { return x.Name == r.Name }); at >= 0 {
			s.rules[at] = fresh
		} else {
			s.rules = append(s.rules, fresh)
		}
		added[i] = fresh.status(now)
	}
	return added, nil
}

// Remove removes a rule and reports whether it existed. An empty name removes all.
func (s *Set) Remove(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := len(s.rules)
	s.rules = slices.DeleteFunc(s.rules, func(r *rule) bool { return name == "" || r.Name == name })
	return len(s.rules) < before
}

// List returns the rules with their counts.
func (s *Set) List(now time.Time) []Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Status, len(s.rules))
	for i, r := range s.rules {
		out[i] = r.status(now)
	}
	return out
}

// Decide returns what happens to a call of a product's action. Effects of several rules are
// combined; of several errors the first rule's is used.
func (s *Set) Decide(product, action string, params url.Values, now time.Time) Verdict {
	var v Verdict
	if s == nil {
		return v
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.rules {
		if r.onState() || !r.concerns(product, action, params) || !r.active(now) || !r.hit() {
			continue
		}
		v.Delay += r.delay()
		v.LostAnswer = v.LostAnswer || r.LostAnswer
		v.Stale = max(v.Stale, time.Duration(r.Stale))
		if v.Error == nil && r.Error != nil {
			v.Error = r.Error.answer()
		}
	}
	return v
}

// Conditions returns the active changes of the cloud.
func (s *Set) Conditions(now time.Time) Conditions {
	var c Conditions
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.rules {
		if r.onState() && r.active(now) {
			c.StuckAttaching = c.StuckAttaching || r.StuckAttaching
			c.FailingAttach = c.FailingAttach || r.FailingAttach
			c.StrictDetach = c.StrictDetach || r.StrictDetach
			c.TypeBandwidth = c.TypeBandwidth || r.TypeBandwidth
			c.StuckJobs = c.StuckJobs || r.StuckJobs
			c.FailingJobs = c.FailingJobs || r.FailingJobs
			c.VSwitchFull = append(c.VSwitchFull, r.VSwitchFull...)
		}
	}
	slices.Sort(c.VSwitchFull)
	c.VSwitchFull = slices.Compact(c.VSwitchFull)
	return c
}

// NextEdge returns when Conditions may change next without a call.
func (s *Set) NextEdge(now time.Time) (time.Time, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var next time.Time
	for _, r := range s.rules {
		if at, ok := r.edge(now); r.onState() && ok && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	return next, !next.IsZero()
}

// MaxStale returns the maximum age that a rule may ask for; 0: no rule does.
func (s *Set) MaxStale() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	var d time.Duration
	for _, r := range s.rules {
		d = max(d, time.Duration(r.Stale))
	}
	return d
}

func (r *rule) status(now time.Time) Status {
	return Status{Rule: r.Rule, Seen: r.seen, Hits: r.hits, Active: r.active(now) && !r.spent()}
}

func (r *rule) concerns(product, action string, params url.Values) bool {
	if r.Action != "" {
		if strings.Contains(r.Action, ":") {
			action = product + ":" + action
		}
		// The pattern was validated when the rule was added.
		if ok, _ := path.Match(r.Action, action); !ok {
			return false
		}
	}
	for k, v := range r.Match {
		if params.Get(k) != v {
			return false
		}
	}
	return true
}

// active reports whether the rule is active now.
func (r *rule) active(now time.Time) bool {
	since := now.Sub(r.start) - time.Duration(r.After)
	if since < 0 {
		return false
	}
	if r.For == 0 {
		return true
	}
	if r.Every > 0 {
		since %= time.Duration(r.Every)
	}
	return since < time.Duration(r.For)
}

// edge returns the next time at which active changes.
func (r *rule) edge(now time.Time) (time.Time, bool) {
	first := r.start.Add(time.Duration(r.After))
	since := now.Sub(first)
	switch {
	case since < 0:
		return first, true
	case r.For == 0:
		return time.Time{}, false
	case r.Every == 0:
		end := first.Add(time.Duration(r.For))
		return end, now.Before(end)
	}
	round := now.Add(-(since % time.Duration(r.Every)))
	if end := round.Add(time.Duration(r.For)); now.Before(end) {
		return end, true
	}
	return round.Add(time.Duration(r.Every)), true
}

func (r *rule) spent() bool { return r.Count > 0 && r.hits >= r.Count }

// hit counts a call and decides randomly whether it is hit.
func (r *rule) hit() bool {
	if r.spent() {
		return false
	}
	r.seen++
	if r.seen <= r.Skip {
		return false
	}
	if r.Probability != nil && r.random.Float64() >= *r.Probability {
		return false
	}
	r.hits++
	return true
}

func (r *rule) delay() time.Duration {
	l := r.Latency
	switch {
	case l == nil:
		return 0
	case l.Fixed > 0:
		return time.Duration(l.Fixed)
	case l.Mean > 0:
		d := time.Duration(l.Min) + time.Duration(r.random.ExpFloat64()*float64(l.Mean))
		if l.Max > 0 {
			d = min(d, time.Duration(l.Max))
		}
		return d
	}
	return time.Duration(l.Min) + time.Duration(r.random.Int64N(int64(l.Max-l.Min)+1))
}
