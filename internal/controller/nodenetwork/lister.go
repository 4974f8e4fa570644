package nodenetwork

import (
	"context"
	"slices"
	"sync"
	"time"

	"terway.dev/terway/internal/cloud"
)

// lister makes one DescribeNetworkInterfaces call of what many nodes ask at
// nearly the same time: a hundred nodes that wait for an ENI, or that a new
// leader compares with the cloud, cost one list, not a hundred.
type lister struct {
	api cloud.API
	now func() time.Time
	// window is how long a call waits for others to join.
	window time.Duration
	tags   map[string]string // of the cluster's ENIs
	last   time.Duration     // how long a list of all ENIs serves those who come later

	mu    sync.Mutex
	byID  *flight
	all   *flight
	saved *view
}

// view is what the cloud said when it was asked at that time.
type view struct {
	at   time.Time
	enis map[string]cloud.ENI // by id
}

// flight is a call that others may still join.
type flight struct {
	ids  map[string]bool
	done chan struct{}
	view *view
	err  error
}

// describeTimeout bounds a call, whoever asked first and may have gone.
const describeTimeout = time.Minute

// ids returns those of the ENIs that exist.
func (l *lister) ids(ctx context.Context, ids []string) (*view, error) {
	l.mu.Lock()
	f := l.byID
	if f == nil {
		f = l.start(ctx, &l.byID)
	}
	for _, id := range ids {
		f.ids[id] = true
	}
	l.mu.Unlock()
	return f.wait(ctx)
}

// cluster returns all ENIs with the cluster's tag, as they were at since or later.
func (l *lister) cluster(ctx context.Context, since time.Time) (*view, error) {
	l.mu.Lock()
	if v := l.saved; v != nil && !v.at.Before(since) && l.now().Sub(v.at) < l.last {
		l.mu.Unlock()
		return v, nil
	}
	f := l.all
	if f == nil {
		f = l.start(ctx, &l.all)
	}
	l.mu.Unlock()
	return f.wait(ctx)
}

// start opens a flight in a slot; l.mu is held.
func (l *lister) start(ctx context.Context, slot **flight) *flight {
	f := &flight{ids: map[string]bool{}, done: make(chan struct{})}
	*slot = f
	ctx = context.WithoutCancel(ctx)
	time.AfterFunc(l.window, func() { l.fly(ctx, f, slot) })
	return f
}

func (l *lister) fly(ctx context.Context, f *flight, slot **flight) {
	ctx, cancel := context.WithTimeout(ctx, describeTimeout)
	defer cancel()
	l.mu.Lock()
	*slot = nil // who comes now needs a later answer
	filter := cloud.ENIFilter{Tags: l.tags}
	if slot == &l.byID {
		filter = cloud.ENIFilter{}
		for id := range f.ids {
			filter.IDs = append(filter.IDs, id)
		}
		slices.Sort(filter.IDs)
	}
	at := l.now()
	l.mu.Unlock()
	list, err := l.api.DescribeENIs(ctx, filter)
	f.err = err
	f.view = &view{at: at, enis: make(map[string]cloud.ENI, len(list))}
	for _, e := range list {
		f.view.enis[e.ID] = e
	}
	if err == nil && slot == &l.all {
		l.mu.Lock()
		l.saved = f.view
		l.mu.Unlock()
	}
	close(f.done)
}

func (f *flight) wait(ctx context.Context) (*view, error) {
	select {
	case <-f.done:
		return f.view, f.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
