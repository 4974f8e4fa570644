package agent

import (
	"context"
	"sync"

	"terway.dev/terway/internal/agent/journal"
)

// keyLocks serialises the calls for one attachment; calls for others run concurrently.
type keyLocks struct {
	mu   sync.Mutex
	held map[journal.Key]chan struct{} // closed when the lock is released
}

// lock waits until no other call holds k.
func (l *keyLocks) lock(ctx context.Context, k journal.Key) (unlock func(), err error) {
	for {
		unlock, busy := l.take(k)
		if busy == nil {
			return unlock, nil
		}
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// try locks k if no other call holds it.
func (l *keyLocks) try(k journal.Key) (unlock func(), ok bool) {
	unlock, busy := l.take(k)
	return unlock, busy == nil
}

func (l *keyLocks) take(k journal.Key) (unlock func(), busy <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c, ok := l.held[k]; ok {
		return nil, c
	}
	if l.held == nil {
		l.held = map[journal.Key]chan struct{}{}
	}
	c := make(chan struct{})
	l.held[k] = c
	return func() {
		l.mu.Lock()
		delete(l.held, k)
		l.mu.Unlock()
		close(c)
	}, nil
}
