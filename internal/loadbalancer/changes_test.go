package loadbalancer

import (
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"terway.dev/terway/internal/cloud"
)

func backend(n, weight int, description string) cloud.Backend {
	return cloud.Backend{Server: "eni-1", Type: cloud.ServerENI, Address: netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}), Port: 80, Weight: weight, Description: description}
}

// apply does a call on a group as the cloud does it.
func apply(group map[cloud.BackendKey]cloud.Backend, b Batch) error {
	for _, one := range b.Backends {
		_, in := group[one.Key()]
		switch {
		case in != (b.Verb != Add):
			return fmt.Errorf("%s of %v, which is in the group: %v", b.Verb, one, in)
		case b.Verb == Remove:
			delete(group, one.Key())
		default:
			group[one.Key()] = one
		}
	}
	return nil
}

func shown(c Change) string {
	var parts []string
	for _, b := range c.Batches {
		for _, one := range b.Backends {
			parts = append(parts, fmt.Sprintf("%s %d=%d", b.Verb, one.Address.As4()[3], one.Weight))
		}
	}
	for _, l := range c.Left {
		parts = append(parts, fmt.Sprintf("left %d", l.Address.As4()[3]))
	}
	return strings.Join(parts, ", ")
}

func TestChanges(t *testing.T) {
	const me = "me"
	group := func(weights ...int) (list []cloud.Backend) {
		for n, w := range weights {
			if w >= 0 {
				list = append(list, backend(n, w, me))
			}
		}
		return list
	}
	for _, c := range []struct {
		name            string
		current, wanted []cloud.Backend
		want            string
	}{
		{"nothing", group(100, 100), group(100, 100), ""},
		{"drain, then add, then remove", group(100, 100, 0), group(100, 0, -1, 100), "weigh 1=0, add 3=100, remove 2=0"},
		{"what is new comes first if nothing else takes connections", group(100), group(0, 100), "add 1=100, weigh 0=0"},
		{"full: what is old goes first", group(100, 0, 0, 0), group(100, -1, 0, 0, 100), "remove 1=0, add 4=100"},
		{"what comes back does so before the rest drains", group(100, 100, 0), group(0, 0, 100), "weigh 2=100, weigh 0=0, weigh 1=0"},
		{"full: what takes no connections goes first", group(100, 100, 0, 100), group(100, -1, -1, -1, 100, 100, 100), "remove 2=0, remove 1=100, add 4=100, add 5=100, remove 3=100, add 6=100"},
		{"what a foreign backend takes is enough", append(group(100), backend(7, 5, "other")), group(0, 100), "weigh 0=0, add 1=100"},
		{"full: what drains makes room", group(100, 100, 100, 0), group(100, 100, 100, 0, 100), "remove 3=0, add 4=100"},
		{"too many: those that are there stay", group(-1, -1, 100, 100, 100), group(100, 100, 100, 100, 100), "add 0=100, left 1"},
		{"a foreign backend stays, and takes room", append(group(100), backend(7, 5, "other")), group(-1, 100, 100, 100, 100),
			"add 1=100, add 2=100, remove 0=100, add 3=100, left 4"},
		{"a foreign backend with our server", append(group(100), backend(1, 5, "other")), group(100, 100), "left 1"},
		{"drain all", group(100, 100), group(0, 0), "weigh 0=0, weigh 1=0"},
		{"the last ones come back", group(0, 0), group(100, 0), "weigh 0=100"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := shown(Changes(me, c.current, c.wanted, Limits{PerCall: 2, PerGroup: 4})); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

func TestChangesProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limits := Limits{PerCall: rapid.IntRange(1, 5).Draw(t, "per call"), PerGroup: rapid.IntRange(1, 12).Draw(t, "per group")}
		owner := rapid.SampledFrom([]string{"", "me"}).Draw(t, "owner")
		weights := rapid.SampledFrom([]int{-1, 0, 1, 100})
		var current, wanted []cloud.Backend
		for n := range 16 {
			if w := weights.Draw(t, "current"); w >= 0 && len(current) < limits.PerGroup {
				current = append(current, backend(n, w, rapid.SampledFrom([]string{"me", "other"}).Draw(t, "description")))
			}
			if w := weights.Draw(t, "wanted"); w >= 0 {
				wanted = append(wanted, backend(n, w, "me"))
			}
		}
		foreign, group, goal := map[cloud.BackendKey]cloud.Backend{}, map[cloud.BackendKey]cloud.Backend{}, map[cloud.BackendKey]cloud.Backend{}
		for _, b := range current {
			group[b.Key()] = b
			if owner != "" && b.Description != owner {
				foreign[b.Key()] = b
			}
		}
		for _, b := range wanted {
			goal[b.Key()] = b
		}
		c := Changes(owner, current, wanted, limits)
		for _, l := range c.Left {
			if l.Weight == 0 && foreign[l.Key()].Server == "" {
				t.Fatalf("%v drains, and is reported", l)
			}
			delete(goal, l.Key())
		}
		maps.Copy(goal, foreign)

		// serving is how many of those that are wanted take connections.
		serving := func() (stay, drain int) {
			for key, b := range group {
				if b.Weight > 0 {
					if w, ok := goal[key]; ok && w.Weight > 0 {
						stay++
					} else if ok {
						drain++
					}
				}
			}
			return stay, drain
		}
		stay, drain := serving()
		stayed := stay
		for n, b := range c.Batches {
			if len(b.Backends) == 0 || len(b.Backends) > limits.PerCall {
				t.Fatalf("batch %d has %d backends", n, len(b.Backends))
			}
			for _, one := range b.Backends {
				if _, ok := foreign[one.Key()]; ok {
					t.Fatalf("batch %d: %s of a foreign backend %v", n, b.Verb, one)
				}
			}
			before, _ := serving()
			if err := apply(group, b); err != nil {
				t.Fatalf("batch %d: %v", n, err)
			}
			if len(group) > limits.PerGroup {
				t.Fatalf("batch %d: %d backends, %d are allowed", n, len(group), limits.PerGroup)
			}
			after, left := serving()
			switch {
			case stayed > 0 && b.Verb != Weigh && left > 0 && drainsFit(goal, limits):
				t.Fatalf("batch %d is %s, and a backend that drains still has weight", n, b.Verb)
			case after < before:
				t.Fatalf("batch %d: %d backends that are to stay take connections, before %d", n, after, before)
			case drainsFit(goal, limits) && stay+drain > 0 && after == 0 && left == 0 && wantsAny(goal):
				t.Fatalf("batch %d: nothing takes connections", n)
			}
		}
		// What does not fit and drains is gone, although it was wanted.
		for key, b := range goal {
			if _, ok := group[key]; !ok && b.Weight == 0 && len(group) == limits.PerGroup {
				delete(goal, key)
			}
		}
		if !maps.EqualFunc(group, goal, func(a, b cloud.Backend) bool { return a.Weight == b.Weight }) {
			t.Fatalf("ends with %v, want %v", group, goal)
		}
	})
}

