package verify

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/internal/lab"
)

// fullness is how full a node is, by what limits it.
type fullness struct {
	// limit is the kubelet's of pods; where each has an ENI, that of ENIs.
	limit int
	// there are the pods that count.
	there int
}

func (f fullness) room() int { return f.limit - f.there }

// fullness counts a node's pods as the scheduler does. Pods that have ended take no place.
func (e *Env) fullness(node *corev1.Node, pods []corev1.Pod) fullness {
	kubelet, enis := fullness{limit: int(node.Status.Allocatable.Pods().Value())}, fullness{}
	enis.limit, enis.there = lab.CountENIs(node, pods)
	for _, p := range pods {
		if p.Spec.NodeName == node.Name && !lab.Ended(&p) {
			kubelet.there++
		}
	}
	if e.exclusive(node.Name) && enis.room() < kubelet.room() {
		return enis
	}
	return kubelet
}

// burst is how many pods a check starts at once: twenty, or as many as the nodes have room for.
func (e *Env) burst(ctx context.Context) (int32, error) {
	const want, least = 20, 4
	nodes, err := e.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return 0, fmt.Errorf("list nodes: %w", err)
	}
	pods, err := e.Client.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return 0, fmt.Errorf("list pods: %w", err)
	}
	room := 0
	for i := range nodes.Items {
		room += e.fullness(&nodes.Items[i], pods.Items).room()
	}
	if room < least {
		return 0, fmt.Errorf("the nodes have room for %d more pods, the check needs %d", room, least)
	}
	return int32(min(want, room)), nil
}
