//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/lab"
	"terway.dev/terway/test/docs"
)

// terwayNamespace is where migrate.md installs Terway.
const terwayNamespace = "terway-system"

// migrates takes the cluster from Flannel of the chart by upstream's to Terway: first one node, then the other, then the first back. It gives
// the commands of migrate.md, one after the other. After each a pod of each node reaches those of all nodes, by their addresses, and each has an
// address of its node's network.
func migrates(t *testing.T, c *programs) {
	m := &migration{newReader(t, c)}
	if len(m.state.Machines) < 2 {
		t.Fatalf("the lab has %d nodes, want two", len(m.state.Machines))
	}
	first := m.state.Machines[0].Name
	blocks := m.page(t, "docs/migrate.md").Select("flannel")
	if len(blocks) != 3 || len(blocks[0]) != 5 || len(blocks[1]) != 1 {
		t.Fatalf("migrate.md has %q, want five commands that migrate, one that rolls back, and those that put upstream's Flannel in the place of the chart's", blocks)
	}
	commands := m.fill(t, slices.Concat(blocks[0], blocks[1]), "node1", first)
	plan, prepare, install, one, others, back := commands[0], commands[1], commands[2], commands[3], commands[4], commands[5]
	upstream := m.fill(t, blocks[2], "172.20.0.0/16", m.state.Options.Plan.PodCIDR.String())

	values := m.values(t)
	if out, err := m.shell([]string{plan}); exitStatus(err) != 1 || !strings.Contains(out, "docs/migrate.md") {
		t.Fatalf("from Flannel of the chart: %v, want exit status 1 and where it says what to do\n%s", err, out)
	}
	m.deploy(t)
	m.follows(t, upstream...)
	m.connected(t, nil)

	// The plan changes nothing; nothing is lost with this backend.
	if out := m.follows(t, plan); !strings.Contains(out, "kube-flannel/kube-flannel-ds") || m.nodes(t)[first].Labels[claims.LabelIgnore] != "" {
		t.Fatalf("the plan:\n%s", out)
	}
	if out, err := m.shell([]string{prepare}); exitStatus(err) != 1 || !strings.Contains(out, "terwayctl install --terway-namespace "+terwayNamespace) {
		t.Fatalf("before Terway is installed: %v, want exit status 1 and what to do\n%s", err, out)
	}
	m.follows(t, install)
	m.connected(t, nil)

	for _, step := range []struct {
		command string
		terway  []string
	}{{one, []string{first}}, {others, m.names()}, {back, m.names()[1:]}} {
		m.follows(t, step.command)
		for name, n := range m.nodes(t) {
			if n.Spec.Unschedulable || slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == claims.TaintNotReady }) {
				t.Errorf("after %s node %s takes no pods: %+v", step.command, name, n.Spec)
			}
		}
		m.connected(t, step.terway)
		if len(step.terway) == len(m.names()) {
			t.Run("install", func(t *testing.T) { installs(t, c, terwayNamespace, values) })
		}
	}
	// Its finalizer goes when the cloud has none of the node's ENIs.
	eventually(t, "the ENIs of the node that went back are given back", func() error {
		out, err := m.run(t, "", m.state.Options.Bin("kubectl"), "get", "nodenetworks", "-o", "name")
		if err == nil && strings.Contains(out, "/"+first+"\n") {
			err = fmt.Errorf("its NodeNetwork is there:\n%s", out)
		}
		return err
	})
}

// migration is the lab of the test, and somebody who follows the page in it.
type migration struct{ *reader }

// fill replaces a name of the page's commands.
func (m *migration) fill(t *testing.T, commands []string, name, is string) []string {
	t.Helper()
	filled, err := docs.Fill(commands, map[string]string{name: is})
	if err != nil {
		t.Fatalf("migrate.md: %v", err)
	}
	return filled
}

// follows gives commands, and returns what they print.
func (m *migration) follows(t *testing.T, commands ...string) string {
	t.Helper()
	t.Log(strings.Join(commands, "\n"))
	out, err := m.shell(commands)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return out
}

func (m *migration) names() []string {
	var names []string
	for _, n := range m.state.Machines {
		names = append(names, n.Name)
	}
	return names
}

func exitStatus(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return 0
}

