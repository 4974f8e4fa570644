package instruments

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/internal/lab"
)

// Fullness is how full a node is, by its limiting resource.
type Fullness struct {
	// Limit is the kubelet's maxPods; with exclusive ENIs it is the number of ENIs.
	Limit int
	// There is the number of pods that count against the limit.
	There int
}

// Room returns how many more pods the node accepts.
func (f Fullness) Room() int { return f.Limit - f.There }

// Fullness counts a node's pods like the scheduler, without pods that have ended.
func (c *Cluster) Fullness(node *corev1.Node, pods []corev1.Pod) Fullness {
	kubelet, enis := Fullness{Limit: int(node.Status.Allocatable.Pods().Value())}, Fullness{}
	enis.Limit, enis.There = lab.CountENIs(node, pods)
	for _, p := range pods {
		if p.Spec.NodeName == node.Name && !lab.Ended(&p) {
			kubelet.There++
		}
	}
	if c.Exclusive(node.Name) && enis.Room() < kubelet.Room() {
		return enis
	}
	return kubelet
}

// rooms returns how many more pods each node accepts.
func (c *Cluster) rooms(ctx context.Context) ([]int, error) {
	nodes, err := c.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	pods, err := c.Client.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	var all []int
	for i := range nodes.Items {
		all = append(all, c.Fullness(&nodes.Items[i], pods.Items).Room())
	}
	return all, nil
}

// LeastRoom returns how many more pods every node accepts.
func (c *Cluster) LeastRoom(ctx context.Context) (int, error) {
	all, err := c.rooms(ctx)
	if err != nil || len(all) == 0 {
		return 0, err
	}
	return slices.Min(all), nil
}

// Burst returns how many pods a check starts at once: twenty, or as many as the nodes have room
// for.
func (c *Cluster) Burst(ctx context.Context) (int32, error) {
	const want, least = 20, 4
	all, err := c.rooms(ctx)
	if err != nil {
		return 0, err
	}
	room := 0
	for _, n := range all {
		room += n
	}
	if room < least {
		return 0, fmt.Errorf("the nodes have room for %d more pods, the check needs %d", room, least)
	}
	return int32(min(want, room)), nil
}
