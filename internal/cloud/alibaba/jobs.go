package alibaba

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"terway.dev/terway/internal/cloud"
)

// How often unfinished jobs are asked for, in one call, how long a job may take, and how many one call asks for
// (NLB: ListAsynJobs, JobIds.N ≤ 20).
const (
	jobPoll    = 500 * time.Millisecond
	jobPatient = time.Minute
	jobsACall  = 20
)

// jobs waits for the jobs of NLB: one query at a time, however many are not finished.
type jobs struct {
	mu      sync.Mutex
	waiting map[string]*job
	queries bool
	// asked counts the queries.
	asked int
	// refused is why the last query failed.
	refused error
}

// job is a job that is waited for.
type job struct {
	ended chan string // the status when it is final
	// asked is the number of the last query that had it.
	asked int
}

// wait returns when a job has succeeded. A job that fails, or does not end, is an error.
func (j *jobs) wait(ctx context.Context, p nlb, action, id string) error {
	ended := make(chan string, 1)
	j.mu.Lock()
	if j.waiting == nil {
		j.waiting = map[string]*job{}
	}
	j.waiting[id] = &job{ended: ended}
	if !j.queries {
		j.queries = true
		go j.query(context.WithoutCancel(ctx), p)
	}
	j.mu.Unlock()
	defer func() {
		j.mu.Lock()
		defer j.mu.Unlock()
		delete(j.waiting, id)
	}()
	late := p.clock.NewTimer(jobPatient)
	defer late.Stop()
	fail := func(why string, err error) error {
		return &cloud.Error{Action: p.service + ":" + action, Class: cloud.Transient, Message: fmt.Sprintf("job %s %s", id, why), Err: err}
	}
	select {
	case status := <-ended:
		if status != "Succeeded" {
			return fail("ended as "+status, nil)
		}
		return nil
	case <-late.C():
		j.mu.Lock()
		defer j.mu.Unlock()
		return fail(fmt.Sprintf("has not ended after %s", jobPatient), j.refused)
	case <-ctx.Done():
		return fail("was not waited for", ctx.Err())
	}
}

// query asks for the jobs until none is waited for. If they are too many for one call, those come first that were
// not asked for longest.
func (j *jobs) query(ctx context.Context, p nlb) {
	for {
		<-p.clock.After(jobPoll)
		j.mu.Lock()
		ids := slices.SortedFunc(maps.Keys(j.waiting), func(a, b string) int {
			return cmp.Or(cmp.Compare(j.waiting[a].asked, j.waiting[b].asked), strings.Compare(a, b))
		})
		if j.queries = len(ids) > 0; !j.queries {
			j.mu.Unlock()
			return
		}
		ids = ids[:min(len(ids), jobsACall)]
		j.asked++
		for _, id := range ids {
			j.waiting[id].asked = j.asked
		}
		j.mu.Unlock()
		o, err := p.do(ctx, "ListAsynJobs", params{}.numbered("JobIds", ids))
		j.mu.Lock()
		j.refused = err
		for _, is := range o.list("Jobs") {
			waits := j.waiting[is.text("Id")]
			if status := is.text("Status"); waits != nil && (status == "Succeeded" || status == "Failed") {
				waits.ended <- status
				delete(j.waiting, is.text("Id"))
			}
		}
		j.mu.Unlock()
	}
}
