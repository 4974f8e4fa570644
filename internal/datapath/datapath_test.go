package datapath

import (
	"errors"
	"fmt"
	"testing"
)

func TestOnlyPods(t *testing.T) {
	pod := &PodError{errors.New("pod a: ENI gone")}
	for _, c := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{pod, true},
		{errors.Join(pod, nil, pod), true},
		{errors.Join(pod, errors.New("no nft table")), false},
		{errors.New("no nft table"), false},
		{fmt.Errorf("while syncing: %w", pod), false}, // somebody added a meaning of their own
	} {
		if got := OnlyPods(c.err); got != c.want {
			t.Errorf("OnlyPods(%v) = %v, want %v", c.err, got, c.want)
		}
	}
}
