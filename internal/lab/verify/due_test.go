package verify

import (
	"slices"
	"testing"

	"terway.dev/terway/internal/lab/instruments"
)

// On several datapaths one after the other: a check that is not marked runs on all, one marked Once until it had something to test, and one marked
// PerMode so with shared and with exclusive ENIs.
func TestDue(t *testing.T) {
	checks := []Check{{Name: "each"}, {Name: "once", Once: true}, {Name: "mode", PerMode: true}, {Name: "late", Once: true}, {Name: "latemode", PerMode: true}}
	run := func(order ...string) (ran [][]string) {
		var groups []*Group
		for i, datapath := range order {
			g := &Group{Datapath: datapath}
			groups = append(groups, g)
			var names []string
			for _, c := range due(checks, groups) {
				r := Result{Name: c.Name, OK: true}
				if i == 0 && (c.Name == "late" || c.Name == "latemode") {
					r.Untested = "too few"
				}
				g.Results, names = append(g.Results, r), append(names, c.Name)
			}
			ran = append(ran, names)
		}
		return ran
	}
	all := []string{"each", "once", "mode", "late", "latemode"}
	for _, c := range []struct {
		order []string
		want  [][]string
	}{
		{[]string{"route", "ebpf", instruments.Exclusive}, [][]string{all, {"each", "late", "latemode"}, {"each", "mode", "latemode"}}},
		{[]string{instruments.Exclusive, "route", "ebpf"}, [][]string{all, {"each", "mode", "late", "latemode"}, {"each"}}},
	} {
		if got := run(c.order...); !slices.EqualFunc(got, c.want, slices.Equal) {
			t.Errorf("%q: %q, want %q", c.order, got, c.want)
		}
	}
}
