package verify

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"terway.dev/terway/internal/lab"
)

// NotFor is a check that does not apply to a lab, with the reason.
type NotFor struct {
	Name    string `json:"name"`
	Network string `json:"network"`
	Why     string `json:"why"`
}

// withoutPolicy is why checks of policies do not apply to a lab.
const withoutPolicy = "network policies are off: start the lab with \"terway-lab up --policy\""

// For splits the checks into those for a lab with these options and the others.
func (s Suite) For(o *lab.Options) (run []Check, not []NotFor) {
	for _, c := range s.Checks {
		why, no := c.NotFor[o.Network]
		if !no && c.Policy && !o.Policy {
			why, no = withoutPolicy, true
		}
		if no {
			not = append(not, NotFor{Name: c.Name, Network: o.Network, Why: why})
			continue
		}
		run = append(run, c)
	}
	return run, not
}

// Select returns the checks for a lab: all of them without or with those of trouble, but no
// slow ones, or some by name.
func (s Suite) Select(o *lab.Options, names []string, trouble bool) (run []Check, not []NotFor, err error) {
	all := s.Checks
	run, not = s.For(o)
	if len(names) == 0 {
		return slices.DeleteFunc(run, func(c Check) bool { return c.Slow || c.Trouble && !trouble }), not, nil
	}
	var picked []Check
	for _, n := range names {
		if !slices.ContainsFunc(all, func(c Check) bool { return c.Name == n }) {
			known := make([]string, len(all))
			for i, c := range all {
				known[i] = c.Name
			}
			return nil, nil, fmt.Errorf("--only %q: no such check; there are %s", n, strings.Join(known, ", "))
		}
		if i := slices.IndexFunc(not, func(x NotFor) bool { return x.Name == n }); i >= 0 {
			return nil, nil, fmt.Errorf("--only %q: not for this lab with --network %s: %s", n, o.Network, not[i].Why)
		}
		picked = append(picked, run[slices.IndexFunc(run, func(c Check) bool { return c.Name == n })])
	}
	return picked, nil, nil
}

// WriteNotFor prints a check that was not run, for people.
func WriteNotFor(w io.Writer, n NotFor) {
	fmt.Fprintf(w, "-     %-25s         not for this lab: %s\n", n.Name, n.Why)
}
