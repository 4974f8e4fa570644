// Package faults decides which calls of the simulated cloud fail, and how.
//
// A Set has named rules. Each rule uses its own seeded random stream, so what happens to the
// n-th call of a rule depends only on the seed, the rule's name and n, not on other rules. The
// package must never act itself: it returns verdicts, and the server executes them.
package faults

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path"
	"time"
)

// Rule is a fault. Action selects calls, conditions restrict the selection, and effects define
// what happens.
type Rule struct {
	// Name identifies the rule; if empty, a name is generated.
	Name string `json:"name,omitempty"`
	// Action is the name of the action, which several products may have, or PRODUCT:NAME, for
	// example "Vpc:CreateVpc"; "*" and "?" are wildcards, empty matches all.
	Action string `json:"action,omitempty"`
	// Match are parameters that the call must have, by their names in the API
	// ("NetworkInterfaceId").
	Match map[string]string `json:"match,omitempty"`

	// Probability is the probability of a hit; absent means 1.
	Probability *float64 `json:"probability,omitempty"`
	// Skip ignores the first calls; Count ends the rule after that many hits (0: never).
	Skip  int `json:"skip,omitempty"`
	Count int `json:"count,omitempty"`
	// After, For and Every define bursts: the rule becomes active After its start, stays active
	// For this long (0: for ever), and repeats Every so often (0: once).
	After Duration `json:"after,omitempty"`
	For   Duration `json:"for,omitempty"`
	Every Duration `json:"every,omitempty"`

	// Latency delays the call before it is executed.
	Latency *Latency `json:"latency,omitempty"`
	// Error is returned instead of executing the call.
	Error *Error `json:"error,omitempty"`
	// LostAnswer executes the call and closes the connection without an answer.
	LostAnswer bool `json:"lostAnswer,omitempty"`
	// Stale answers a Describe call from the state as it was that long ago.
	Stale Duration `json:"stale,omitempty"`

	// These change the cloud while the rule is active, independently of calls (so Action,
	// Match, Probability, Skip and Count must be empty).

	// StuckAttaching keeps ENIs in Attaching.
	StuckAttaching bool `json:"stuckAttaching,omitempty"`
	// FailingAttach makes attachments fail: the ENI becomes Available.
	FailingAttach bool `json:"failingAttach,omitempty"`
	// StrictDetach makes DetachNetworkInterface refuse an ENI that is not attached.
	StrictDetach bool `json:"strictDetach,omitempty"`
	// TypeBandwidth holds each instance to the bandwidth of its type; what exceeds it is dropped.
	TypeBandwidth bool `json:"typeBandwidth,omitempty"`
	// StuckJobs keeps the jobs of NLB in Processing.
	StuckJobs bool `json:"stuckJobs,omitempty"`
	// FailingJobs makes the jobs of NLB fail: what they were to change stays as it was.
	FailingJobs bool `json:"failingJobs,omitempty"`
	// VSwitchFull are the ids of vSwitches that refuse new addresses.
	VSwitchFull []string `json:"vSwitchFull,omitempty"`
}

// Latency is a delay: Fixed, or uniform between Min and Max, or exponential with mean Mean
// (limited to Max if that is set).
type Latency struct {
	Fixed Duration `json:"fixed,omitempty"`
	Min   Duration `json:"min,omitempty"`
	Max   Duration `json:"max,omitempty"`
	Mean  Duration `json:"mean,omitempty"`
}

// Error is an injected error. The default of Status is 400, that of Message a standard text.
type Error struct {
	Code    string            `json:"code"`
	Status  int               `json:"status,omitempty"`
	Message string            `json:"message,omitempty"`
	Header  map[string]string `json:"header,omitempty"`
}

// Duration is a time.Duration that is written as "1.5s" in JSON.
type Duration time.Duration

// MarshalJSON writes the form "1.5s".
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(d).String()) }

// UnmarshalJSON reads the form "1.5s".
func (d *Duration) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("duration %s: want a string such as \"1.5s\"", b)
	}
	v, err := time.ParseDuration(s)
	if err != nil {
		return fmt.Errorf("duration %q: want a number with a unit, such as \"1.5s\"", s)
	}
	*d = Duration(v)
	return nil
}

// onState reports whether the rule changes the cloud rather than calls.
func (r *Rule) onState() bool {
	return r.StuckAttaching || r.FailingAttach || r.StrictDetach || r.TypeBandwidth || r.StuckJobs || r.FailingJobs || len(r.VSwitchFull) > 0
}

// check validates a rule.
func (r *Rule) check() error {
	onCall := r.Latency != nil || r.Error != nil || r.LostAnswer || r.Stale != 0
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	switch {
	case !onCall && !r.onState():
		bad("no effect: want one of latency, error, lostAnswer, stale, stuckAttaching, failingAttach, strictDetach, typeBandwidth, stuckJobs, failingJobs, vSwitchFull")
	case onCall && r.onState():
		bad("effects on calls and on the cloud in one rule: want two rules")
	case r.onState() && (r.Action != "" || len(r.Match) > 0 || r.Probability != nil || r.Skip != 0 || r.Count != 0):
		bad("stuckAttaching, failingAttach, strictDetach, typeBandwidth, stuckJobs, failingJobs and vSwitchFull do not depend on calls: want no action, match, probability, skip or count")
	}
	if _, err := path.Match(r.Action, ""); err != nil {
		bad("action %q: want a name, or PRODUCT:NAME, with * or ? as wildcards", r.Action)
	}
	if p := r.Probability; p != nil && !(*p >= 0 && *p <= 1) {
		bad("probability %v: want 0–1", *p)
	}
	if r.Skip < 0 || r.Count < 0 {
		bad("skip %d, count %d: want numbers from 0", r.Skip, r.Count)
	}
	if r.After < 0 || r.For < 0 || r.Every < 0 || r.Stale < 0 {
		bad("after, for, every and stale: want no negative duration")
	}
	if r.Every > 0 && (r.For == 0 || r.For > r.Every) {
		bad("every %s with for %s: want a for between 0 and every", time.Duration(r.Every), time.Duration(r.For))
	}
	if e := r.Error; e != nil {
		if e.Code == "" {
			bad("error.code is empty: want a code such as \"Throttling\"")
		}
		if e.Status != 0 && (e.Status < 400 || e.Status > 599) {
			bad("error.status %d: want 400–599", e.Status)
		}
	}
	if l := r.Latency; l != nil {
		switch {
		case l.Fixed < 0 || l.Min < 0 || l.Max < 0 || l.Mean < 0:
			bad("latency: want no negative duration")
		case l.Fixed > 0 && (l.Min > 0 || l.Max > 0 || l.Mean > 0):
			bad("latency: want either fixed, or min and max, or mean")
		case l.Mean == 0 && l.Fixed == 0 && (l.Max == 0 || l.Min > l.Max):
			bad("latency min %s, max %s: want 0 ≤ min ≤ max, max > 0", time.Duration(l.Min), time.Duration(l.Max))
		}
	}
	return errors.Join(errs...)
}

// answer returns the error with its defaults.
func (e *Error) answer() *Error {
	out := *e
	if out.Status == 0 {
		out.Status = http.StatusBadRequest
	}
	if out.Message == "" {
		out.Message = "Injected by a fault rule of the simulator."
		if out.Code == "Throttling" {
			out.Message = "Request was denied due to request throttling."
		}
	}
	return &out
}
