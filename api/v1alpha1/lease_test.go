package v1alpha1

import (
	"os"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation"
)

// Every valid name of a Node results in a valid name of a Lease, and no two in the same.
func TestLeaseName(t *testing.T) {
	of := map[string]string{}
	for length := 1; length <= validation.DNS1123SubdomainMaxLength; length++ {
		for _, node := range []string{strings.Repeat("n", length), strings.Repeat("n", length-1) + "x"} {
			name := LeaseName(node)
			if errs := validation.IsDNS1123Subdomain(name); len(errs) > 0 {
				t.Errorf("the Lease of a Node whose name has %d bytes: %v", length, errs)
			}
			if other, has := of[name]; has && other != node {
				t.Errorf("Nodes %s and %s have the same Lease", node, other)
			}
			of[name] = node
		}
	}
	if name := LeaseName("node1"); name != "terwayd-node1" {
		t.Errorf("the Lease of node1 is %s: agents and controllers of other versions call it terwayd-node1", name)
	}
}

// The chart lets an agent renew only the Lease that has this name.
func TestThePolicyNamesTheLeaseAlike(t *testing.T) {
	policy, err := os.ReadFile("../../deploy/chart/templates/own-lease.yaml")
	if err != nil {
		t.Fatal(err)
	}
	const alike = "object.metadata.name == (size('terwayd-' + node) > 253 ? node : 'terwayd-' + node)"
	if !strings.Contains(string(policy), alike) {
		t.Errorf("own-lease.yaml has not %s", alike)
	}
}
