package status

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
	"time"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/agent/podapi"
	"terway.dev/terway/internal/bandwidth"
	"terway.dev/terway/internal/cli/agents"
)

// LimitedPod is a pod with a bandwidth limit or a network priority, as its node enforces it.
type LimitedPod struct {
	// Pod is "namespace/name".
	Pod  string `json:"pod"`
	Node string `json:"node"`
	// Ingress and Egress are nil without a limit.
	Ingress *Direction `json:"ingress,omitempty"`
	Egress  *Direction `json:"egress,omitempty"`
	// Priority is empty if it is the usual one, or has no effect.
	Priority string `json:"priority,omitempty"`
}

// Direction is a limit, in bits per second, and what happened at it.
type Direction struct {
	Limit uint64 `json:"limit"`
	// Rate is in bits per second, with Ethernet headers; nil if it is not known. Dropped is the number of
	// packets that were dropped in the same time.
	Rate    *uint64 `json:"rate,omitempty"`
	Dropped *uint64 `json:"dropped,omitempty"`
}

// span is the time of which rates are told.
const span = 10 * time.Second

// limitedPods returns the pods with a limit or a priority, in order.
func limitedPods(networks []v1alpha1.NodeNetwork) []LimitedPod {
	list := []LimitedPod{}
	for _, n := range networks {
		of := map[string]v1alpha1.UsedAddress{} // a pod with two addresses is there twice
		for _, u := range n.Status.Used {
			if (u.Limits != nil || u.Priority != "") && u.Pod != "" {
				of[u.Pod] = u
			}
		}
		for pod, u := range of {
			p, l := LimitedPod{Pod: pod, Node: n.Name, Priority: u.Priority}, cmp.Or(u.Limits, &v1alpha1.PodLimits{})
			for into, limit := range map[**Direction]int64{&p.Ingress: l.Ingress, &p.Egress: l.Egress} {
				if limit > 0 {
					*into = &Direction{Limit: uint64(limit)}
				}
			}
			list = append(list, p)
		}
	}
	slices.SortFunc(list, func(a, b LimitedPod) int { return cmp.Or(cmp.Compare(a.Pod, b.Pod), cmp.Compare(a.Node, b.Node)) })
	return list
}

// measure fills in the rates: it asks the agents that have limited pods what queues have counted, and again after a
// time. The errors are of single nodes.
func measure(ctx context.Context, f agents.Fleet, list []LimitedPod, during time.Duration) error {
	nodes := map[string]bool{}
	for _, p := range list {
		if p.Ingress != nil || p.Egress != nil {
			nodes[p.Node] = true
		}
	}
	if len(nodes) == 0 {
		return nil
	}
	first, err := counters(ctx, f, slices.Sorted(maps.Keys(nodes)))
	if len(first) == 0 {
		return err
	}
	select {
	case <-time.After(during):
	case <-ctx.Done():
		return ctx.Err()
	}
	last, again := counters(ctx, f, slices.Sorted(maps.Keys(first)))
	for _, p := range list {
		took := last[p.Node].uptime - first[p.Node].uptime
		if _, known := first[p.Node]; !known || took <= 0 { // the agent was restarted
			continue
		}
		before, after := first[p.Node].pods[p.Pod], last[p.Node].pods[p.Pod]
		p.Ingress.between(before.Ingress, after.Ingress, took)
		p.Egress.between(before.Egress, after.Egress, took)
	}
	return errors.Join(err, again)
}

// counted is what an agent has counted.
type counted struct {
	uptime time.Duration
	pods   map[string]podapi.Pod
}

func counters(ctx context.Context, f agents.Fleet, nodes []string) (map[string]counted, error) {
	of := map[string]counted{}
	err := agents.All(ctx, f, agents.Within, nodes, podapi.PathBandwidth, func(node string, answer io.Reader) error {
		b, err := podapi.ReadBandwidth(answer)
		if err != nil {
			return err
		}
		c := counted{b.Uptime, map[string]podapi.Pod{}}
		for _, p := range b.Pods {
			c.pods[p.Pod] = p
		}
		of[node] = c
		return nil
	})
	return of, err
}

// between sets the rate between two readings, unless the queue was made anew.
func (d *Direction) between(before, after *podapi.Queue, took time.Duration) {
	if d == nil || before == nil || after == nil || after.Bytes < before.Bytes || after.Dropped < before.Dropped {
		return
	}
	d.Limit = after.Limit
	rate, dropped := uint64(float64(after.Bytes-before.Bytes)*8/took.Seconds()), after.Dropped-before.Dropped
	d.Rate, d.Dropped = &rate, &dropped
}

// String formats it for people.
func (d *Direction) String() string {
	switch {
	case d == nil:
		return "-"
	case d.Rate == nil:
		return "? of " + bandwidth.Rate(d.Limit)
	case *d.Dropped == 0:
		return bandwidth.Rate(*d.Rate) + " of " + bandwidth.Rate(d.Limit)
	}
	return fmt.Sprintf("%s of %s, %d packets dropped", bandwidth.Rate(*d.Rate), bandwidth.Rate(d.Limit), *d.Dropped)
}

// writePods prints a row for each pod of limitedPods.
func writePods(w io.Writer, list []LimitedPod) error {
	if len(list) == 0 {
		_, err := fmt.Fprintln(w, "\nno pod has a bandwidth limit or a network priority")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "\nPOD\tNODE\tINGRESS\tEGRESS\tPRIORITY")
	for _, p := range list {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", p.Pod, p.Node, p.Ingress, p.Egress, cmp.Or(p.Priority, "-"))
	}
	return t.Flush()
}
