package monitor

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// pacer decides how long a repair waits after the event that requests it.
type pacer struct {
	coalesce, slowest time.Duration

	// streak is the number of repairs without a quiet time between them.
	streak int
	due    time.Time      // of the last repair
	why    map[string]int // the streak's reasons, and how often each occurred
}

const (
	// swift repairs of a streak are not delayed: a hot-plugged ENI or `nft flush ruleset` causes
	// two or three, including those for the repair's own changes.
	swift = 4
	// quiet is how long nothing must happen, beyond the wait itself, for a streak to end.
	quiet = time.Second
	// most is how many different reasons are recorded.
	most = 32
)

// note records an event.
func (p *pacer) note(now time.Time, what string) {
	if p.over(now) {
		p.streak, p.why = 0, map[string]int{}
	}
	if p.why[what] > 0 || len(p.why) < most {
		p.why[what]++
	}
}

// next returns how long a repair that is requested now waits.
func (p *pacer) next(now time.Time) time.Duration {
	p.streak++
	d := p.wait()
	p.due = now.Add(d)
	return d
}

func (p *pacer) wait() time.Duration {
	d := p.coalesce
	for range p.streak - swift {
		if d *= 2; d >= p.slowest {
			return p.slowest
		}
	}
	return d
}

// over reports whether the streak's last repair was long ago.
func (p *pacer) over(now time.Time) bool { return now.Sub(p.due) > p.wait()+quiet }

// contended returns what is changed repeatedly, the most frequent first, once repairs are delayed
// for longer than is acceptable. An event that occurs once for each of many objects (ENIs that are
// plugged in one after the other) is no contention.
func (p *pacer) contended(now time.Time) string {
	if p.wait() < min(quiet, p.slowest) || p.streak <= swift || p.over(now) {
		return ""
	}
	list := slices.SortedFunc(maps.Keys(p.why), func(a, b string) int {
		return cmp.Or(cmp.Compare(p.why[b], p.why[a]), cmp.Compare(a, b))
	})
	list = slices.DeleteFunc(list, func(what string) bool { return p.why[what] <= swift })
	const shown = 3
	var text []string
	for _, what := range list[:min(shown, len(list))] {
		text = append(text, fmt.Sprintf("%s (%d times)", what, p.why[what]))
	}
	if len(list) > shown {
		text = append(text, fmt.Sprintf("and %d more", len(list)-shown))
	}
	return strings.Join(text, "; ")
}
