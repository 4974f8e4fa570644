//go:build e2e

package e2e

import (
	"encoding/json"
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

	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/testutil"
)

// tinyPlan has twelve addresses for pods, in a node that can hold thirty.
const tinyPlan = `
version: 1
name: tiny
region: cn-hangzhou
network: terway
mode: shared
vpc: {cidr: 10.20.0.0/16}
nodes: {count: 1, max: 1, instanceTypes: [ecs.g6.2xlarge], podsPerNode: 4}
zones:
- id: cn-hangzhou-j
  node: {name: tiny-node-j, cidr: 10.20.0.0/24}
  pods: [{name: tiny-pod-j, cidr: 10.20.1.0/28}]
serviceCIDR: 172.22.0.0/20
securityGroup: normal
`

// TestGrow: when a cluster's Pod vSwitch is full, pods wait and their events say why; after
// "vpc grow" they start, and nothing is restarted. Agent and controller log all that as the chart's values log.format and log.level say, and
// then as their command log-level.
func TestGrow(t *testing.T) {
	testutil.RequireRoot(t)
	c := build(t)
	c.clear(t)
	given := filepath.Join(t.TempDir(), "tiny.yaml")
	if err := os.WriteFile(given, []byte(tinyPlan), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			logs(t)
		}
		c.run(t, "down")
	})
	values := filepath.Join(filepath.Dir(given), "values.yaml")
	if err := os.WriteFile(values, []byte("log: {format: json, level: debug}"), 0o644); err != nil {
		t.Fatal(err)
	}
	c.run(t, "up", "--plan", given, "--values", values)
	g := &growth{running: attach(t, c)}
	g.plan = g.state.Options.PlanFile()

	// The lab creates what the plan contains, like a user: "vpc apply" has nothing to do.
	var applied struct{ Done []any }
	g.terwayctl(t, &applied, "vpc", "apply", g.plan, "-o", "json")
	if applied.Done == nil || len(applied.Done) > 0 {
		t.Errorf("vpc apply after terway-lab up: done %q, want nothing", applied.Done)
	}

	const pods = 16
	g.deploy(t, pods)
	eventually(t, "the Pod vSwitch is full and pods wait", func() error {
		ready, waiting := g.pods(t)
		if len(ready) == 0 || len(ready)+len(waiting) < pods {
			return fmt.Errorf("%d pods have started, %d wait", len(ready), len(waiting))
		}
		for _, p := range waiting {
			if err := g.saysWhy(t, p); err != nil {
				return err
			}
		}
		if free := g.free(t); free > 0 {
			return fmt.Errorf("the Pod vSwitch has %d free addresses", free)
		}
		return nil
	})
	_, waiting := g.pods(t)
	if len(waiting) < pods-12 {
		t.Errorf("%d pods wait: the vSwitch has 12 addresses for %d pods and the cluster's DNS", len(waiting), pods)
	}

	g.setLevel(t, "info")
	before := g.system(t)
	var grown struct {
		VSwitches []struct{ ID, CIDR string }
		Adopted   bool
	}
	g.terwayctl(t, &grown, "vpc", "grow", g.plan, "--zone", "cn-hangzhou-j", "--to", "2", "--bits", "24", "--kubeconfig", g.state.Options.Kubeconfig(), "-o", "json")
	if !grown.Adopted || len(grown.VSwitches) != 2 {
		t.Fatalf("vpc grow: %+v", grown)
	}
	cidr := netip.MustParsePrefix(grown.VSwitches[1].CIDR)
	eventually(t, "all pods start", func() error {
		if ready, waiting := g.pods(t); len(waiting) > 0 || len(ready) != pods {
			return fmt.Errorf("%d pods have started, %d wait", len(ready), len(waiting))
		}
		return nil
	})
	ready, _ := g.pods(t)
	if !slices.ContainsFunc(ready, func(p corev1.Pod) bool {
		a, err := netip.ParseAddr(p.Status.PodIP)
		return err == nil && cidr.Contains(a)
	}) {
		t.Errorf("no pod has an address of the new vSwitch %s", cidr)
	}
	if after := g.system(t); before != after {
		t.Errorf("something was restarted:\n%s\nbefore:\n%s", after, before)
	}
	g.setLevel(t, "debug")
	g.must(t, "", g.state.Options.Bin("kubectl"), "delete", "deployment", "grow")
	g.logged(t)
}

// growth is the lab of the test.
type growth struct {
	*running
	// plan is the lab's plan file.
	plan string
}

// terwayctl runs a command with the environment of "terway-lab env", and parses its JSON.
func (g *growth) terwayctl(t *testing.T, into any, args ...string) {
	t.Helper()
	quoted := make([]string, 0, len(args)+1)
	for _, a := range append([]string{g.c.path("terwayctl")}, args...) {
		quoted = append(quoted, "'"+a+"'")
	}
	cmd := exec.Command("sh", "-ec", fmt.Sprintf("eval \"$('%s' env)\"; exec %s", g.c.path("terway-lab"), strings.Join(quoted, " ")))
	cmd.Stderr = t.Output()
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("terwayctl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	if err := json.Unmarshal(out, into); err != nil {
		t.Fatalf("terwayctl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

const growNamespace = "default"

func (g *growth) deploy(t *testing.T, n int32) {
	t.Helper()
	labels := map[string]string{"app": "grow"}
	_, err := g.client.AppsV1().Deployments(growNamespace).Create(t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "grow"},
		Spec: appsv1.DeploymentSpec{Replicas: &n, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: lab.ImageAgnhost, Args: []string{"netexec"}}}}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// pods returns the pods of the deployment: those that have started and those that wait.
func (g *growth) pods(t *testing.T) (ready, waiting []corev1.Pod) {
	t.Helper()
	list, err := g.client.CoreV1().Pods(growNamespace).List(t.Context(), metav1.ListOptions{LabelSelector: "app=grow"})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range list.Items {
		if p.Status.Phase == corev1.PodRunning {
			ready = append(ready, p)
		} else {
			waiting = append(waiting, p)
		}
	}
	return ready, waiting
}

// saysWhy looks for the reason in a waiting pod's events.
func (g *growth) saysWhy(t *testing.T, p corev1.Pod) error {
	t.Helper()
	list, err := g.client.CoreV1().Events(growNamespace).List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=" + p.Name})
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range list.Items {
		if strings.Contains(e.Message, "have no address left") {
			return nil
		}
		all = append(all, e.Reason+": "+e.Message)
	}
	return fmt.Errorf("pod %s waits, and its events do not say that the vSwitch is full: %q", p.Name, all)
}

// free returns the number of free addresses in the Pod vSwitches.
func (g *growth) free(t *testing.T) (n int) {
	t.Helper()
	var shown struct {
		VSwitches []struct {
			Role string
			Free int
		}
	}
	g.terwayctl(t, &shown, "vpc", "show", g.plan, "-o", "json")
	for _, v := range shown.VSwitches {
		if v.Role == "pod" {
			n += v.Free
		}
	}
	return n
}

// system lists the containers of the system: another id means a restart.
func (g *growth) system(t *testing.T) string {
	t.Helper()
	list, err := g.client.CoreV1().Pods(metav1.NamespaceSystem).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, p := range list.Items {
		for _, c := range p.Status.ContainerStatuses {
			all = append(all, fmt.Sprintf("%s/%s %s, restarted %d times", p.Name, c.Name, c.ContainerID, c.RestartCount))
		}
	}
	slices.Sort(all)
	return strings.Join(all, "\n")
}
