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

// leaving are pods that left, in that order.
type leaving struct {
	list []policy.NamespacedName
	is   map[policy.NamespacedName]bool
}

func (l *leaving) add(pod policy.NamespacedName) {
	if l.is[pod] {
		return
	}
	if l.is == nil {
		l.is = map[policy.NamespacedName]bool{}
	}
	l.is[pod] = true
	l.list = append(l.list, pod)
}

// drop is for a pod that has come again.
func (l *leaving) drop(pod policy.NamespacedName) { delete(l.is, pod) }

// take takes the first; false: there is none.
func (l *leaving) take() (policy.NamespacedName, bool) {
	for len(l.list) > 0 {
		pod := l.list[0]
		l.list = l.list[1:]
		if l.is[pod] {
			delete(l.is, pod)
			return pod, true
		}
	}
	return policy.NamespacedName{}, false
}
