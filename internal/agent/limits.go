package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/agent/journal"
	"terway.dev/terway/internal/agent/podapi"
	"terway.dev/terway/internal/agent/request"
	"terway.dev/terway/internal/bandwidth"
	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/object"
)

// limitsOf returns the limits of a new pod's bandwidth, nil if it has none, and its network priority. A pod
// with a wrong value, which was created while no webhook answered, gets no network.
func limitsOf(r *request.Request) (*bandwidth.Limits, bandwidth.Priority, error) {
	l, wrong := bandwidth.Of(r.Annotations)
	p, err := bandwidth.PriorityOf(r.Annotations)
	if err = errors.Join(wrong, err); err != nil {
		return nil, "", types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("pod %s/%s: %v", r.Namespace, r.Name, err), "")
	}
	if l == (bandwidth.Limits{}) {
		return nil, p, nil
	}
	return &l, p, nil
}

// limitsNow returns what the controller says of a pod's limits, or else what is known already: the
// pod's annotations when its sandbox was made, or what the controller has said before.
func (a *Agent) limitsNow(uid string, known *bandwidth.Limits) *bandwidth.Limits {
	a.mu.Lock()
	defer a.mu.Unlock()
	l, says := a.desired.Limits[uid]
	switch {
	case !says || uid == "", known == nil && l == (bandwidth.Limits{}):
		return known
	case known != nil && *known == l:
		return known
	}
	return &l
}

// limit records changed limits of running pods in the journal, unless a call works on the pod. The
// Sync that follows makes the kernel agree.
func (a *Agent) limit() error {
	a.mu.Lock()
	var list []*journal.Entry
	for _, e := range a.entries {
		if _, says := a.desired.Limits[e.UID]; says && e.State == journal.Ready {
			list = append(list, e)
		}
	}
	a.mu.Unlock()
	for _, e := range list {
		now := a.limitsNow(e.UID, e.Limits)
		if now == e.Limits {
			continue
		}
		if err := a.setLimits(e, now); err != nil {
			return err
		}
	}
	return nil
}

func (a *Agent) setLimits(e *journal.Entry, now *bandwidth.Limits) error {
	unlock, ok := a.keys.try(e.Key)
	if !ok {
		return nil
	}
	defer unlock()
	if a.lookup(e.Key) != e {
		return nil
	}
	changed := *e
	changed.Limits = now
	if err := a.Journal.Put(changed); err != nil {
		return fmt.Errorf("record the bandwidth limits of pod %s: %w", e.Pod(), err)
	}
	a.Log.Info("the bandwidth limits of a pod have changed", "pod", e.Pod(), "limits", *now)
	a.remember(&changed)
	return nil
}

// limitedPods returns the wired pods that have a limit, each once: a pod that is made anew may have two
// sandboxes for a moment.
func (a *Agent) limitedPods() (list []datapath.Pod) {
	a.mu.Lock()
	defer a.mu.Unlock()
	newest := map[string]*journal.Entry{}
	for _, e := range a.entries {
		if e.State != journal.Ready || e.Name == "" || e.Limits == nil || *e.Limits == (bandwidth.Limits{}) {
			continue
		}
		if other := newest[e.Pod()]; other == nil || e.Since.After(other.Since) {
			newest[e.Pod()] = e
		}
	}
	for _, e := range newest {
		list = append(list, PodOf(e))
	}
	return list
}

// queue is the limit of one direction of a pod.
type queue struct {
	pod     datapath.Pod
	fromPod bool
	// limit is in bits per second.
	limit uint64
	// counts is nil if they cannot be read.
	counts *object.Counts
}

// countersWithin bounds the reading of counters: pods' calls must not wait long for the kernel.
const countersWithin = 5 * time.Second

// queues reads the queues of pods with a bandwidth limit, those of a pod together; without such pods it reads nothing.
func (a *Agent) queues() (list []queue) {
	pods := a.limitedPods()
	if len(pods) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), countersWithin)
	defer cancel()
	counts, err := a.Datapath.Counts(ctx, pods)
	if err != nil {
		a.Log.Warn("read the counters of bandwidth limits", "error", err)
	}
	for i, pod := range pods {
		for _, q := range []queue{{pod: pod, limit: pod.Limits.Ingress}, {pod: pod, fromPod: true, limit: pod.Limits.Egress}} {
			if q.limit == 0 {
				continue
			}
			for _, c := range counts[i] {
				if c.FromPod == q.fromPod {
					q.counts = &c
				}
			}
			list = append(list, q)
		}
	}
	return list
}

// bandwidth answers podapi.PathBandwidth.
func (a *Agent) bandwidth() (b podapi.Bandwidth) {
	for _, q := range a.queues() {
		name := q.pod.Namespace + "/" + q.pod.Name
		if n := len(b.Pods); n == 0 || b.Pods[n-1].Pod != name {
			b.Pods = append(b.Pods, podapi.Pod{Pod: name})
		}
		if q.counts == nil {
			continue
		}
		p, of := &b.Pods[len(b.Pods)-1], &podapi.Queue{Limit: q.limit, Bytes: q.counts.Bytes, Dropped: q.counts.Drops}
		if q.fromPod {
			p.Egress = of
		} else {
			p.Ingress = of
		}
	}
	b.Uptime = a.Now().Sub(a.started)
	return b
}

// reportLimits returns the limits of an attachment for the report, nil if it has none.
func reportLimits(e *journal.Entry) *v1alpha1.PodLimits {
	if e == nil || e.UID == "" || e.Limits == nil || *e.Limits == (bandwidth.Limits{}) {
		return nil
	}
	return &v1alpha1.PodLimits{UID: e.UID, Ingress: int64(e.Limits.Ingress), Egress: int64(e.Limits.Egress)}
}

// reportPriorityLocked returns an attachment's network priority for the report.
func (a *Agent) reportPriorityLocked(e *journal.Entry) string {
	if a.desired.Node.ENIMbit == 0 || e == nil || e.Exclusive != nil || e.Priority == bandwidth.Burstable {
		return ""
	}
	return string(e.Priority)
}
