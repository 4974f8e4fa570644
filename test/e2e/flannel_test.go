//go:build e2e

package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/verify/checks"
	"terway.dev/terway/internal/testutil"
)

// The same lab with the other network: upstream Flannel on the nodes, and the controller's
// routes in the VPC.
func TestFlannel(t *testing.T) {
	testutil.RequireRoot(t)
	c := build(t)
	c.clear(t)
	before := look(t)
	t.Cleanup(func() {
		if t.Failed() {
			logs(t)
		}
		c.run(t, "down")
	})
	if !t.Run("up", func(t *testing.T) { c.run(t, "up", "--network", lab.NetworkFlannel) }) {
		t.FailNow()
	}
	t.Run("kubectl", func(t *testing.T) { kubectl(t, c) })
	t.Run("status", func(t *testing.T) {
		st := status(t, c)
		for _, n := range st.Nodes {
			if n.PodCIDR == "" || n.Route != "Available" {
				t.Errorf("node %s: block %q, route entry %q", n.Name, n.PodCIDR, n.Route)
			}
		}
	})
	t.Run("switch", func(t *testing.T) { networkStays(t, c) })
	all, not := checks.All().For(&lab.Options{Network: lab.NetworkFlannel})
	t.Run("verify", func(t *testing.T) { verifySome(t, c, all) })
	t.Run("verify/not-for-flannel", func(t *testing.T) {
		out, err := c.lab("verify", "--only", not[0].Name).CombinedOutput()
		if err == nil || !strings.Contains(string(out), not[0].Why) {
			t.Errorf("terway-lab verify --only %s: %v, want the reason why it is not for Flannel:\n%s", not[0].Name, err, out)
		}
	})
	t.Run("compare", measured)
	t.Run("migrate", func(t *testing.T) { migrates(t, c) }) // after it the lab has two networks
	t.Run("down", func(t *testing.T) {
		c.run(t, "down")
		before.sameAs(t)
	})
}

// networkStays tries to change the network while pods run, and to upgrade without such a
// change.
func networkStays(t *testing.T, c *programs) {
	r := attach(t, c)
	o := &r.state.Options
	upgrade := func(args ...string) (string, error) {
		return r.run(t, "", o.Bin("helm"), append([]string{"upgrade", "terway", filepath.Join(o.Source, "deploy", "chart"),
			"--namespace", "kube-system", "--values", filepath.Join(o.Dir, "values.yaml")}, args...)...)
	}
	out, err := upgrade("--set", "eniConfig.network=terway", "--set", "eniConfig.vswitches.cn-hangzhou-i[0]=vsw-1")
	if err == nil || !strings.Contains(out, "cannot be changed under running pods") {
		t.Errorf("helm upgrade to the other network: %v, want a refusal:\n%s", err, out)
	}
	if out, err := upgrade("--set", "eniConfig.pod_cidr="); err == nil || !strings.Contains(out, "pod_cidr") {
		t.Errorf("helm upgrade without a pod CIDR: %v, want a refusal that names the value:\n%s", err, out)
	}
	if out, err := upgrade(); err != nil {
		t.Errorf("helm upgrade with the same values: %v\n%s", err, out)
	}
}
