package instruments

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/internal/lab"
)

// NothingToTest is the error of a check for which there is nothing to test on the lab, with the reason: it has neither passed nor failed.
type NothingToTest string

func (n NothingToTest) Error() string { return "nothing to test: " + string(n) }

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

// RoomOn returns how many more pods a node accepts, at most most. Fewer than least are an error of the type NothingToTest.
func (c *Cluster) RoomOn(ctx context.Context, m lab.Machine, least, most int) (int, error) {
	full, err := c.FullnessOf(ctx, m)
	if err != nil {
		return 0, err
	}
	if full.Room() < least {
		return 0, NothingToTest(fmt.Sprintf("%s (%s) has %d pods of %d, and the check needs %d more: choose a larger --instance-type", m.Name, m.Type, full.There, full.Limit, least))
	}
	return min(most, full.Room()), nil
}

// FullnessOf is Fullness of a node as it is now.
func (c *Cluster) FullnessOf(ctx context.Context, m lab.Machine) (full Fullness, err error) {
	node, err := c.Client.CoreV1().Nodes().Get(ctx, m.Name, metav1.GetOptions{})
	if err != nil {
		return full, fmt.Errorf("read node %s: %w", m.Name, err)
	}
	pods, err := c.Client.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + m.Name})
	if err != nil {
		return full, fmt.Errorf("list the pods of %s: %w", m.Name, err)
	}
	return c.Fullness(node, pods.Items), nil
}

// Burst returns how many pods a check starts at once: twenty, or as many as the nodes have room
// for. Too little room is an error of the type NothingToTest.
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
		return 0, NothingToTest(fmt.Sprintf("the nodes have room for %d more pods, and the check needs %d: choose a larger --instance-type", room, least))
	}
	return int32(min(want, room)), nil
}
