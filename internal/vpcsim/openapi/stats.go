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
	metric := func(name, help string, value func(ActionStats) any) {
		fmt.Fprintf(&b, "# HELP vpcsim_%s %s\n# TYPE vpcsim_%s counter\n", name, help, name)
		for _, n := range names {
			fmt.Fprintf(&b, "vpcsim_%s{action=%q} %v\n", name, n, value(all[n]))
		}
	}
	metric("calls_total", "OpenAPI calls.", func(a ActionStats) any { return a.Calls })
	metric("throttled_total", "Calls answered with Throttling.", func(a ActionStats) any { return a.Throttled })
	metric("lost_answers_total", "Calls whose connection was cut before the answer.", func(a ActionStats) any { return a.LostAnswers })
	metric("call_seconds_total", "Time spent in calls.", func(a ActionStats) any { return a.Seconds })
	fmt.Fprint(&b, "# HELP vpcsim_errors_total Calls answered with an error.\n# TYPE vpcsim_errors_total counter\n")
	for _, n := range names {
		for _, code := range slices.Sorted(maps.Keys(all[n].ErrorCodes)) {
			fmt.Fprintf(&b, "vpcsim_errors_total{action=%q,code=%q} %d\n", n, code, all[n].ErrorCodes[code])
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
