package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"

	"terway.dev/terway/internal/agent/policyapi"
	"terway.dev/terway/internal/cli/program"
	"terway.dev/terway/internal/pages"
	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/translate"
)

func flowsCommand(d dial) *cobra.Command {
	a := asking{dial: d}
	var q policyapi.FlowsQuery
	var pod string
	cmd := &cobra.Command{
		Use:   "flows [--denied] [--pod NAMESPACE/NAME] [-f]",
		Short: "Show the connections of the last hour, and the rules that allowed or denied them",
		Long: `Asks the agents of all nodes which connections were judged in the last hour, and prints them,
the oldest first. A line is all connections between two ends with one protocol, port and
verdict by the same rules on one node; COUNT says how many, the time is that of the last one.
Of what is denied, and of ICMP other than echo, COUNT is packets.

A connection between pods of two nodes has a line of each: of egress at one, of ingress at the
other. "cut" is one that ran, and that other rules have denied since.

With -f it goes on with each connection that begins. -o json prints an object in each line,
-o yaml a document for each.

Nodes tell so many in a second, and keep so many flows (metric terway_policy_flow_losses_total):
this is for looking at, not for accounting.

` + needsAgents + ` For names it needs to list nodes, too.`,
		Example: `  terwayctl policy flows --denied
  terwayctl policy flows --pod shop/web -f
  terwayctl policy flows --denied -o json | jq -r .from.pod`,
		Args: program.Args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			if pod != "" {
				var err error
				if q.Pod, err = parsePod(pod); err != nil {
					return err
				}
			}
			o, nodes, err := a.reach(ctx)
			if err != nil {
				return err
			}
			who := &names{online: o}
			if err := who.read(ctx); err != nil {
				return err
			}
			if pod != "" {
				p := who.pods[q.Pod]
				if p == nil {
					fmt.Fprintf(cmd.ErrOrStderr(), "--pod %s: there is no such pod now; flows are found in which its node knew it\n", pod)
				} else {
					q.Addresses = p.Addresses
				}
			}
			p := &flowPrinter{w: cmd.OutOrStdout(), output: &a.output}
			if !q.Follow {
				var flows []policyapi.Flow
				asked := o.flows(ctx, nodes, q, func(f policyapi.Flow) { flows = append(flows, f) })
				for i := range flows {
					who.fill(&flows[i])
				}
				slices.SortStableFunc(flows, func(a, b policyapi.Flow) int { return a.Last.Compare(b.Last) })
				return errors.Join(p.table(flows), asked)
			}
			return o.follow(ctx, nodes, q, func(f policyapi.Flow) error {
				if who.fill(&f) && time.Since(who.at) > refresh {
					if err := who.read(ctx); err != nil {
						return err
					}
					who.fill(&f)
				}
				return p.line(f)
			})
		},
	}
	a.flags(cmd)
	f := cmd.Flags()
	f.BoolVar(&q.Denied, "denied", false, "only what was denied")
	f.StringVar(&pod, "pod", "", "only from and to this `POD`: NAMESPACE/NAME")
	f.BoolVarP(&q.Follow, "follow", "f", false, "go on with each connection that begins")
	return cmd
}

// refresh is how often names are read again while flows are followed, if there is one that is not known.
const refresh = 10 * time.Second

// flows gives the flows of nodes to take, one at a time.
func (o *online) flows(ctx context.Context, nodes []string, q policyapi.FlowsQuery, take func(policyapi.Flow)) error {
	return o.askAll(ctx, nodes, q.Path(), func(node string, answer io.Reader) error {
		return policyapi.ReadFlows(answer, false, func(f policyapi.Flow) error {
			f.Node = node
			take(f)
			return nil
		})
	})
}

// follow gives flows to take as they come, one at a time, until the context is done, all agents have gone, or take fails.
func (o *online) follow(user context.Context, nodes []string, q policyapi.FlowsQuery, take func(policyapi.Flow) error) error {
	ctx, cancel := context.WithCancel(user)
	defer cancel()
	errs := make([]error, len(nodes))
	var mu sync.Mutex
	var all sync.WaitGroup
	for i, node := range nodes {
		all.Go(func() {
			r, w := io.Pipe()
			asked := make(chan error, 1)
			go func() {
				err := o.agents.Ask(ctx, node, q.Path(), w)
				_ = w.CloseWithError(err) // it is always nil
				asked <- err
			}()
			err := policyapi.ReadFlows(r, true, func(f policyapi.Flow) error {
				f.Node = node
				mu.Lock()
				defer mu.Unlock()
				return take(f)
			})
			if err != nil {
				cancel()
				err = fmt.Errorf("node %s: %w", node, err)
			}
			_ = r.Close() // it is always nil; it ends the asking
			if why := <-asked; err == nil {
				err = why
			}
			errs[i] = err
		})
	}
	all.Wait()
	if user.Err() != nil {
		return nil // the user has seen enough
	}
	return errors.Join(errs...)
}

// names are who has which address.
type names struct {
	online *online
	at     time.Time
	pods   map[policy.NamespacedName]*policy.Pod
	// by are the pods and nodes with an address, and since when they are there.
	by map[string]named
}

type named struct {
	pod   bool
	name  string
	since time.Time
}