// values puts the values of the lab, but with vSwitches for pods, into the page's file, and returns its path.
func (m *migration) values(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(m.state.Options.Dir, "values.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var values map[string]any
	if err := yaml.Unmarshal(data, &values); err != nil {
		t.Fatal(err)
	}
	vswitches := map[string][]string{}
	for _, machine := range m.state.Machines {
		if vswitches[machine.Zone] != nil {
			continue
		}
		cidr := netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(248 + len(vswitches)), 0}), 24)
		if !m.state.Options.Plan.VPC.CIDR.Overlaps(cidr) {
			t.Fatalf("%s is not in the VPC's range %s", cidr, m.state.Options.Plan.VPC.CIDR)
		}
		eventually(t, "the VPC has a vSwitch for pods in "+machine.Zone, func() error { // refused while the VPC is busy
			id, err := m.state.Cloud.AddVSwitch(machine.Zone, cidr, "migrate-"+machine.Zone)
			vswitches[machine.Zone] = []string{id}
			return err
		})
	}
	old, _ := values["eniConfig"].(map[string]any)
	values["eniConfig"] = map[string]any{
		"cluster_id": old["cluster_id"], "region": old["region"], "service_cidr": old["service_cidr"],
		"vswitches": vswitches, "security_groups": []string{m.state.Cloud.SecurityGroupID}, "cooling_seconds": 5,
	}
	delete(values, "flannel")
	values["agent"] = lab.AgentValues()
	text, err := yaml.Marshal(values)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(m.dir, "my-values.yaml")
	if err := os.Remove(file); err != nil { // a link to the lab's
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func (m *migration) nodes(t *testing.T) map[string]*corev1.Node {
	t.Helper()
	list, err := m.client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	nodes := map[string]*corev1.Node{}
	for i := range list.Items {
		nodes[list.Items[i].Name] = &list.Items[i]
	}
	return nodes
}

// deploy makes a pod on each node that tolerates everything, as agents of monitoring do, so that a drain alone does not
// make it leave the old network.
func (m *migration) deploy(t *testing.T) {
	t.Helper()
	labels := map[string]string{"app": "migrate"}
	grace := int64(0)
	_, err := m.client.AppsV1().DaemonSets(growNamespace).Create(t.Context(), &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: "migrate"},
		Spec: appsv1.DaemonSetSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: labels},
			Spec: corev1.PodSpec{TerminationGracePeriodSeconds: &grace, Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
				Containers: []corev1.Container{{Name: "main", Image: lab.ImageAgnhost, ImagePullPolicy: corev1.PullIfNotPresent, Args: []string{"netexec", "--http-port=8080"}}}},
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// connected waits until each node has a pod with an address of its network, and each pod reaches all others.
func (m *migration) connected(t *testing.T, terway []string) {
	t.Helper()
	eventually(t, fmt.Sprintf("pods reach each other, with Terway on %q", terway), func() error {
		list, err := m.client.CoreV1().Pods(growNamespace).List(t.Context(), metav1.ListOptions{LabelSelector: "app=migrate"})
		if err != nil {
			return err
		}
		if len(list.Items) != len(m.state.Machines) {
			return fmt.Errorf("%d pods on %d nodes", len(list.Items), len(m.state.Machines))
		}
		for _, p := range list.Items {
			addr, err := netip.ParseAddr(p.Status.PodIP)
			if err != nil || p.DeletionTimestamp != nil || p.Status.Phase != corev1.PodRunning {
				return fmt.Errorf("pod %s on %s is %s and has the address %q", p.Name, p.Spec.NodeName, p.Status.Phase, p.Status.PodIP)
			}
			want := m.state.Options.Plan.PodCIDR
			if slices.Contains(terway, p.Spec.NodeName) {
				want = m.state.Options.Plan.VPC.CIDR
			}
			if !want.Contains(addr) {
				return fmt.Errorf("pod %s on %s has the address %s, which is not in %s", p.Name, p.Spec.NodeName, addr, want)
			}
		}
		for _, from := range list.Items {
			for _, to := range list.Items {
				out, err := m.run(t, "", m.state.Options.Bin("kubectl"), "-n", growNamespace, "exec", from.Name, "--", "/agnhost", "connect", to.Status.PodIP+":8080", "--timeout=2s")
				if err != nil {
					return fmt.Errorf("pod on %s to the pod on %s: %w: %s", from.Spec.NodeName, to.Spec.NodeName, err, strings.TrimSpace(out))
				}
			}
		}
		return nil
	})
}
