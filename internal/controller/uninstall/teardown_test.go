package uninstall

import (
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"terway.dev/terway/internal/agentpod"
)

func TestTeardownJob(t *testing.T) {
	set := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: agents}}
	set.Spec.Template.Labels = map[string]string{"app": agents}
	// Its pod would wait for ever for a node with this label, and the DaemonSet would take it for an agent with that one.
	set.Spec.Template.Spec = corev1.PodSpec{NodeSelector: map[string]string{selector: "true"}, Containers: []corev1.Container{{Name: agentpod.Container, Args: []string{"--state-dir=/s", "-v"}}}}
	job := func(node string, force bool) *batchv1.Job {
		t.Helper()
		j, err := TeardownJob(set, node, force)
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

func TestInUseIsShort(t *testing.T) {
	var use InUse
	for range 100 {
		use = append(use, "pod")
	}
	if got := strings.Count(use.Error(), "\n"); got != 22 || !strings.Contains(use.Error(), "and 80 more") {
		t.Errorf("%d lines: %s", got, use.Error())
	}
}
