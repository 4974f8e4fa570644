package chart

import (
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/internal/migrate"
)

// TestMigrateKnowsTheAgent: "terwayctl migrate" finds the chart's DaemonSet, sees by its arguments whether it enforces policies, and
// finds the container and the folders with which it makes a pod of its own.
func TestMigrateKnowsTheAgent(t *testing.T) {
	for _, on := range []bool{false, true} {
		agent := &appsv1.DaemonSet{}
		into(t, objects(t, with("terway", map[string]any{"policy.enabled": on}))["DaemonSet "+migrate.AgentName], agent)
		agent.Namespace = metav1.NamespaceSystem
		canal := appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-flannel", Name: "canal"}}
		canal.Spec.Template.Spec.Containers = []corev1.Container{{Command: []string{"/opt/bin/flanneld"}}}
		migrate.Confine(&canal.Spec.Template.Spec)
		p, err := migrate.Make(&migrate.Objects{Namespace: metav1.NamespaceSystem, DaemonSets: []appsv1.DaemonSet{*agent, canal}}, migrate.Ask{})
		if err != nil {
			t.Fatal(err)
		}
		lost := slices.ContainsFunc(p.Losses, func(l migrate.Loss) bool { return l.Name == "network-policy" })
		if !p.Installed || lost == on {
			t.Errorf("policy.enabled %v: installed %v, network-policy is lost: %v", on, p.Installed, lost)
		}
		spec := agent.Spec.Template.Spec
		at := slices.IndexFunc(spec.Containers, func(c corev1.Container) bool { return c.Name == migrate.AgentName })
		if at < 0 {
			t.Fatalf("no container %s", migrate.AgentName)
		}
		for _, flag := range []string{"--cni-conf-dir=", "--cni-bin-dir=", "--host-root="} {
			if !slices.ContainsFunc(spec.Containers[at].Args, func(a string) bool { return strings.HasPrefix(a, flag) }) {
				t.Errorf("the agent has no argument %s", flag)
			}
		}
	}
}
