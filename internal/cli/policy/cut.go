package policy

import (
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"terway.dev/terway/internal/agent/policyapi"
	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/translate"
)

// cutFlows are flows of the last hour that are allowed, and would not be.
type cutFlows struct {
	Flows []cutFlow `json:"flows"`
}

type cutFlow struct {
	policyapi.Flow
	// By is what would deny it.
	By string `json:"by"`
}

// cutFlows asks all agents, and judges their flows by both sets of policies.
func (s *source) cutFlows(cmd *cobra.Command, before, after translate.Objects) (*cutFlows, error) {
	ctx := cmd.Context()
	nodes, err := s.online.agents.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	var flows []policyapi.Flow
	if err := s.online.flows(ctx, nodes, policyapi.FlowsQuery{}, func(f policyapi.Flow) { flows = append(flows, f) }); err != nil {
		return nil, err // what is not known may be cut
	}
	var sets [2]tables
	var cluster policy.Cluster
	for i, o := range []translate.Objects{after, before} {
		cluster, _ = translate.Cluster(o) // compare has told the notes
		set, _ := translate.Policies(o, s.options)
		if sets[i], err = compiled(set, cluster); err != nil {
			return nil, err
		}
	}
	j := judgement{after: sets[0], before: sets[1], pods: map[string]*policy.Pod{}, at: map[netip.Addr]*policy.Pod{}}
	for _, p := range cluster.Pods {
		if p.HostNetwork || p.Ended {
			continue
		}
		j.pods[p.String()] = p
		for _, a := range p.Addresses {
			j.at[a] = p
		}
	}
	slices.SortStableFunc(flows, func(a, b policyapi.Flow) int { return a.Last.Compare(b.Last) })
	out := &cutFlows{Flows: []cutFlow{}}
	seen := map[string]int{}
	for _, f := range flows {
		if f.Verdict != policyapi.Allowed {
			continue
		}
		by, err := j.cuts(&f)
		if err != nil {
			return nil, err
		}
		if by == "" {
			continue
		}
		// Two nodes may have seen it.
		key := strings.Join([]string{endName(f.From), endName(f.To), trafficName(f), by}, " ")
		if i, ok := seen[key]; ok {
			f.Count = max(f.Count, out.Flows[i].Count)
			out.Flows[i] = cutFlow{f, by}
			continue
		}
		seen[key] = len(out.Flows)
		out.Flows = append(out.Flows, cutFlow{f, by})
	}
	if j.gone > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "ignored: %d flows of pods that are gone\n", j.gone)
	}
	return out, nil
}

// A judgement judges flows.
type judgement struct {
	before, after tables
	pods          map[string]*policy.Pod
	at            map[netip.Addr]*policy.Pod
	gone          int // flows of pods that are not there
}

// pod is the one at an end of a flow, nil if there is none; gone: it is not there any more.
func (j *judgement) pod(e *policyapi.End) (p *policy.Pod, gone bool) {
	a, err := netip.ParseAddr(e.Address)
	if err != nil {
		return nil, false
	}
	p = j.at[a]
	switch {
	case e.Pod == "" && p != nil:
		e.Pod = p.String() // its own node did not tell it
	case e.Pod != "" && (p == nil || p.String() != e.Pod):
		return nil, true
	}
	return p, false
}

// cuts returns what would deny a flow that is allowed by the policies that are there; "" if nothing does.
func (j *judgement) cuts(f *policyapi.Flow) (by string, err error) {
	from, fromGone := j.pod(&f.From)
	to, toGone := j.pod(&f.To)
	if fromGone || toGone {
		j.gone++
		return "", nil
	}
	for _, side := range []struct {
		d  policy.Direction
		at *policy.Pod
	}{{policy.Egress, from}, {policy.Ingress, to}} {
		if side.at == nil || from == to {
			continue
		}
		c, err := f.Connection(side.at.NamespacedName, side.d)
		if err != nil {
			return "", err
		}
		if j.before.decide(side.at.Node, c).Action != policy.Allow {
			return "", nil // it is cut already
		}
		if d := j.after.decide(side.at.Node, c); d.Action != policy.Allow && by == "" {
			by = fmt.Sprintf("%s: %s", side.d, because(d))
		}
	}
	return by, nil
}

// print prints them; nothing if nobody has asked for them.
func (c *cutFlows) print(w io.Writer) error {
	if c == nil {
		return nil
	}
	if len(c.Flows) == 0 {
		_, err := fmt.Fprintln(w, "\nno flow of the last hour would be cut")
		return err
	}
	fmt.Fprint(w, "\nflows of the last hour that would be cut:\n")
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "LAST\tFROM\tTO\tTRAFFIC\tCOUNT\tBY")
	for _, f := range c.Flows {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%s\n", f.Last.Local().Format(time.TimeOnly), endName(f.From), endName(f.To), trafficName(f.Flow), f.Count, f.By)
	}
	return t.Flush()
}