// drainsFit reports whether all that are wanted fit: else those that drain are removed early.
func drainsFit(goal map[cloud.BackendKey]cloud.Backend, l Limits) bool {
	return len(goal) <= l.PerGroup
}

func wantsAny(goal map[cloud.BackendKey]cloud.Backend) bool {
	for _, b := range goal {
		if b.Weight > 0 {
			return true
		}
	}
	return false
}

// part is a listener's part with so many backends of its own, and some that drain; it wants what has a weight in wanted.
func part(group string, current, wanted []int) Part {
	list := func(weights []int) (all []cloud.Backend) {
		for n, w := range weights {
			if w >= 0 {
				all = append(all, backend(n, w, "me"))
			}
		}
		return all
	}
	return Part{Group: group, Current: list(current), Wanted: list(wanted)}
}

func TestChangesOfAll(t *testing.T) {
	for _, c := range []struct {
		name  string
		parts []Part
		want  string
	}{
		{"all fit", []Part{part("a", nil, []int{100, 100}), part("b", nil, []int{100, 100, 100})}, "0: add 0=100, add 1=100; 1: add 0=100, add 1=100, add 2=100"},
		{"what gives room comes first", []Part{part("a", []int{100, 100}, []int{100, 100, 100, 100}), part("b", []int{100, 100, 100, 100}, []int{100})},
			"1: remove 1=100, remove 2=100, remove 3=100; 0: add 2=100, add 3=100"},
		{"what drains goes first, and old ones before new ones", []Part{part("a", []int{0, 100, 100}, []int{0, 100, 100, 100}), part("b", []int{100, 0, 100}, []int{100, -1, 100, 100})},
			"0: remove 0=0, add 3=100; 1: remove 1=0, add 3=100"},
		{"too many: each gets as much", []Part{part("a", nil, []int{100, 100, 100, 100, 100}), part("b", []int{-1, 100, 100, 100}, []int{100, 100, 100, 100, 100})},
			"1: left 0, left 4; 0: add 0=100, add 1=100, add 2=100, left 3, left 4"},
		{"too many: who wants less gets it", []Part{part("a", nil, []int{100, 100, 100, 100, 100, 100}), part("b", nil, []int{100})},
			"1: add 0=100; 0: add 0=100, add 1=100, add 2=100, add 3=100, add 4=100, left 5"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var all []string
			for _, x := range ChangesOfAll(c.parts, Limits{PerCall: 2, PerGroup: 6, PerBalancer: 6}) {
				all = append(all, fmt.Sprintf("%d: %s", x.Part, shown(x.Change)))
				for _, l := range x.Left {
					if !strings.Contains(l.Why, "may have 6 backends in all its groups") || !strings.Contains(l.Why, "spec.ports") {
						t.Errorf("left because %s", l.Why)
					}
				}
			}
			if got := strings.Join(all, "; "); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

// Whatever the groups have and should have, none of the calls makes a group or the load balancer have more than it may, and
// what is neither told nor drains is in its group at the end.
func TestChangesOfAllProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limits := Limits{PerCall: rapid.IntRange(1, 4).Draw(t, "per call"), PerGroup: rapid.IntRange(1, 12).Draw(t, "per group"), PerBalancer: rapid.IntRange(0, 16).Draw(t, "per load balancer")}
		weights := rapid.SampledFrom([]int{-1, 0, 1, 100})
		groups, total := map[string]map[cloud.BackendKey]cloud.Backend{}, 0
		var parts []Part
		for i := range rapid.IntRange(1, 3).Draw(t, "listeners") {
			p := Part{Group: fmt.Sprint(i)}
			p.Owner = rapid.SampledFrom([]string{"", "me"}).Draw(t, "owner")
			groups[p.Group] = map[cloud.BackendKey]cloud.Backend{}
			for n := range 10 {
				if w := weights.Draw(t, "current"); w >= 0 && len(p.Current) < limits.PerGroup && (total < limits.PerBalancer || limits.PerBalancer == 0) {
					b := backend(n, w, rapid.SampledFrom([]string{"me", "other"}).Draw(t, "description"))
					p.Current, total = append(p.Current, b), total+1
					groups[p.Group][b.Key()] = b
				}
				if w := weights.Draw(t, "wanted"); w >= 0 {
					p.Wanted = append(p.Wanted, backend(n, w, "me"))
				}
			}
			parts = append(parts, p)
		}
		changes := ChangesOfAll(parts, limits)
		if len(changes) != len(parts) {
			t.Fatalf("%d changes", len(changes))
		}
		for _, c := range changes {
			group := groups[parts[c.Part].Group]
			for _, b := range c.Batches {
				before := len(group)
				if err := apply(group, b); err != nil {
					t.Fatal(err)
				}
				total += len(group) - before
				if len(group) > limits.PerGroup || limits.PerBalancer > 0 && total > limits.PerBalancer {
					t.Fatalf("%d in the group, %d in all, of %+v", len(group), total, limits)
				}
			}
		}
		for _, c := range changes {
			left := map[cloud.BackendKey]bool{}
			for _, l := range c.Left {
				left[l.Key()] = true
			}
			p := parts[c.Part]
			for _, b := range p.Wanted {
				if is, in := groups[p.Group][b.Key()]; !left[b.Key()] && b.Weight > 0 && (!in || is.Weight != b.Weight) {
					t.Fatalf("listener %d: %v is not in the group, and nothing says so", c.Part, b)
				}
			}
		}
		for _, c := range ChangesOfAll(func() (again []Part) {
			for _, p := range parts {
				p.Current = nil
				for _, b := range groups[p.Group] {
					p.Current = append(p.Current, b)
				}
				again = append(again, p)
			}
			return again
		}(), limits) {
			if len(c.Batches) > 0 {
				t.Fatalf("a second time: listener %d: %s", c.Part, shown(c.Change))
			}
		}
	})
}
