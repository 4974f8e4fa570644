package uninstall

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

func TestTeardownJob(t *testing.T) {
	set := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: agents}}
	set.Spec.Template.Labels = map[string]string{"app": agents}
	// Its pod would wait for ever for a node with this label, and the DaemonSet would take it for an agent with that one.
	set.Spec.Template.Spec = corev1.PodSpec{NodeSelector: map[string]string{selector: "true"}, Containers: []corev1.Container{{Command: []string{"/usr/bin/terwayd"}, Args: []string{"--state-dir=/s", "-v"}}}}
	job := func(node string, force bool) *batchv1.Job {
		t.Helper()
		j, err := TeardownJob(set, node, netip.Prefix{}, force)
		if err != nil {
			t.Fatal(err)
		}
		return j
	}
	node := strings.Repeat("long-", 40) + "name"
	j := job(node, false)
	if got := j.Spec.Template.Spec.Containers[0].Args; !slices.Equal(got, []string{"teardown", "--state-dir=/s"}) {
		t.Errorf("arguments %q", got)
	}
	if got := job(node, true).Spec.Template.Spec.Containers[0].Args; got[len(got)-1] != "--force" {
		t.Errorf("forced: arguments %q", got)
	}
	if j.Spec.Template.Spec.NodeSelector != nil || j.Spec.Template.Labels["app"] == agents {
		t.Errorf("%+v", j.Spec.Template)
	}
	if wrong := validation.IsDNS1123Label(j.Name); len(wrong) > 0 {
		t.Errorf("name %q: %v", j.Name, wrong)
	}
	if job("other", false).Name == j.Name {
		t.Error("the Jobs of two nodes have one name")
	}
}

// With Flannel it is the container beside flanneld, with what that needs to remove more than files.
func TestTeardownJobOfFlannel(t *testing.T) {
	set := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: flannelAgents}}
	set.Spec.Template.Spec = corev1.PodSpec{HostNetwork: true, InitContainers: []corev1.Container{{Command: []string{"/usr/bin/terwayd", "flannel-wait"}}}, Containers: []corev1.Container{
		{Name: "kube-flannel", Command: []string{"/opt/bin/flanneld"}, Args: []string{"--ip-masq"}},
		{Name: "cni", Command: []string{"/usr/bin/terwayd", "flannel-cni"}, Args: []string{"--cni-conf-dir=/host/etc/cni/net.d", "--cni-version=1.0.0"},
			SecurityContext: &corev1.SecurityContext{Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: []corev1.Capability{"DAC_OVERRIDE"}}}}}}
	j, err := TeardownJob(set, "n1", netip.MustParsePrefix("172.20.0.0/16"), true)
	if err != nil {
		t.Fatal(err)
	}
	pod := j.Spec.Template.Spec
	c := pod.Containers[0]
	if len(pod.Containers) != 1 || !slices.Equal(c.Command, []string{"/usr/bin/terwayd"}) || !slices.Equal(c.Args, []string{"teardown", "--cni-conf-dir=/host/etc/cni/net.d", "--flannel=172.20.0.0/16", "--force"}) {
		t.Errorf("it runs %q %q", c.Command, c.Args)
	}
	if !slices.Equal(c.SecurityContext.Capabilities.Add, []corev1.Capability{"DAC_OVERRIDE", "NET_ADMIN"}) || !slices.Equal(c.SecurityContext.Capabilities.Drop, []corev1.Capability{"ALL"}) {
		t.Errorf("capabilities %+v", c.SecurityContext.Capabilities)
	}
	if len(pod.Volumes) != 1 || pod.Volumes[0].HostPath.Path != ipamDir || len(c.VolumeMounts) != 1 || c.VolumeMounts[0].MountPath != ipamDir || c.VolumeMounts[0].Name != pod.Volumes[0].Name {
		t.Errorf("volumes %+v, mounts %+v", pod.Volumes, c.VolumeMounts)
	}
	if own := set.Spec.Template.Spec.Containers[1]; len(own.Command) != 2 || len(own.SecurityContext.Capabilities.Add) != 1 {
		t.Errorf("the DaemonSet itself was changed: %+v", own)
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
