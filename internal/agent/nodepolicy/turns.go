package nodepolicy

import (
	"sync"

	"terway.dev/terway/internal/policy"
)

// turns are those of calls about the same pod, in the order in which they were taken.
type turns struct {
	mu   sync.Mutex
	last map[policy.NamespacedName]chan struct{}
}

// take takes the next turn: it begins when the channel is closed, and ends with done.
func (t *turns) take(pod policy.NamespacedName) (before <-chan struct{}, done func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	was, own := t.last[pod], make(chan struct{})
	if was == nil {
		was = make(chan struct{})
		close(was)
	}
	if t.last == nil {
		t.last = map[policy.NamespacedName]chan struct{}{}
	}
	t.last[pod] = own
	return was, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		close(own)
		if t.last[pod] == own {
			delete(t.last, pod)
		}
	}
}
