//go:build e2e

package e2e

import (
	"strings"
	"testing"

	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/verify"
	"terway.dev/terway/internal/lab/verify/checks"
	"terway.dev/terway/internal/testutil"
)

// TestZones: nodes in two zones, whose pods have different vSwitches. Services can have an NLB there, which needs two zones: all
// checks of load balancers but those of trouble run again, with both products.
func TestZones(t *testing.T) {
	testutil.RequireRoot(t)
	c := build(t)
	t.Cleanup(func() {
		if t.Failed() {
			logs(t)
		}
		c.run(t, "down")
	})
	c.run(t, "up", "--zones", "2", "--policy")
	all, _ := checks.All().For(&lab.Options{Network: lab.NetworkTerway, Policy: true})
	var list []verify.Check
	for _, check := range all {
		switch {
		case check.Name == "address-from-vswitch", check.Name == "pod-to-pod-cross-node",
			strings.HasPrefix(check.Name, "lb-") && !check.Trouble:
			list = append(list, check)
		}
	}
	if len(list) < 5 {
		t.Errorf("only %d checks run with two zones: %v", len(list), list)
	}
	verifySome(t, c, list)
}
