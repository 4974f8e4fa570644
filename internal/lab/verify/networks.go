package verify

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// NotFor is a check that does not apply to a network, with the reason.
type NotFor struct {
	Name    string `json:"name"`
	Network string `json:"network"`
	Why     string `json:"why"`
}

// For splits the checks into those for a network and the others.
func (s Suite) For(network string) (run []Check, not []NotFor) {
	for _, c := range s.Checks {
		if why, ok := c.NotFor[network]; ok {
			not = append(not, NotFor{Name: c.Name, Network: network, Why: why})
			continue
		}
		run = append(run, c)
	}
	return run, not
}

// Select returns the checks for a network: all of them without or with those of trouble, but no
// slow ones, or some by name.
func (s Suite) Select(network string, names []string, trouble bool) (run []Check, not []NotFor, err error) {
	all := s.Checks
	run, not = s.For(network)
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
			return nil, nil, fmt.Errorf("--only %q: not for a lab with --network %s: %s", n, network, not[i].Why)
		}
		picked = append(picked, run[slices.IndexFunc(run, func(c Check) bool { return c.Name == n })])
	}
	return picked, nil, nil
}

// WriteNotFor prints a check that was not run, for people.
func WriteNotFor(w io.Writer, n NotFor) {
	fmt.Fprintf(w, "-     %-24s         not for %s: %s\n", n.Name, n.Network, n.Why)
}
