package compare

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/instruments"
)

// With exclusive ENIs, the same number of pods starts on each node, and one more fits on any.
func TestRoomOfNodesWithExclusiveENIs(t *testing.T) {
	c := &cluster{instruments.Cluster{Lab: &lab.State{}}}
	if l := c.podSpec().Containers[0].Resources.Limits; len(l) != 0 {
		t.Errorf("a pod that shares an ENI asks for %v", l)
	}
	c.Lab.Options.Mode = claims.ModeExclusive
	own := c.podSpec()
	client := fake.NewClientset()
	add := func(name, node string, spec corev1.PodSpec) {
		spec.NodeName = node
		if _, err := client.CoreV1().Pods("x").Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"n1", "n2", "n3"} {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
		n.Status.Allocatable = corev1.ResourceList{claims.ResourceENI: resource.MustParse("3")}
		if _, err := client.CoreV1().Nodes().Create(t.Context(), n, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		add("host-"+name, name, corev1.PodSpec{HostNetwork: true, Containers: []corev1.Container{{Name: "a"}}})
	}
	c.Client = client
	if n, err := c.room(t.Context()); err != nil || n != 6 {
		t.Errorf("empty nodes: %d, %v; want 6", n, err)
	}
	add("dns", "n2", own)
	if n, err := c.room(t.Context()); err != nil || n != 3 {
		t.Errorf("with a pod on one node: %d, %v; want 3", n, err)
	}
	add("dns-2", "n2", own)
	if _, err := c.room(t.Context()); err == nil || !strings.Contains(err.Error(), "n2") || !strings.Contains(err.Error(), "--instance-type") {
		t.Errorf("a node that is full: %v", err)
	}
}
