package policy

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"terway.dev/terway/internal/cli/agents"
	"terway.dev/terway/internal/cli/kubeflags"
	"terway.dev/terway/internal/cli/program"
	"terway.dev/terway/internal/policy"
)

// asking is a command that asks agents.
type asking struct {
	cluster kubeflags.Flags
	output  program.Output
	dial    dial
	node    string
}

func (a *asking) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	a.cluster.Add(f)
	a.cluster.AddTerway(f)
	f.StringVar(&a.node, "node", "", "ask the agent of this `NODE` alone")
	a.output.Add(f)
}

// needsAgents is what such a command needs.
const needsAgents = `It needs to list pods, and in Terway's namespace to get and create pods/exec: it runs
"terwayd ask" in the agents' pods.`

// reach connects, and returns the nodes that are to be asked.
func (a *asking) reach(ctx context.Context) (*online, []string, error) {
	o, err := a.dial(ctx, &a.cluster)
	if err != nil {
		return nil, nil, err
	}
	nodes, err := o.agents.Nodes(ctx)
	if err != nil {
		return nil, nil, err
	}
	if a.node == "" {
		return o, nodes, nil
	}
	if !slices.Contains(nodes, a.node) {
		return nil, nil, fmt.Errorf("--node %s: no agent runs there", a.node)
	}
	return o, []string{a.node}, nil
}

// askAll asks the agents of nodes, and gives each answer to take, one at a time. The errors are of single nodes.
func (o *online) askAll(ctx context.Context, nodes []string, path string, take func(node string, answer io.Reader) error) error {
	return agents.All(ctx, o.agents, o.within, nodes, path, take)
}

// parsePod parses --pod.
func parsePod(text string) (policy.NamespacedName, error) {
	namespace, name, ok := strings.Cut(text, "/")
	if !ok || namespace == "" || name == "" || strings.Contains(name, "/") {
		return policy.NamespacedName{}, program.Usagef("--pod %q: want NAMESPACE/NAME of a pod", text)
	}
	return policy.NamespacedName{Namespace: namespace, Name: name}, nil
}
