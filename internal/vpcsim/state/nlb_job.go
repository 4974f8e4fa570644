package state

import (
	"slices"
	"strconv"
	"time"
)

// nlbJobLife is how long a job that has ended can be asked for. Clients wait for a job half a
// minute at most.
const nlbJobLife = 10 * time.Minute

// startNLBJob starts a job. The caller has checked that none runs on the resource.
func (s *State) startNLBJob(job NLBJob, d time.Duration) (jobId string) {
	now := s.now()
	for id, old := range s.data.NLBJobs {
		if old.Status != NLBJobProcessing && old.Ended.Add(nlbJobLife).Before(now) {
			delete(s.data.NLBJobs, id)
			s.touch(id)
		}
	}
	job.JobId, job.Status = s.newSerial(), NLBJobProcessing
	s.data.NLBJobs[job.JobId] = &job
	s.enqueue(operation{Kind: opNLBJob, ID: job.JobId, Due: now.Add(d), Held: s.data.StuckJobs})
	s.changed(job.JobId, job.ResourceId)
	return job.JobId
}

// nlbJobOn returns the job that runs on a resource.
func (s *State) nlbJobOn(id string) *NLBJob {
	for _, o := range s.data.Operations {
		if o.Kind == opNLBJob && s.data.NLBJobs[o.ID].ResourceId == id {
			return s.data.NLBJobs[o.ID]
		}
	}
	return nil
}

// finishNLBJob ends a job.
func (s *State) finishNLBJob(o operation) {
	job := s.data.NLBJobs[o.ID]
	end := job.Success
	job.Status, job.Ended = NLBJobSucceeded, o.Due
	if s.data.FailingJobs {
		end, job.Status = job.Failure, NLBJobFailed
	}
	s.touch(job.ResourceId)
	switch id := job.ResourceId; {
	case s.data.NLBLoadBalancers[id] != nil:
		s.endOfNLB(s.data.NLBLoadBalancers[id], end.LoadBalancer)
	case s.data.NLBListeners[id] != nil:
		s.endOfListener(s.data.NLBListeners[id], end.Listener)
	case end == nil:
		endOfServers(s.data.NLBServerGroups[id], job)
		s.forgetNLBVerdicts(id)
	default:
		s.endOfGroup(s.data.NLBServerGroups[id], end.ServerGroup)
	}
	job.Success, job.Failure, job.Servers = nil, nil, nil
}

// NLBGetJobStatus returns a job.
func (s *State) NLBGetJobStatus(jobId string) (*NLBJob, error) {
	if jobId == "" {
		return nil, nlbMissing("JobId")
	}
	job := s.data.NLBJobs[jobId]
	if job == nil {
		return nil, nlbNotFound("JobId", jobId)
	}
	return &NLBJob{JobId: job.JobId, Action: job.Action, Status: job.Status, ResourceId: job.ResourceId, Ended: job.Ended}, nil
}

// NLBListAsynJobs returns those of the given jobs that exist.
func (s *State) NLBListAsynJobs(req NLBJobsRequest) ([]NLBJob, error) {
	switch n := len(req.JobIds); {
	case n == 0:
		return nil, nlbMissing("JobIds")
	case n > maxNLBJobs:
		return nil, nlbIllegal("JobIds", n, "at most "+strconv.Itoa(maxNLBJobs)+" ids")
	}
	found := []NLBJob{}
	for _, id := range distinct(req.JobIds) {
		if job, err := s.NLBGetJobStatus(id); err == nil {
			found = append(found, *job)
		}
	}
	return found, nil
}

// maxNLBJobs is the maximum number of JobIds of ListAsynJobs.
const maxNLBJobs = 20

// SetStuckJobs keeps running and future jobs in Processing; false lets them finish at their
// time, or at once if it has passed.
func (s *State) SetStuckJobs(stuck bool) {
	s.data.StuckJobs = stuck
	for i := range s.data.Operations {
		if s.data.Operations[i].Kind == opNLBJob {
			s.data.Operations[i].Held = stuck
		}
	}
	s.changed()
}

// SetFailingJobs makes jobs fail.
func (s *State) SetFailingJobs(fail bool) {
	s.data.FailingJobs = fail
	s.changed()
}

// addSorted adds ids that are not in a list; withoutAll removes those that are.
func addSorted(list, more []string) []string { return distinct(slices.Concat(list, more)) }

func withoutAll(list, less []string) []string {
	var left []string
	for _, id := range list {
		if !slices.Contains(less, id) {
			left = append(left, id)
		}
	}
	return left
}
