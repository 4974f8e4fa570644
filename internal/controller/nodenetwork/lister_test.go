package nodenetwork

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"terway.dev/terway/internal/cloud"
)

// slowLists is a cloud whose lists take long, as those of many pages do.
type slowLists struct {
	cloud.API
	takes     time.Duration
	all, byID atomic.Int64
}

func (s *slowLists) DescribeENIs(_ context.Context, f cloud.ENIFilter) ([]cloud.ENI, error) {
	if len(f.IDs) > 0 {
		s.byID.Add(1)
	} else {
		s.all.Add(1)
	}
	time.Sleep(s.takes)
	var out []cloud.ENI
	for _, id := range f.IDs {
		out = append(out, cloud.ENI{ID: id})
	}
	return out, nil
}

func newSlowLister(api cloud.API) *lister {
	return newLister(&Options{Cloud: api, Now: time.Now, Join: 50 * time.Millisecond, Settle: 10 * time.Second}, nil)
}

// A list of all ENIs that takes longer than it is usually used serves later callers too, not only
// those that came before it started.
func TestALongListServes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := &slowLists{takes: 20 * time.Second}
		l := newSlowLister(api)
		born := time.Now()
		get := func() time.Time {
			v, err := l.cluster(t.Context(), born)
			if err != nil {
				t.Fatal(err)
			}
			return v.at
		}
		first := get()
		time.Sleep(15 * time.Second)
		if at := get(); at != first || api.all.Load() != 1 {
			t.Errorf("15 s after the answer there were %d lists; want the one that is there", api.all.Load())
		}
		// A caller that has changed something since its start needs another.
		if v, err := l.cluster(t.Context(), first.Add(time.Second)); err != nil || v.at == first {
			t.Errorf("a list from before a change serves: %v", err)
		}
		time.Sleep(time.Minute)
		if get(); api.all.Load() != 3 {
			t.Errorf("%d lists, want a third when the second is old", api.all.Load())
		}
	})
}

// However many queries for ENIs come one after the other, few calls run at a time, and each takes
// the queries that came meanwhile.
func TestManyShareCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := &slowLists{takes: 300 * time.Millisecond}
		l := newSlowLister(api)
		var all sync.WaitGroup
		for i := range 500 {
			all.Go(func() {
				id := fmt.Sprintf("eni-%d", i)
				if v, err := l.ids(t.Context(), []string{id}); err != nil || v.enis[id].ID != id {
					t.Errorf("%s: %v", id, err)
				}
			})
			time.Sleep(10 * time.Millisecond)
		}
		all.Wait()
		if n := api.byID.Load(); n > 40 {
			t.Errorf("%d calls in five seconds, want at most two in 0.3 s", n)
		}
	})
}

// longLists is a cloud whose lists take long, and end with the caller's deadline.
type longLists struct {
	cloud.API
	takes time.Duration
}

func (s longLists) DescribeENIs(ctx context.Context, _ cloud.ENIFilter) ([]cloud.ENI, error) {
	select {
	case <-time.After(s.takes):
		return nil, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// A list's deadline begins when the list may begin, not when somebody asks for it.
func TestADeadlineBeginsWithTheList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newSlowLister(longLists{takes: describeTimeout - time.Minute})
		var all sync.WaitGroup
		for i := range 2 {
			all.Go(func() {
				if _, err := l.cluster(t.Context(), time.Now()); err != nil {
					t.Errorf("list %d: %v", i+1, err)
				}
			})
			time.Sleep(time.Second)
		}
		all.Wait()
	})
}

// stuckLists is a cloud that does not answer queries for some ENIs.
type stuckLists struct{ cloud.API }

func (stuckLists) DescribeENIs(ctx context.Context, f cloud.ENIFilter) ([]cloud.ENI, error) {
	if len(f.IDs) == 1 && f.IDs[0] != "eni-good" {
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}
	return []cloud.ENI{{ID: "eni-good"}}, nil
}

// However many calls hang, other callers are served.
func TestCallsThatHangHoldNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newSlowLister(stuckLists{})
		ctx, stop := context.WithCancel(t.Context())
		var stuck sync.WaitGroup
		hung := atomic.Int64{}
		for i := range 5 {
			stuck.Go(func() {
				if _, err := l.ids(ctx, []string{fmt.Sprintf("eni-%d", i)}); err != nil {
					hung.Add(1)
				}
			})
			time.Sleep(4 * time.Second) // each has a call of its own
		}
		short, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		v, err := l.ids(short, []string{"eni-good"})
		if err != nil || v.enis["eni-good"].ID == "" || hung.Load() != 0 {
			t.Errorf("a node with another ENI: %v; %d of the calls that hang have ended", err, hung.Load())
		}
		stop()
		stuck.Wait()
		time.Sleep(2 * describeTimeout) // the calls themselves end
	})
}
