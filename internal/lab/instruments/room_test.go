package instruments

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/lab"
)

func TestFullness(t *testing.T) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node1"}}
	node.Status.Allocatable = corev1.ResourceList{corev1.ResourcePods: resource.MustParse("50"), claims.ResourceENI: resource.MustParse("5")}
	pod := func(on string, phase corev1.PodPhase, asks bool) corev1.Pod {
		p := corev1.Pod{Spec: corev1.PodSpec{NodeName: on, Containers: make([]corev1.Container, 1)}, Status: corev1.PodStatus{Phase: phase}}
		if asks {
			lab.AskForENI(&p.Spec)
		}
		return p
	}
	pods := []corev1.Pod{pod("node1", corev1.PodRunning, true), pod("node1", corev1.PodRunning, false), pod("node1", corev1.PodSucceeded, true), pod("node2", corev1.PodRunning, true)}
	got := ""
	for _, runs := range []string{"ebpf", Exclusive} {
		c := &Cluster{Runs: []NodeDatapath{{Node: "node1", Datapath: runs}}}
		f := c.Fullness(node, pods)
		got += fmt.Sprintf("%s %d of %d, ", runs, f.There, f.Limit)
	}
	if want := "ebpf 2 of 50, exclusive 1 of 5, "; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
