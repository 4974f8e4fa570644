package datapath

import (
	"errors"
	"fmt"
	"testing"
)

func TestPodErrors(t *testing.T) {
	pod := &PodError{Sandbox: "a", IfName: "eth0", Err: errors.New("pod a: ENI gone")}
	for _, c := range []struct {
		err  error
		pods int
		only bool
	}{
		{nil, 0, true},
		{pod, 1, true},
		{errors.Join(pod, nil, pod), 2, true},
		{errors.Join(pod, errors.New("no nft table")), 1, false},
		{errors.New("no nft table"), 0, false},
		{fmt.Errorf("while syncing: %w", pod), 0, false}, // somebody added a meaning of their own
	} {
		if pods, only := PodErrors(c.err); len(pods) != c.pods || only != c.only {
			t.Errorf("PodErrors(%v) = %v, %v", c.err, pods, only)
		}
	}
}
