package agentpod

import (
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The pod has the agent's mounts, rights and folders, and runs once, on whatever node.
func TestSpec(t *testing.T) {
	set := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "terway-system", Name: "terwayd"}}
	if _, err := Spec(set, "a", "teardown"); err == nil || !strings.Contains(err.Error(), "not the chart's") {
		t.Errorf("no container: %v", err)
	}
	privileged := true
	set.Spec.Template.Spec = corev1.PodSpec{
		NodeSelector: map[string]string{"kubernetes.io/os": "linux"}, Affinity: &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{}}, HostNetwork: true, InitContainers: []corev1.Container{{Name: "first"}},
		Containers: []corev1.Container{{Name: "other"}, {Name: "terwayd", Command: []string{"/usr/bin/terwayd"}, Args: []string{"--cni-bin-dir=/x", "--policy-hub=h", "--proc-sys=/p", "-v"},
			SecurityContext: &corev1.SecurityContext{Privileged: &privileged}, LivenessProbe: &corev1.Probe{}, ReadinessProbe: &corev1.Probe{}, StartupProbe: &corev1.Probe{},
			Ports: []corev1.ContainerPort{{ContainerPort: 1}}, VolumeMounts: []corev1.VolumeMount{{Name: "run"}}}},
	}
	before := set.DeepCopy()
	p, err := Spec(set, "a", "teardown", "--force")
	if err != nil {
		t.Fatal(err)
	}
	c := p.Containers[0]
	if want := []string{"teardown", "--cni-bin-dir=/x", "--proc-sys=/p", "--force"}; !slices.Equal(c.Args, want) {
		t.Errorf("arguments %q, want %q", c.Args, want)
	}
	if len(p.Containers) != 1 || len(p.InitContainers) > 0 || p.NodeName != "a" || p.RestartPolicy != corev1.RestartPolicyNever || !p.HostNetwork || p.Affinity != nil || p.NodeSelector != nil ||
		len(p.Tolerations) != 1 || p.Tolerations[0] != (corev1.Toleration{Operator: corev1.TolerationOpExists}) {
		t.Errorf("%+v", p)
	}
	if c.LivenessProbe != nil || c.ReadinessProbe != nil || c.StartupProbe != nil || c.Ports != nil || !*c.SecurityContext.Privileged || len(c.VolumeMounts) != 1 {
		t.Errorf("%+v", c)
	}
	if !slices.Equal(before.Spec.Template.Spec.Containers[1].Args, set.Spec.Template.Spec.Containers[1].Args) || set.Spec.Template.Spec.Affinity == nil {
		t.Error("the DaemonSet itself was changed")
	}
	if p, err := Spec(set, "a", "cni-files", "--disable=x"); err != nil || !slices.Equal(p.Containers[0].Args, []string{"cni-files", "--disable=x"}) {
		t.Errorf("%+v, %v", p, err)
	}
}
