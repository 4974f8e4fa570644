package openapi

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// Stats counts calls. It is safe for concurrent use.
type Stats struct {
	mu      sync.Mutex
	actions map[string]*ActionStats
}

// ActionStats are the counts of one action.
type ActionStats struct {
	Calls       int            `json:"calls"`
	Errors      int            `json:"errors"`
	Throttled   int            `json:"throttled"`
	LostAnswers int            `json:"lostAnswers"`
	ErrorCodes  map[string]int `json:"errorCodes,omitempty"`
	Seconds     float64        `json:"seconds"`
}

// NewStats returns empty counters.
func NewStats() *Stats { return &Stats{actions: map[string]*ActionStats{}} }

func (s *Stats) count(action, code string, took time.Duration, lost bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.actions[action]
	if a == nil {
		a = &ActionStats{ErrorCodes: map[string]int{}}
		s.actions[action] = a
	}
	a.Calls++
	a.Seconds += took.Seconds()
	if lost {
		a.LostAnswers++
	}
	if code != "" {
		a.Errors++
		a.ErrorCodes[code]++
		if strings.HasPrefix(code, "Throttling") {
			a.Throttled++
		}
	}
}

// Snapshot returns a copy of the counters by action.
func (s *Stats) Snapshot() map[string]ActionStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[string]ActionStats, len(s.actions))
	for name, a := range s.actions {
		c := *a
		c.ErrorCodes = maps.Clone(a.ErrorCodes)
		out[name] = c
	}
	return out
}

// WritePrometheus writes the counters in the Prometheus text format.
func (s *Stats) WritePrometheus(w io.Writer) error {
	all := s.Snapshot()
	names := slices.SortedFunc(maps.Keys(all), cmp.Compare[string])
	var b strings.Builder
	metric := func(name, help string, labels []string, count func(ActionStats) map[string]any) {
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s counter\n", name, help, name)
		for _, action := range names {
			of := count(all[action])
			for _, other := range slices.Sorted(maps.Keys(of)) {
				fmt.Fprintf(&b, "%s{%s=%q", name, labels[0], action)
				if len(labels) > 1 {
					fmt.Fprintf(&b, ",%s=%q", labels[1], other)
				}
				fmt.Fprintf(&b, "} %v\n", of[other])
			}
		}
	}
	one := func(n any) map[string]any { return map[string]any{"": n} }
	metric("vpcsim_calls_total", "OpenAPI calls.", []string{"action"}, func(a ActionStats) map[string]any { return one(a.Calls) })
	metric("vpcsim_throttled_total", "Calls answered with Throttling.", []string{"action"}, func(a ActionStats) map[string]any { return one(a.Throttled) })
	metric("vpcsim_lost_answers_total", "Calls whose connection was cut before the answer.", []string{"action"}, func(a ActionStats) map[string]any { return one(a.LostAnswers) })
	metric("vpcsim_call_seconds_total", "Time spent in calls.", []string{"action"}, func(a ActionStats) map[string]any { return one(a.Seconds) })
	metric("vpcsim_errors_total", "Calls answered with an error.", []string{"action", "code"}, func(a ActionStats) map[string]any {
		codes := map[string]any{}
		for code, n := range a.ErrorCodes {
			codes[code] = n
		}
		return codes
	})
	_, err := io.WriteString(w, b.String())
	return err
}
