package nodenetwork

import (
	"context"
	"fmt"
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

	// gate is open for some calls at a time: who comes while they wait for the rate limit
	// joins the next, which is the larger for it.
	gate chan struct{}

	mu    sync.Mutex
	byID  *flight
	all   *flight
	saved *view
	// alone is how many nodes' ENIs are being asked for node by node.
	alone int
}

// view is what the cloud said when it was asked at that time.
type view struct {
	at   time.Time
	enis map[string]cloud.ENI // by id
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

// of returns the ENIs with a node's tag.
func (v *view) of(node string) map[string]cloud.ENI {
	out := make(map[string]cloud.ENI, len(v.nodes[node]))
	for _, id := range v.nodes[node] {
		out[id] = v.enis[id]
	}
	return out
}

// flight is a call that others may still join.
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
	// flights is how many calls are made at a time.
	flights = 4
	// enisPerPage is how many ENIs a page of the list has (ECS API: DescribeNetworkInterfaces).
	enisPerPage = 500
	// aloneAtFirst is how many nodes are asked for one by one before the cluster's size is known.
	aloneAtFirst = 20
)

// ids returns those of the ENIs that exist.
func (l *lister) ids(ctx context.Context, ids []string) (*view, error) {
	l.mu.Lock()
	f := l.byID
	if f == nil {
		f = l.start(&l.byID)
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
		f = l.start(&l.all)
	}
	l.mu.Unlock()
	return f.wait(ctx)
}

// node returns the ENIs with a node's tag, as they were at since or later, and when that
// was. Doubt about one node costs one call; only where more nodes are asked for at a time
// than the list of all has pages is it all that are listed.
func (l *lister) node(ctx context.Context, name string, tags map[string]string, since time.Time, first bool) (map[string]cloud.ENI, time.Time, error) {
	l.mu.Lock()
	most := aloneAtFirst
	if l.saved != nil {
		most = len(l.saved.enis)/enisPerPage + 1
	}
	fresh := l.saved != nil && !l.saved.at.Before(since) && l.now().Sub(l.saved.at) < l.last
	if first || fresh || l.alone >= most {
		l.mu.Unlock()
		v, err := l.cluster(ctx, since)
		if err != nil {
			return nil, time.Time{}, fmt.Errorf("list the cluster's ENIs: %w", err)
		}
		return v.of(name), v.at, nil
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
	return newView(at, list).of(name), at, nil
}

// start opens a flight in a slot; l.mu is held. Many wait for it: it has nobody's
// deadline or priority.
func (l *lister) start(slot **flight) *flight {
	f := &flight{ids: map[string]bool{}, done: make(chan struct{})}
	*slot = f
	time.AfterFunc(l.window, func() { l.fly(f, slot) })
	return f
}

func (l *lister) fly(f *flight, slot **flight) {
	ctx, cancel := context.WithTimeout(context.Background(), describeTimeout)
	defer cancel()
	l.gate <- struct{}{}
	defer func() { <-l.gate }()
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
	f.view = newView(at, list)
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
