package alibaba

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"terway.dev/terway/internal/cloud"
)

// How often unfinished jobs are asked for, how long a job may take, and how many one call asks for
// (NLB: ListAsynJobs, JobIds.N ≤ 20).
const (
	jobPoll    = 300 * time.Millisecond
	jobPatient = time.Minute
	jobsACall  = 20
)

// jobs waits for the jobs of NLB: one query for all that are not finished.
type jobs struct {
	mu      sync.Mutex
	waiting map[string]chan string // the status when it is final
	queries bool
	// refused is why the last query failed.
	refused error
}

// wait returns when a job has succeeded. A job that fails, or does not end, is an error.
func (j *jobs) wait(ctx context.Context, p nlb, action, id string) error {
	ended := make(chan string, 1)
	j.mu.Lock()
	if j.waiting == nil {
		j.waiting = map[string]chan string{}
	}
	j.waiting[id] = ended
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

// query asks for the jobs until none is waited for.
func (j *jobs) query(ctx context.Context, p nlb) {
	for {
		<-p.clock.After(jobPoll)
		j.mu.Lock()
		ids := slices.Sorted(maps.Keys(j.waiting))
		if j.queries = len(ids) > 0; !j.queries {
			j.mu.Unlock()
			return
		}
		j.mu.Unlock()
		for part := range slices.Chunk(ids, jobsACall) {
			o, err := p.do(ctx, "ListAsynJobs", params{}.numbered("JobIds", part))
			j.mu.Lock()
			j.refused = err
			for _, job := range o.list("Jobs") {
				ended := j.waiting[job.text("Id")]
				if status := job.text("Status"); ended != nil && (status == "Succeeded" || status == "Failed") {
					ended <- status
					delete(j.waiting, job.text("Id"))
				}
			}
			j.mu.Unlock()
		}
	}
}