func (n *names) read(ctx context.Context) error {
	n.pods, n.by = map[policy.NamespacedName]*policy.Pod{}, map[string]named{}
	for page, err := range pages.Of(ctx, n.online.client, &corev1.NodeList{}) {
		if err != nil {
			return explain(n.online.host, "list nodes", err)
		}
		for i := range page.Items {
			for _, a := range translate.Node(&page.Items[i]).Addresses {
				n.by[a.String()] = named{false, "node " + page.Items[i].Name, page.Items[i].CreationTimestamp.Time}
			}
		}
	}
	for page, err := range pages.Of(ctx, n.online.client, &corev1.PodList{}) {
		if err != nil {
			return explain(n.online.host, "list pods", err)
		}
		for i := range page.Items {
			p := translate.Pod(&page.Items[i])
			if p.HostNetwork || p.Ended {
				continue
			}
			n.pods[p.NamespacedName] = p
			since := page.Items[i].CreationTimestamp.Time
			for _, a := range p.Addresses {
				if was, ok := n.by[a.String()]; !ok || was.since.Before(since) {
					n.by[a.String()] = named{true, p.String(), since}
				}
			}
		}
	}
	n.at = time.Now()
	return nil
}

// fill names the pods that the flow's node does not know. A pod that is younger than the flow was not in it. unknown: an end has no name.
func (n *names) fill(f *policyapi.Flow) (unknown bool) {
	for _, e := range []*policyapi.End{&f.From, &f.To} {
		if e.Pod != "" {
			continue
		}
		who, ok := n.by[e.Address]
		if ok && who.pod && !who.since.After(f.Last) {
			e.Pod = who.name
		}
		unknown = unknown || !ok
	}
	return unknown
}

// endName is an end for people.
func endName(e policyapi.End) string {
	if e.Pod != "" {
		return e.Pod
	}
	return e.Address
}

// trafficName is a flow's protocol and port for people, as trace takes it.
func trafficName(f policyapi.Flow) string {
	switch f.Protocol {
	case policy.TCPProtocol:
		return fmt.Sprintf("tcp/%d", f.To.Port)
	case policy.UDPProtocol:
		return fmt.Sprintf("udp/%d", f.To.Port)
	case policy.SCTPProtocol:
		return fmt.Sprintf("sctp/%d", f.To.Port)
	case policy.ICMPProtocol:
		return fmt.Sprintf("icmp/%d", f.ICMPType)
	case policy.ICMPv6Protocol:
		return fmt.Sprintf("icmpv6/%d", f.ICMPType)
	}
	return fmt.Sprintf("%d/0", f.Protocol)
}

// verdictName is a flow's verdict for people.
func verdictName(f policyapi.Flow) string {
	switch {
	case !f.Running:
		return f.Verdict
	case f.Verdict == policyapi.Denied:
		return "cut"
	}
	return "allowed again"
}

// decidedBy is what decided about a flow, each with the direction: of what is denied the one that does.
func decidedBy(f policyapi.Flow) string {
	var list []string
	for _, d := range []policy.Direction{policy.Egress, policy.Ingress} {
		by, ok := f.Decided(d)
		if !ok || f.Verdict == policyapi.Denied && by.Action != policy.Deny {
			continue
		}
		text := "no policy"
		switch by.Reason {
		case policy.ByRule:
			text = fmt.Sprintf("%s rule %d", by.Rule.Policy, by.Rule.Number)
		case policy.ByTier:
			text = "the end of tier " + by.Tier
		case policy.Closed:
			text = "closed"
		}
		text = d.String() + ": " + text
		for _, l := range by.Logs {
			text += fmt.Sprintf(", logged by %s rule %d", l.Policy, l.Number)
		}
		list = append(list, text)
	}
	return strings.Join(list, "; ")
}

// A flowPrinter prints flows, one a line.
type flowPrinter struct {
	w      io.Writer
	output *program.Output
}

func (p *flowPrinter) table(flows []policyapi.Flow) error {
	if p.output.Machine() {
		for _, f := range flows {
			if err := p.line(f); err != nil {
				return err
			}
		}
		return nil
	}
	t := tabwriter.NewWriter(p.w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "TIME\tVERDICT\tFROM\tTO\tTRAFFIC\tBY\tNODE\tCOUNT")
	for _, f := range flows {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\n", f.Last.Local().Format(time.TimeOnly), verdictName(f), endName(f.From), endName(f.To), trafficName(f), decidedBy(f), f.Node, f.Count)
	}
	return t.Flush()
}

func (p *flowPrinter) line(f policyapi.Flow) error {
	switch {
	case p.output.Is(program.JSON):
		return json.NewEncoder(p.w).Encode(f)
	case p.output.Is(program.YAML):
		if _, err := fmt.Fprintln(p.w, "---"); err != nil {
			return err
		}
		return p.output.Encode(p.w, f)
	}
	missed := ""
	if f.Missed > 0 {
		missed = fmt.Sprintf(" (%d before it were missed)", f.Missed)
	}
	_, err := fmt.Fprintf(p.w, "%s %s %s → %s %s by %s (%s)%s\n", f.Last.Local().Format(time.TimeOnly), verdictName(f), endName(f.From), endName(f.To), trafficName(f), decidedBy(f), f.Node, missed)
	return err
}
