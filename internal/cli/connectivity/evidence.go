package connectivity

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/agent/policyapi"
	"terway.dev/terway/internal/cli/agents"
	"terway.dev/terway/internal/connectivity"
	"terway.dev/terway/internal/connectivity/probe"
	"terway.dev/terway/internal/policy"
)

// evidence asks what is known of probes that have failed.
func (r *run) evidence(ctx context.Context, probes []connectivity.Probe, outcomes map[int]connectivity.Outcome) (*connectivity.Evidence, error) {
	e := &connectivity.Evidence{Denials: map[int]connectivity.Denial{}, Arrived: map[int]bool{}, Reports: map[string][]string{}, MissingENIs: map[string]bool{}}
	var failed []connectivity.Probe
	for _, p := range probes {
		if o := outcomes[p.ID]; o.Result != connectivity.Answered && o.Result != connectivity.NotTried {
			failed = append(failed, p)
		}
	}
	if len(failed) == 0 {
		return e, nil
	}
	fmt.Fprintf(r.say, "%d failed: asking the agents\n", len(failed))
	objects, err := r.reader.Objects(ctx)
	if err != nil {
		return nil, err
	}
	for _, n := range objects.Status().Nodes {
		e.Reports[n.Node] = n.Problems
	}
	policed := map[string]bool{}
	for i := range objects.Networks {
		nn := &objects.Networks[i]
		for _, id := range nn.Status.MissingENIs {
			e.MissingENIs[id] = true
		}
		policed[nn.Name] = meta.FindStatusCondition(nn.Status.Conditions, v1alpha1.ConditionPolicyReady) != nil
	}
	r.denials(ctx, failed, policed, e)
	r.arrived(ctx, failed, outcomes, e)
	return e, ctx.Err()
}

// denials asks the agents of both ends what policies denied.
func (r *run) denials(ctx context.Context, failed []connectivity.Probe, policed map[string]bool, e *connectivity.Evidence) {
	of := map[string]bool{}
	for _, p := range failed {
		of[p.Node], of[p.TargetNode] = true, true
	}
	var nodes []string
	for n := range of {
		if policed[n] {
			nodes = append(nodes, n)
		}
	}
	slices.Sort(nodes)
	err := agents.All(ctx, r.fleet, agents.Within, nodes, policyapi.FlowsQuery{Denied: true}.Path(), func(node string, answer io.Reader) error {
		return policyapi.ReadFlows(answer, false, func(f policyapi.Flow) error {
			for _, p := range failed {
				if d, ok := r.denies(f, p); ok {
					d.Node = node
					e.Denials[p.ID] = d
				}
			}
			return nil
		})
	})
	if err != nil {
		r.lack("what policies denied: %v", err)
	}
}

// denies says whether a denied flow is that of a probe. The namespace is of this run alone, so a pod's name is enough; what a
// node sends is known by the pod that it is for.
func (r *run) denies(f policyapi.Flow, p connectivity.Probe) (d connectivity.Denial, ok bool) {
	if f.Verdict != policyapi.Denied || int(f.To.Port) != p.Port {
		return d, false
	}
	if len(p.Ends) > 0 && !slices.Contains(p.Ends, f.To.Address) {
		return d, false
	}
	for _, direction := range []policy.Direction{policy.Egress, policy.Ingress} {
		decision, decided := f.Decided(direction)
		if !decided || decision.Action != policy.Deny {
			continue
		}
		own, name := f.From.Pod, p.Pod
		if direction == policy.Ingress {
			own, name = f.To.Pod, p.Target
			if f.From.Address != p.From && f.From.Pod != r.namespace+"/"+p.Pod {
				continue
			}
		}
		if name != "" && own == r.namespace+"/"+name {
			return connectivity.Denial{By: by(decision), Direction: direction.String(), Pod: name}, true
		}
	}
	return d, false
}

// by names what decided.
func by(d policy.Decision) string {
	switch d.Reason {
	case policy.ByRule:
		return fmt.Sprintf("%s rule %d", d.Rule.Policy, d.Rule.Number)
	case policy.ByTier:
		return "the end of tier " + d.Tier
	}
	return "closed, as the node has no rules for the pod"
}

// arrived asks the other pods which datagrams of failed probes they have had.
func (r *run) arrived(ctx context.Context, failed []connectivity.Probe, outcomes map[int]connectivity.Outcome, e *connectivity.Evidence) {
	of, order := map[string][]int{}, []string{}
	for _, p := range failed {
		if p.Target == "" || p.Kind == connectivity.Service || outcomes[p.ID].Result == connectivity.Refused {
			continue // a Service is for TCP alone
		}
		if of[p.Target] == nil {
			order = append(order, p.Target)
		}
		of[p.Target] = append(of[p.Target], p.ID)
	}
	var mu sync.Mutex
	each(len(order), func(i int) {
		limited, cancel := context.WithTimeout(ctx, sending)
		defer cancel()
		var out bytes.Buffer
		var marks []string
		err := r.pods.Run(limited, r.namespace, order[i], container, []string{agents.Program, "probe", "seen"}, &out)
		if err == nil {
			err = json.Unmarshal(out.Bytes(), &marks)
		}
		if err != nil {
			return // it is not known, and the finding does not say it
		}
		mu.Lock()
		defer mu.Unlock()
		for _, id := range of[order[i]] {
			e.Arrived[id] = slices.Contains(marks, probe.Mark(r.namespace, id))
		}
	})
}
