package nodenetwork

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/datapath/claims"
)

// lister makes one DescribeNetworkInterfaces call of what many nodes query at nearly the same time:
// a hundred nodes that wait for an ENI, or that a new leader compares with the cloud, need one
// list, not a hundred.
type lister struct {
	api cloud.API
	now func() time.Time
	// window is how long a call waits for others to join.
	window time.Duration
	tags   map[string]string // of the cluster's ENIs
	// last is how long a list of all ENIs serves later callers; a list that took longer serves as
	// long as it took.
	last time.Duration

	mu    sync.Mutex
	byID  flights
	all   flights
	saved *view
	// alone is the number of queries for one node's ENIs in progress.
	alone int
}

// flights starts the calls of one kind.
type flights struct {
	// gate admits few calls at a time. A caller that comes while they run or wait for the rate
	// limit joins the next call, which becomes larger.
	gate chan struct{}
	next *flight // others may still join it
	// patience is how long a call keeps others from starting; 0: until it ends.
	patience time.Duration
}

func newLister(o *Options, tags map[string]string) *lister {
	return &lister{api: o.Cloud, now: o.Now, window: o.Join, tags: tags, last: o.Settle / 2,
		byID: flights{gate: make(chan struct{}, flightsByID), patience: overdue}, all: flights{gate: make(chan struct{}, 1)}}
}

// view is the cloud's answer to a query made at that time.
type view struct {
	at time.Time
	// until is how long it serves later callers; it counts from the answer, which may consist of
	// many pages.
	until time.Time
	enis  map[string]cloud.ENI // by id
	// nodes has them by the node in their tag, so that a new leader does not scan all ENIs for each
	// node.
	nodes map[string][]string
}

func newView(at time.Time, list []cloud.ENI) *view {
	v := &view{at: at, enis: make(map[string]cloud.ENI, len(list)), nodes: map[string][]string{}}
	for _, e := range list {
		if _, twice := v.enis[e.ID]; !twice {
			v.nodes[e.Tags[claims.TagNode]] = append(v.nodes[e.Tags[claims.TagNode]], e.ID)
		}
		v.enis[e.ID] = e
	}
	return v
}

// of returns the ENIs whose tag names a node.
func (v *view) of(node string) map[string]cloud.ENI {
	out := make(map[string]cloud.ENI, len(v.nodes[node]))
	for _, id := range v.nodes[node] {
		out[id] = v.enis[id]
	}
	return out
}

// flight is one call for many callers.
type flight struct {
	ids  map[string]bool
	done chan struct{}
	view *view
	err  error
}

// describeTimeout bounds a list of many pages, also when the first caller has gone. The client
// bounds a single page.
const describeTimeout = 10 * time.Minute

const (
	// flightsByID is how many calls by id run at a time: with 0.3 s for a call that is half of the
	// rate that DescribeNetworkInterfaces allows.
	flightsByID = 2
	// overdue is how long a call by id counts as one of them: one that hangs delays only its own
	// callers.
	overdue = 3 * time.Second
	// enisPerPage is how many ENIs a page of the list has (ECS API: DescribeNetworkInterfaces).
	enisPerPage = 500
	// aloneAtFirst is how many nodes are queried individually before the cluster's size is known.
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

// cluster returns all ENIs with the cluster's tag, as of since or later.
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

// fresh reports whether the last list of all ENIs can be used; l.mu is held.
func (l *lister) fresh(since time.Time) bool {
	return l.saved != nil && !l.saved.at.Before(since) && l.now().Before(l.saved.until)
}

// node returns the ENIs with a node's tag, as of since or later, and the time of the answer. A
// query for one node is one call. If more nodes are queried at a time than the list of all ENIs has
// pages, all are listed.
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
		return v.of(tags[claims.TagNode]), v.at, nil
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
	return newView(at, list).of(tags[claims.TagNode]), at, nil
}

// start returns the flight that may be joined, and starts one if there is none; l.mu is held. It
// has no caller's deadline or priority, because many wait for it.
func (l *lister) start(from *flights) *flight {
	if from.next == nil {
		f := &flight{ids: map[string]bool{}, done: make(chan struct{})}
		from.next = f
		time.AfterFunc(l.window, func() { l.fly(f, from) })
	}
	return from.next
}

func (l *lister) fly(f *flight, from *flights) {
	from.gate <- struct{}{}
	ctx, cancel := context.WithTimeout(context.Background(), describeTimeout) // without the wait for the flight before
	defer cancel()
	leave := sync.OnceFunc(func() { <-from.gate })
	defer leave()
	if from.patience > 0 {
		defer time.AfterFunc(from.patience, leave).Stop()
	}
	l.mu.Lock()
	from.next = nil // later callers need a later answer
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
