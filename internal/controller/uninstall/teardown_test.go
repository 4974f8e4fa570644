package uninstall

import (
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

func TestTeardownJob(t *testing.T) {
	set := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: agents}}
	set.Spec.Template.Labels = map[string]string{"app": agents}
	set.Spec.Template.Spec = corev1.PodSpec{
		NodeSelector: map[string]string{selector: "true", "kubernetes.io/os": "linux"}, HostNetwork: true, ServiceAccountName: agents,
		Containers: []corev1.Container{{
			Command: []string{"/usr/bin/terwayd"}, Args: []string{"--cni-conf-dir=/c", "--policy-hub=terway-policy", "--state-dir=/s", "-v"},
			LivenessProbe: &corev1.Probe{}, ReadinessProbe: &corev1.Probe{}, Ports: []corev1.ContainerPort{{ContainerPort: 1}},
			VolumeMounts: []corev1.VolumeMount{{Name: "run"}},
		}},
	}
	node := strings.Repeat("long-", 40) + "name"
	j := TeardownJob(set, node, false)
	spec, c := j.Spec.Template.Spec, j.Spec.Template.Spec.Containers[0]
	if want := []string{"teardown", "--cni-conf-dir=/c", "--state-dir=/s"}; !slices.Equal(c.Args, want) {
		t.Errorf("arguments %q, want %q", c.Args, want)
	}
	if got := TeardownJob(set, node, true).Spec.Template.Spec.Containers[0].Args; got[len(got)-1] != "--force" {
		t.Errorf("forced: arguments %q", got)
	}
	if c.LivenessProbe != nil || c.ReadinessProbe != nil || c.Ports != nil {
		t.Errorf("it has the agent's probes or ports: %+v", c)
	}
	if len(c.VolumeMounts) != 1 || !spec.HostNetwork || spec.NodeName != node || spec.RestartPolicy != corev1.RestartPolicyNever {
		t.Errorf("the pod is %+v", spec)
	}
	// Its pod would wait for ever for a node with this label, and the DaemonSet would take it for an agent with that one.
	if _, ok := spec.NodeSelector[selector]; ok || spec.NodeSelector["kubernetes.io/os"] != "linux" {
		t.Errorf("nodeSelector %v", spec.NodeSelector)
	}
	if j.Spec.Template.Labels["app"] == agents {
		t.Error("it is labelled as an agent")
	}
	if wrong := validation.IsDNS1123Label(j.Name); len(wrong) > 0 {
		t.Errorf("name %q: %v", j.Name, wrong)
	}
	if TeardownJob(set, "other", false).Name == j.Name {
		t.Error("the Jobs of two nodes have one name")
	}
	if _, ok := set.Spec.Template.Spec.NodeSelector[selector]; !ok || len(set.Spec.Template.Spec.Containers[0].Args) != 4 {
		t.Error("the DaemonSet itself was changed")
	}
}

func TestInUseIsShort(t *testing.T) {
	var use InUse
	for range 100 {
		use = append(use, "pod")
	}
	if got := strings.Count(use.Error(), "\n"); got != 22 || !strings.Contains(use.Error(), "and 80 more") {
		t.Errorf("%d lines: %s", got, use.Error())
	}
}
