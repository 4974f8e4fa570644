package policy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/internal/agent/policyapi"
	"terway.dev/terway/internal/cli/kubeflags"
	"terway.dev/terway/internal/policy"
)

// atOnce is how many agents are asked at a time.
const atOnce = 16

// asking is a command that asks agents.
type asking struct {
	cluster kubeflags.Flags
	dial    dial
	terway  string
	node    string
	output  string
}

func (a *asking) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	a.cluster.Add(f)
	f.StringVar(&a.terway, flagTerway, metav1.NamespaceSystem, "where the cluster has Terway")
	f.StringVar(&a.node, "node", "", "ask the agent of this `NODE` alone")
	f.StringVarP(&a.output, "output", "o", "", "`FORMAT`: json")
}

// needsAgents is what such a command needs.
const needsAgents = `It needs to list pods, and in Terway's namespace to get and create pods/exec: it runs
"terwayd ask" in the agents' pods.`

// reach connects, and returns the nodes that are to be asked.
func (a *asking) reach(ctx context.Context) (*online, []string, error) {
	if a.output != "" && a.output != "json" {
		return nil, nil, fmt.Errorf("-o %q: want json, or nothing for text", a.output)
	}
	o, err := a.dial(&a.cluster, a.terway)
	if err != nil {
		return nil, nil, err
	}
	nodes, err := o.agents.nodes(ctx)
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
	places := make(chan struct{}, atOnce)
	errs := make([]error, len(nodes))
	var mu sync.Mutex
	var all sync.WaitGroup
	for i, node := range nodes {
		places <- struct{}{}
		all.Go(func() {
			defer func() { <-places }()
			answer, err := o.ask(ctx, node, path)
			if err != nil {
				errs[i] = err
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if err := take(node, answer); err != nil {
				errs[i] = fmt.Errorf("node %s: %w", node, err)
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// bounded is an answer, which a node must not make as long as it likes.
type bounded struct{ text bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	if b.text.Len()+len(p) > policyapi.MaxAnswer {
		return 0, fmt.Errorf("the answer has more than %d bytes", policyapi.MaxAnswer)
	}
	return b.text.Write(p)
}

func (b *bounded) Read(p []byte) (int, error) { return b.text.Read(p) }

// parsePod parses --pod.
func parsePod(text string) (policy.NamespacedName, error) {
	namespace, name, ok := strings.Cut(text, "/")
	if !ok || namespace == "" || name == "" || strings.Contains(name, "/") {
		return policy.NamespacedName{}, fmt.Errorf("--pod %q: want NAMESPACE/NAME of a pod", text)
	}
	return policy.NamespacedName{Namespace: namespace, Name: name}, nil
}
