package policy

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"terway.dev/terway/internal/agent/policyapi"
	"terway.dev/terway/internal/cli/program"
	"terway.dev/terway/internal/policy"
)

func countersCommand(d dial) *cobra.Command {
	a := asking{dial: d}
	cmd := &cobra.Command{
		Use:   "counters",
		Short: "Show how often each rule has decided about a new connection",
		Long: `Asks the agents of all nodes how often each rule has decided about a new connection, and adds
up what they say. Counted are connections, not their packets; of ICMP other than echo, and of
what is denied, each packet is. A connection between pods of two nodes is counted at both: by
the egress rules of one pod's policies, and the ingress rules of the other's.

A row is a rule, by policy and direction; the end of a tier, where a policy selects the pod and
no rule matches; or "no policy", where none selects the pod or all pass it on. "closed" are pods
whose rules the node does not know, or that are beyond the budget. A rule with 0 is on a node
and has not decided there.

An agent counts from its start, and a rule from when the node has it. -o json has the nodes.

` + needsAgents,
		Example: `  terwayctl policy counters
  terwayctl policy counters --node n1 -o json`,
		Args: program.Args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, nodes, err := a.reach(cmd.Context())
			if err != nil {
				return err
			}
			t := tally{Counters: []*counter{}, rows: map[string]*counter{}}
			asked := o.askAll(cmd.Context(), nodes, policyapi.PathCounters, t.take)
			if len(t.Nodes) == 0 {
				return asked
			}
			t.sort()
			err = a.output.Write(cmd.OutOrStdout(), &t, func(w io.Writer) error { return t.writeText(w, cmd.ErrOrStderr()) })
			return errors.Join(err, asked)
		},
	}
	a.flags(cmd)
	return cmd
}

// A tally is what all nodes have counted.
type tally struct {
	Nodes    []countedNode `json:"nodes"`
	Counters []*counter    `json:"counters"`
	rows     map[string]*counter
}

type countedNode struct {
	Node  string    `json:"node"`
	Since time.Time `json:"since"`
	// Gone are decisions of rules that the node has no more, by action.
	Gone      map[string]policyapi.Counted `json:"gone,omitempty"`
	Uncounted int                          `json:"uncountedRules,omitempty"`
}

// A counter is a row.
type counter struct {
	Policy      *policyapi.Rule   `json:"policy,omitempty"`
	Reason      string            `json:"reason"`
	Tier        string            `json:"tier,omitempty"`
	Direction   string            `json:"direction"`
	Verdict     string            `json:"verdict"`
	Connections uint64            `json:"connections"`
	ByNode      map[string]uint64 `json:"byNode"`

	decision  policy.Decision
	direction policy.Direction
}

func (t *tally) take(node string, answer io.Reader) error {
	c, decisions, err := policyapi.ReadCounters(answer)
	if err != nil {
		return err
	}
	t.Nodes = append(t.Nodes, countedNode{node, c.Since, c.Gone, c.Uncounted})
	for i, d := range decisions {
		said := c.Rules[i]
		for direction, n := range map[policy.Direction]uint64{policy.Ingress: said.Ingress, policy.Egress: said.Egress} {
			if d.Reason == policy.ByRule && direction != d.Rule.Direction || d.Reason != policy.ByRule && n == 0 {
				continue
			}
			key := fmt.Sprintf("%+v %d", d, direction)
			row := t.rows[key]
			if row == nil {
				row = &counter{
					Policy: said.Rule, Reason: said.Reason, Tier: d.Tier, Direction: direction.String(), Verdict: d.Action.String(), ByNode: map[string]uint64{},
					decision: d, direction: direction,
				}
				t.rows[key] = row
				t.Counters = append(t.Counters, row)
			}
			row.Connections += n
			row.ByNode[node] += n
		}
	}
	return nil
}

func (t *tally) sort() {
	slices.SortFunc(t.Nodes, func(a, b countedNode) int { return strings.Compare(a.Node, b.Node) })
	slices.SortFunc(t.Counters, func(a, b *counter) int {
		x, y := a.decision, b.decision
		return cmp.Or(
			// Policies first, by their kind and name.
			-cmp.Compare(btoi(x.Reason == policy.ByRule), btoi(y.Reason == policy.ByRule)),
			strings.Compare(x.Rule.Policy.String(), y.Rule.Policy.String()), cmp.Compare(x.Reason, y.Reason), strings.Compare(x.Tier, y.Tier),
			cmp.Compare(a.direction, b.direction), cmp.Compare(x.Rule.Number, y.Rule.Number), cmp.Compare(x.Action, y.Action),
		)
	})
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (t *tally) writeText(w, notes io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "POLICY\tRULE\tVERDICT\tCONNECTIONS")
	for _, c := range t.Counters {
		what, rule := "no policy", c.Direction
		switch c.decision.Reason {
		case policy.ByRule:
			what, rule = c.decision.Rule.Policy.String(), fmt.Sprintf("%s rule %d", c.Direction, c.decision.Rule.Number)
		case policy.ByTier:
			what = "the end of tier " + c.Tier
		case policy.Closed:
			what = "closed"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%d\n", what, rule, c.Verdict, c.Connections)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	var allowed, denied uint64
	for _, n := range t.Nodes {
		allow, deny := n.Gone[policy.Allow.String()], n.Gone[policy.Deny.String()]
		allowed, denied = allowed+allow.Ingress+allow.Egress, denied+deny.Ingress+deny.Egress
		if n.Uncounted > 0 {
			fmt.Fprintf(notes, "node %s: %d rules are not counted, as it has too many\n", n.Node, n.Uncounted)
		}
	}
	if allowed+denied > 0 {
		fmt.Fprintf(notes, "rules that are gone allowed %d and denied %d\n", allowed, denied)
	}
	return nil
}
