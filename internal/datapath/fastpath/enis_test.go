package fastpath

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// A gateway that the kernel asks for its MAC is not silent: not at once, and not before it has had
// the time to answer. One that the kernel gave up stays silent while it is asked again.
func TestSilent(t *testing.T) {
	const none = 0 // no neighbour
	type seen struct {
		after  time.Duration
		state  int
		silent bool
	}
	for name, sequence := range map[string][]seen{
		"a new one answers":               {{0, none, false}, {1, netlink.NUD_INCOMPLETE, false}, {5, netlink.NUD_REACHABLE, false}, {10, netlink.NUD_INCOMPLETE, false}},
		"an old one is asked":             {{0, netlink.NUD_STALE, false}, {1, netlink.NUD_DELAY, false}, {5, netlink.NUD_PROBE, false}, {10, netlink.NUD_REACHABLE, false}},
		"Syncs in quick succession":       {{0, netlink.NUD_INCOMPLETE, false}, {1, netlink.NUD_INCOMPLETE, false}, {2, netlink.NUD_INCOMPLETE, false}},
		"one is given up":                 {{0, netlink.NUD_REACHABLE, false}, {5, netlink.NUD_FAILED, true}, {10, netlink.NUD_FAILED, true}},
		"packets ask again":               {{0, netlink.NUD_FAILED, true}, {1, netlink.NUD_INCOMPLETE, true}, {2, netlink.NUD_INCOMPLETE, true}, {3, netlink.NUD_REACHABLE, false}, {4, netlink.NUD_INCOMPLETE, false}},
		"packets ask between the Syncs":   {{0, netlink.NUD_INCOMPLETE, false}, {5, netlink.NUD_INCOMPLETE, true}, {10, netlink.NUD_INCOMPLETE, true}},
		"the kernel forgets it, and asks": {{0, netlink.NUD_FAILED, true}, {60, none, false}, {61, netlink.NUD_INCOMPLETE, false}},
		"one is permanent":                {{0, netlink.NUD_PERMANENT, false}},
	} {
		t.Run(name, func(t *testing.T) {
			g, start := gateway{7, netip.MustParseAddr("192.0.2.253")}, time.Now()
			var w waits
			for _, s := range sequence {
				states := map[gateway]int{{8, g.address}: netlink.NUD_REACHABLE}
				if s.state != none {
					states[g] = s.state
				}
				silent := w.silent(states, start.Add(s.after*time.Second))
				if got := slices.Contains(silent[g.eni], g.address); got != s.silent || len(silent[8]) != 0 {
					t.Errorf("after %d s in state %#x: silent %v, want %v; of the other ENI %v", s.after, s.state, got, s.silent, silent[8])
				}
			}
		})
	}
}
