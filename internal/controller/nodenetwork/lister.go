package nodenetwork

import (
	"context"
	"fmt"
	"maps"
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
	// last is how long a list of all ENIs serves those who come later; one that took longer
	// serves as long as it took.
	last time.Duration

	mu    sync.Mutex
	byID  runway
	all   runway
	saved *view
	// alone is how many nodes' ENIs are being asked for node by node.
	alone int
}

// runway is where calls of one kind start.
type runway struct {
	// gate is open for few calls at a time: who comes while they are under way or wait for
	// the rate limit joins the next, which is the larger for it.
	gate chan struct{}
	next *flight // others may still join it
	// patience is how long a call keeps others from starting; 0: until it ends.
	patience time.Duration
}

func newLister(o *Options, tags map[string]string) *lister {
	return &lister{api: o.Cloud, now: o.Now, window: o.Join, tags: tags, last: o.Settle / 2,
		byID: runway{gate: make(chan struct{}, flightsByID), patience: overdue}, all: runway{gate: make(chan struct{}, 1)}}
}

// view is what the cloud said when it was asked at that time.
type view struct {
	at time.Time
	// until is how long it serves who comes later; it counts from the answer, which may
	// have been many pages in coming.
	until time.Time
	enis  map[string]cloud.ENI // by id
	// nodes has them by the node that their tag names, so that a new leader does not walk
	// all ENIs for each node.
	nodes map[string][]string
}

func newView(at time.Time, list []cloud.ENI) *view {
	v := &view{at: at, enis: make(map[string]cloud.ENI, len(list)), nodes: map[string][]string{}}
	for _, e := range list {
		if _, twice := v.enis[e.ID]; !twice {
			v.nodes[e.Tags[TagNode]] = append(v.nodes[e.Tags[TagNode]], e.ID)
		}
		v.enis[e.ID] = e
	}
	return v
}

// of returns the ENIs whose tag names a node so.
func (v *view) of(node string) map[string]cloud.ENI {
	out := make(map[string]cloud.ENI, len(v.nodes[node]))
	for _, id := range v.nodes[node] {
		out[id] = v.enis[id]
	}
	return out
}

// flight is one call for many.
type flight struct {
	ids  map[string]bool
	done chan struct{}
	view *view
	err  error
}

// describeTimeout bounds a list of many pages, whoever asked first and may have gone. How
// long one page may take is the client's affair.
const describeTimeout = 10 * time.Minute

const (
	// flightsByID is how many calls by id are made at a time: with calls of 0.3 s that is half
	// of what DescribeNetworkInterfaces allows.
	flightsByID = 2
	// overdue is how long a call by id counts as one of them: one that hangs holds nobody but
	// those who joined it.
	overdue = 3 * time.Second
	// enisPerPage is how many ENIs a page of the list has (ECS API: DescribeNetworkInterfaces).
	enisPerPage = 500
	// aloneAtFirst is how many nodes are asked for one by one before the cluster's size is known.
	aloneAtFirst = 20
)

// ids returns those of the ENIs that exist.
func (l *lister) ids(ctx context.Context, ids []string) (*view, error) {
	l.mu.Lock()
	f := l.start(&l.byID)
	for _, id := range ids {
		f.ids[id] = true
	}
	l.mu.Unlock()
	return f.wait(ctx)
}

// cluster returns all ENIs with the cluster's tag, as they were at since or later.
func (l *lister) cluster(ctx context.Context, since time.Time) (*view, error) {
	l.mu.Lock()
	if l.fresh(since) {
		defer l.mu.Unlock()
		return l.saved, nil
	}
	f := l.start(&l.all)
	l.mu.Unlock()
	return f.wait(ctx)
}

// fresh reports whether the last list of all serves; l.mu is held.
func (l *lister) fresh(since time.Time) bool {
	return l.saved != nil && !l.saved.at.Before(since) && l.now().Before(l.saved.until)
}

// node returns the ENIs with a node's tag, as they were at since or later, and when that
// was. Doubt about one node costs one call; only where more nodes are asked for at a time
// than the list of all has pages is it all that are listed.
func (l *lister) node(ctx context.Context, tags map[string]string, since time.Time, first bool) (map[string]cloud.ENI, time.Time, error) {
	l.mu.Lock()
	most := aloneAtFirst
	if l.saved != nil {
		most = len(l.saved.enis)/enisPerPage + 1
	}
	if first || l.fresh(since) || l.alone >= most {
		l.mu.Unlock()
		v, err := l.cluster(ctx, since)
		if err != nil {
			return nil, time.Time{}, fmt.Errorf("list the cluster's ENIs: %w", err)
		}
		return v.of(tags[TagNode]), v.at, nil
	}
	l.alone++
	at := l.now()
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		l.alone--
		l.mu.Unlock()
	}()
	list, err := l.api.DescribeENIs(ctx, cloud.ENIFilter{Tags: tags})
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("list the node's ENIs: %w", err)
	}
	return newView(at, list).of(tags[TagNode]), at, nil
}

// start returns the flight that may be joined, and opens it if there is none; l.mu is held.
// Many wait for it: it has nobody's deadline or priority.
func (l *lister) start(from *runway) *flight {
	if from.next == nil {
		f := &flight{ids: map[string]bool{}, done: make(chan struct{})}
		from.next = f
		time.AfterFunc(l.window, func() { l.fly(f, from) })
	}
	return from.next
}

func (l *lister) fly(f *flight, from *runway) {
	ctx, cancel := context.WithTimeout(context.Background(), describeTimeout)
	defer cancel()
	from.gate <- struct{}{}
	leave := sync.OnceFunc(func() { <-from.gate })
	defer leave()
	if from.patience > 0 {
		defer time.AfterFunc(from.patience, leave).Stop()
	}
	l.mu.Lock()
	from.next = nil // who comes now needs a later answer
	filter := cloud.ENIFilter{Tags: l.tags}
	if from == &l.byID {
		filter = cloud.ENIFilter{IDs: slices.Sorted(maps.Keys(f.ids))}
	}
	at := l.now()
	l.mu.Unlock()
	list, err := l.api.DescribeENIs(ctx, filter)
	answered := l.now()
	f.err = err
	f.view = newView(at, list)
	f.view.until = answered.Add(max(l.last, answered.Sub(at)))
	if err == nil && from == &l.all {
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
