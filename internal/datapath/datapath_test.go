package datapath

import (
	"errors"
	"fmt"
	"testing"
)

func TestSort(t *testing.T) {
	pod, drop, node := &PodError{Sandbox: "a", IfName: "eth0", Err: errors.New("pod a: ENI gone")}, &Obstacle{"FORWARD drops"}, errors.New("no nft table")
	own := fmt.Errorf("while syncing: %w", pod) // wrapped with context
	for _, c := range []struct {
		err             error
		pods, obstacles int
		node            error
	}{
		{nil, 0, 0, nil},
		{pod, 1, 0, nil},
		{errors.Join(pod, nil, pod), 2, 0, nil},
		{errors.Join(pod, drop, node), 1, 1, node},
		{errors.Join(drop, errors.Join(drop, node)), 0, 2, node},
		{node, 0, 0, node},
		{own, 0, 0, own},
	} {
		pods, obstacles, node := Sort(c.err)
		if len(pods) != c.pods || len(obstacles) != c.obstacles || !errors.Is(node, c.node) || (node == nil) != (c.node == nil) {
			t.Errorf("Sort(%v) = %v, %v, %v", c.err, pods, obstacles, node)
		}
	}
}
