package instruments

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

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

// A check uses the room that there is, and has nothing to test if that is too little.
func TestRoomOn(t *testing.T) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node1"}}
	node.Status.Allocatable = corev1.ResourceList{corev1.ResourcePods: resource.MustParse("50"), claims.ResourceENI: resource.MustParse("3")}
	dns := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "dns", Namespace: "kube-system"}, Spec: corev1.PodSpec{NodeName: "node1", Containers: make([]corev1.Container, 1)}}
	lab.AskForENI(&dns.Spec)
	c := &Cluster{Client: fake.NewClientset(node, dns), Runs: []NodeDatapath{{Node: "node1", Datapath: Exclusive}}}
	m := lab.Machine{Name: "node1", Type: "ecs.small"}
	for _, least := range []int{1, 2} {
		if n, err := c.RoomOn(t.Context(), m, least, 4); err != nil || n != 2 {
			t.Errorf("%d to 4 pods: %d, %v; want 2", least, n, err)
		}
	}
	if n, err := c.RoomOn(t.Context(), m, 1, 1); err != nil || n != 1 {
		t.Errorf("one pod: %d, %v", n, err)
	}
	_, err := c.RoomOn(t.Context(), m, 3, 4)
	if nothing := NothingToTest(""); !errors.As(err, &nothing) || !strings.Contains(err.Error(), "node1 (ecs.small) has 1 pods of 3") {
		t.Errorf("three pods: %v, want nothing to test, and why", err)
	}
	if _, err := c.Burst(t.Context()); !errors.As(err, new(NothingToTest)) {
		t.Errorf("a burst: %v, want nothing to test", err)
	}
}
