package nodenetwork

import (
	"context"
	"time"

	"terway.dev/terway/internal/answers"
	"terway.dev/terway/internal/cloud"
)

// The state of an ECS instance that matters here (ECS API: DescribeInstances, Status).
const instanceStopped = "Stopped"

// away is what the cloud said of the instance of a node that has left.
type away struct {
	// answers counts those that were heard, next is when another one is wanted: only one to
	// a question of then or later is heard. looks are those since, in vain.
	answers, looks int
	next           time.Time
	// last is why the instance does not run by the last answer; "": it runs.
	last string
}

// sighting is the cloud's answer to the question for one instance.
type sighting struct {
	asked time.Time
	// away is why it does not run; "": it does.
	away string
}

// newSightings asks for the instances of nodes that have left: whoever deletes Nodes may
// delete a thousand, which are ten calls. What is known of running nodes' instances would
// not do: it may be old.
func newSightings(o *Options) *answers.Cache[string, sighting] {
	return answers.New(answers.Options[string, sighting]{
		Ask: func(ctx context.Context, ids []string) (map[string]sighting, error) {
			at := o.Now()
			list, err := o.Cloud.DescribeInstances(cloud.WithPriority(ctx, cloud.GiveBack), ids)
			if err != nil && (len(ids) > 1 || cloud.ClassOf(err) != cloud.NotFound) {
				o.Log.Warn("ask for the instances of nodes that are gone", "asked for", len(ids), "error", err)
				return nil, err
			}
			out := map[string]sighting{}
			for _, id := range ids {
				out[id] = sighting{at, "instance " + id + " does not exist"}
			}
			for _, in := range list {
				s := sighting{asked: at}
				if in.Status == instanceStopped {
					s.away = "instance " + in.ID + " is stopped"
				}
				out[in.ID] = s
			}
			return out, nil
		},
		Divide: ofOneInstance,
		Life:   o.Retry, Retry: askRetry, Timeout: askTimeout, Join: o.Join, Batch: instancesPerCall, Now: o.Now, Go: o.Go,
	})
}

// instanceAway says that the instance does not run, if two answers of the cloud in a row
// say so: a list may lack it once, or be older than its start. It is asked more rarely each
// time, and no worker waits for the answer.
func (w *work) instanceAway() string {
	id, m := w.nn.Spec.InstanceID, &w.mem.away
	if id == "" {
		return "no instance is known that has them"
	}
	if m.next.IsZero() {
		m.next = w.Now()
	}
	if wait := m.next.Sub(w.Now()); wait > 0 {
		w.again(wait)
		return ""
	}
	s, ok := w.sightings.Known(id)
	if !ok || s.asked.Before(m.next) {
		s, ok = w.sightings.Peek(id)
	}
	if !ok || s.asked.Before(m.next) {
		w.again(w.Poll << min(m.looks, 5))
		m.looks++
		return ""
	}
	if s.away != "" && m.last != "" {
		return s.away
	}
	wait := w.Retry << min(m.answers, 6)
	*m = away{answers: m.answers + 1, next: w.Now().Add(wait), last: s.away}
	w.again(wait)
	return ""
}
