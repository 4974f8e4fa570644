package nodenetwork

import (
	"context"
	"time"

	"terway.dev/terway/internal/answers"
	"terway.dev/terway/internal/cloud"
)

// The state of an ECS instance that matters here (ECS API: DescribeInstances, Status).
const instanceStopped = "Stopped"

// away records the cloud's answers about the instance of a node that has left.
type away struct {
	// answers counts the answers, next is when another one is due: an answer counts only if its
	// query started then or later. looks counts the reconciles since that got none.
	answers, looks int
	next           time.Time
	// last is why the instance does not run according to the last answer; "" if it runs.
	last string
}

// instanceAnswer is the cloud's answer for one instance.
type instanceAnswer struct {
	asked time.Time
	// away is why it does not run; "" if it does.
	away string
}

// newInstanceAnswers queries the instances of nodes that have left. A thousand deleted Nodes need
// ten calls. The cache for running nodes' instances does not serve here: it may be old.
func newInstanceAnswers(o *Options) *answers.Cache[string, instanceAnswer] {
	return answers.New(answers.Options[string, instanceAnswer]{
		Ask: func(ctx context.Context, ids []string) (map[string]instanceAnswer, error) {
			at := o.Now()
			list, err := o.Cloud.DescribeInstances(cloud.WithPriority(ctx, cloud.GiveBack), ids)
			if err != nil && (len(ids) > 1 || cloud.ClassOf(err) != cloud.NotFound) {
				o.Log.Warn("describe the instances of nodes that are gone", "asked for", len(ids), "error", err)
				return nil, err
			}
			out := map[string]instanceAnswer{}
			for _, id := range ids {
				out[id] = instanceAnswer{at, "instance " + id + " does not exist"}
			}
			for _, in := range list {
				s := instanceAnswer{asked: at}
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

// instanceAway returns why the instance does not run, if two answers of the cloud in a row say so:
// one list may lack it, or be older than its start. It queries with growing pauses, and no worker
// waits for the answer.
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
	s, ok := w.instanceAnswers.Known(id)
	if !ok || s.asked.Before(m.next) {
		s, ok = w.instanceAnswers.Peek(id)
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
