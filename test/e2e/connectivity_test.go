//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	hops "terway.dev/terway/internal/connectivity"
	"terway.dev/terway/internal/kernel"
	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/instruments"
)

// tried is what "terwayctl connectivity -o json" prints.
type tried struct {
	Counts   []hops.Count   `json:"counts"`
	Findings []hops.Finding `json:"findings"`
}

// connectivity runs "terwayctl connectivity" on a network that works, on one whose policies deny, and on one in which the VPC
// delivers nothing to a node's ENIs.
func connectivity(t *testing.T, c *programs) {
	s, err := lab.LoadState(lab.DefaultDir)
	if err != nil {
		t.Fatal(err)
	}
	kubeconfig := s.Options.Kubeconfig()
	// run returns what it printed, and by which kind how many connections failed.
	run := func(t *testing.T, want int) (tried, map[hops.Kind]int) {
		t.Helper()
		cmd := exec.Command(c.path("terwayctl"), "connectivity", "--kubeconfig", kubeconfig, "--outside", s.Master.Address.String()+":6443", "-o", "json")
		var out, msg bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &msg
		status := 0
		if err, exit := cmd.Run(), (*exec.ExitError)(nil); errors.As(err, &exit) {
			status = exit.ExitCode()
		} else if err != nil {
			t.Fatal(err)
		}
		var got tried
		if err := json.Unmarshal(out.Bytes(), &got); err != nil || status != want {
			t.Fatalf("terwayctl connectivity: exit status %d, want %d (%v)\n%s%s", status, want, err, out.Bytes(), msg.Bytes())
		}
		failed := map[hops.Kind]int{}
		for _, n := range got.Counts {
			if n.Of == 0 || n.NotTried > 0 {
				t.Errorf("%s: %+v: not everything was tried", n.Kind, n)
			}
			if n.Answered < n.Of {
				failed[n.Kind] = n.Of - n.Answered
			}
		}
		if len(got.Counts) != len(hops.Kinds) {
			t.Errorf("counts %+v are not of all kinds", got.Counts)
		}
		return got, failed
	}
	kubectl := func(t *testing.T, input string, args ...string) {
		t.Helper()
		cmd := exec.Command(s.Options.Bin("kubectl"), append([]string{"--kubeconfig", kubeconfig}, args...)...)
		cmd.Stdin = strings.NewReader(input)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}

	t.Run("works", func(t *testing.T) {
		got, failed := run(t, 0)
		if len(failed) > 0 || len(got.Findings) > 0 {
			t.Errorf("failed %v, findings %+v", failed, got.Findings)
		}
	})
	t.Run("policy", func(t *testing.T) {
		const deny = `
apiVersion: policy.networking.k8s.io/v1beta1
kind: ClusterNetworkPolicy
metadata: {name: e2e-connectivity}
spec:
  tier: Admin
  priority: 10
  subject: {namespaces: {matchLabels: {network.terway.dev/connectivity: "true"}}}
  ingress:
  - {action: Deny, from: [{namespaces: {}}]}
`
		kubectl(t, deny, "apply", "-f", "-")
		defer kubectl(t, deny, "delete", "-f", "-")
		got, failed := run(t, 1)
		// Each pod of a pair is denied, directly and behind a Service; nodes are no pods.
		if len(failed) != 3 || failed[hops.SameNode] != 2 || failed[hops.OtherNode] != 2 || failed[hops.Service] != 4 {
			t.Errorf("failed %v", failed)
		}
		if len(got.Findings) != 2 {
			t.Errorf("findings %+v, want one for each pod that may not be reached", got.Findings)
		}
		for _, f := range got.Findings {
			if !f.Told || len(f.Hops) != 1 || f.Hops[0].Kind != hops.HopPolicy || !strings.Contains(f.Hops[0].Name, "ClusterNetworkPolicy e2e-connectivity rule 0") {
				t.Errorf("finding %+v, want the policy's rule", f)
			}
		}
	})
	t.Run("ENI", func(t *testing.T) {
		node := s.Machines[1]
		for _, up := range cut(t, s, node) {
			defer up()
		}
		got, failed := run(t, 1)
		// What stays on the node, and what does not pass an ENI of pods there, is answered.
		if failed[hops.SameNode] > 0 || failed[hops.OtherNode] != 2 || failed[hops.PodToNode] != 1 || failed[hops.NodeToPod] != 1 || failed[hops.Outside] != 1 {
			t.Errorf("failed %v", failed)
		}
		of := func(h hops.Hop) bool { return h.Kind == hops.HopENI && h.Node == node.Name }
		alone := false
		for _, f := range got.Findings {
			alone = alone || len(f.Hops) == 1
			if !slices.ContainsFunc(f.Hops, of) {
				t.Errorf("finding %+v, want an ENI of %s", f, node.Name)
			}
		}
		if !alone {
			t.Errorf("findings %+v, want one that names an ENI alone", got.Findings)
		}
	})
}

// cut makes the VPC deliver nothing to and from the ENIs of a node's pods. It returns the ways back.
func cut(t *testing.T, s *lab.State, node lab.Machine) (back []func()) {
	t.Helper()
	enis, err := s.Cloud.ENIs(t.Context(), node.InstanceID)
	if err != nil {
		t.Fatal(err)
	}
	ports, err := instruments.Devices(s.Cloud.FabricNS)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range ports {
		if !slices.ContainsFunc(enis, func(e lab.ENI) bool {
			return e.Type != "Primary" && strings.HasPrefix(p.Attrs().Alias, "vpcsim-port "+e.ID+" ")
		}) {
			continue
		}
		set := func(to func(netlink.Link) error) {
			if err := kernel.InNSAt(s.Cloud.FabricNS, func() error { return to(p) }); err != nil {
				t.Errorf("port %s in the fabric: %v", p.Attrs().Name, err)
			}
		}
		set(netlink.LinkSetDown)
		back = append(back, func() { set(netlink.LinkSetUp) })
	}
	if len(back) == 0 {
		t.Fatalf("the fabric has no port of an ENI of %s's pods", node.Name)
	}
	return back
}
