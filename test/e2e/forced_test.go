//go:build e2e

package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/internal/lab"
)

// forced uninstalls with uninstall.force while pods use the network and a node hangs. Nothing of Terway is left in the cloud and in the
// cluster, and Helm prints who was cut off and which node was not cleaned. After it the lab can only be taken down.
func forced(t *testing.T, c *programs) {
	r := attach(t, c)
	o := &r.state.Options
	r.must(t, "", o.Bin("helm"), "upgrade", "terway", filepath.Join(o.Source, "deploy", "chart"), "--namespace", metav1.NamespaceSystem,
		"--values", filepath.Join(o.Dir, "values.yaml"), "--set", "uninstall.force=true")
	hung := r.state.Machines[1]
	hang(t, hung, syscall.SIGSTOP)
	defer hang(t, hung, syscall.SIGCONT) // so that "down" can end them
	// Kubernetes writes this when the node has not reported for 40 seconds.
	node, err := r.client.CoreV1().Nodes().Get(t.Context(), hung.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range node.Status.Conditions {
		if c := &node.Status.Conditions[i]; c.Type == corev1.NodeReady {
			c.Status, c.Reason = corev1.ConditionUnknown, "NodeStatusUnknown"
		}
	}
	if _, err := r.client.CoreV1().Nodes().UpdateStatus(t.Context(), node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}

	out, err := r.run(t, "", o.Bin("helm"), "uninstall", "terway", "--namespace", metav1.NamespaceSystem, "--wait", "--timeout", "4m")
	if err != nil {
		t.Fatalf("helm uninstall with uninstall.force: %v\n%s", err, out)
	}
	for _, want := range []string{"forced: pod kube-system/coredns-", "forced: node " + hung.Name + " cannot be cleaned", "forced: not cleaned: node " + hung.Name} {
		if !strings.Contains(out, want) {
			t.Errorf("Helm does not print %q:\n%s", want, out)
		}
	}
	enis, err := r.state.Cloud.ENIs(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range enis {
		if e.Type != "Primary" {
			t.Errorf("the cloud has ENI %+v", e)
		}
	}
	eventually(t, "the kind of NodeNetworks is gone, which finalizers of its objects would keep", func() error {
		out, err := r.run(t, "", o.Bin("kubectl"), "get", "crd", "nodenetworks.network.terway.dev", "--ignore-not-found")
		if err == nil && out != "" {
			err = fmt.Errorf("it is there:\n%s", out)
		}
		return err
	})
	for _, m := range r.state.Machines {
		cmd, err := r.state.Shell(m.Name, []string{"ls", "/opt/cni/bin"})
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.CombinedOutput()
		plugin := strings.Contains("\n"+string(out), "\nterway\n")
		if err != nil || plugin != (m.Name == hung.Name) {
			t.Errorf("node %s has Terway's plugin: %t, %v:\n%s", m.Name, plugin, err, out)
		}
	}
}

// hang stops the programs of a node that talk to the cluster, or lets them continue.
func hang(t *testing.T, m lab.Machine, how syscall.Signal) {
	t.Helper()
	for _, name := range []string{"kubelet", "terwayd", "terway-controller"} {
		list, err := lab.ProcessesIn(m.NetNS, name)
		if err != nil {
			t.Fatal(err)
		}
		if name == "kubelet" && len(list) == 0 {
			t.Fatalf("no kubelet runs on %s", m.Name)
		}
		for _, p := range list {
			if err := syscall.Kill(p.PID, how); err != nil {
				t.Errorf("%s to %s (pid %d) on %s: %v", how, name, p.PID, m.Name, err)
			}
		}
	}
}
