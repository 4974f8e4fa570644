//go:build e2e

package e2e

import (
	"slices"
	"testing"

	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/verify"
	"terway.dev/terway/internal/lab/verify/checks"
	"terway.dev/terway/internal/testutil"
)

// TestZones: nodes in two zones, whose pods have different vSwitches. Services can have an NLB there, which needs two zones: some
// checks of load balancers run again, with both products ("make bench-loadbalancer" upgrades pods behind both). It is the first test of the
// package, by the name of its file: it mostly waits, and other parts of "make test" use the processors at that time.
func TestZones(t *testing.T) {
	testutil.RequireRoot(t)
	c := build(t)
	c.clear(t)
	t.Cleanup(func() {
		if t.Failed() {
			logs(t)
		}
		c.run(t, "down")
	})
	c.run(t, "up", "--zones", "2")
	all, _ := checks.All().For(&lab.Options{Network: lab.NetworkTerway})
	names := []string{"address-from-vswitch", "pod-to-pod-cross-node", "lb-direct", "lb-outside", "lb-drain"}
	list := slices.DeleteFunc(all, func(check verify.Check) bool { return !slices.Contains(names, check.Name) })
	if len(list) != len(names) {
		t.Errorf("there are %d checks of %q", len(list), names)
	}
	verifySome(t, c, list)
}
