package lab

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"terway.dev/terway/internal/catalog"
	"terway.dev/terway/internal/catalog/catalogtest"
	"terway.dev/terway/internal/lab"
)

const madeWithTable = `version: 1
name: shop
region: cn-hangzhou
network: terway
mode: shared
securityGroup: normal
serviceCIDR: 172.21.0.0/20
vpc: {cidr: 192.168.0.0/16}
nodes: {count: 2, max: 4, podsPerNode: 36, instanceTypes: [ecs.g6.2xlarge]}
zones:
- id: cn-hangzhou-i
  node: {name: shop-node, cidr: 192.168.0.0/19}
  pods: [{name: shop-pod, cidr: 192.168.32.0/19}]
`

// TestPlanWithCatalogue: a plan that is valid only with the table that it was made with.
func TestPlanWithCatalogue(t *testing.T) {
	known, _ := catalog.Lookup("ecs.g6.2xlarge")
	known.IPv4PerENI = catalog.Of(12)
	table, file := catalogtest.Table(t, known), filepath.Join(t.TempDir(), "plan.yaml")
	if err := os.WriteFile(file, []byte(madeWithTable), 0o644); err != nil {
		t.Fatal(err)
	}
	o := lab.Options{Catalogue: table}
	if err := network(&cobra.Command{}, &o, "1", file); err != nil || o.Plan == nil || o.Plan.Nodes.PodsPerNode != 36 {
		t.Errorf("%v, the plan is %+v", err, o.Plan)
	}
	for with, want := range map[string]string{"": "nodes.podsPerNode 36: want at most 30", table + ".none": "--catalogue: "} {
		if err := network(&cobra.Command{}, &lab.Options{Catalogue: with}, "1", file); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("--catalogue %q: %v, want %q", with, err, want)
		}
	}
}
