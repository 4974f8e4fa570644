// Package agents is how commands ask the agents of a cluster's nodes: it runs "terwayd ask" in their pods. It must not know what is
// asked.
package agents

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/internal/cli/podexec"
	"terway.dev/terway/internal/pages"
)

// A Fleet are the agents of a cluster's nodes.
type Fleet interface {
	// Nodes returns the nodes that have one, in order.
	Nodes(ctx context.Context) ([]string, error)
	// Ask writes what a node's agent answers. It may go on until the context is done.
	Ask(ctx context.Context, node, path string, out io.Writer) error
}

// Within is how long an agent may take for an answer, longer than one takes that loads programs on a busy node.
const Within = 30 * time.Second

const (
	// atOnce is how many agents are asked at a time.
	atOnce = 16
	// MaxAnswer is the largest answer that is taken, in bytes: 16,384 flows have about 16 MiB.
	MaxAnswer = 64 << 20
)

// Answer returns a node's answer that ends.
func Answer(ctx context.Context, f Fleet, within time.Duration, node, path string) (io.Reader, error) {
	limited, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	var answer bounded
	err := f.Ask(limited, node, path, &answer)
	if limited.Err() != nil && ctx.Err() == nil {
		return nil, fmt.Errorf("node %s: its agent has not answered in %s", node, within)
	}
	return &answer, err
}

// All asks the agents of nodes, and gives each answer to take, one at a time. The errors are of single nodes.
func All(ctx context.Context, f Fleet, within time.Duration, nodes []string, path string, take func(node string, answer io.Reader) error) error {
	places := make(chan struct{}, atOnce)
	errs := make([]error, len(nodes))
	var mu sync.Mutex
	var all sync.WaitGroup
	for i, node := range nodes {
		places <- struct{}{}
		all.Go(func() {
			defer func() { <-places }()
			answer, err := Answer(ctx, f, within, node, path)
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
	if b.text.Len()+len(p) > MaxAnswer {
		return 0, fmt.Errorf("the answer has more than %d bytes", MaxAnswer)
	}
	return b.text.Write(p)
}

func (b *bounded) Read(p []byte) (int, error) { return b.text.Read(p) }

// Container is the agent's in the pods of the chart's DaemonSet (deploy/chart/templates/agent.yaml), and Program what runs in it.
const (
	Container = "terwayd"
	Program   = "/usr/bin/terwayd"
)

var agentLabels = client.MatchingLabels{"app": "terwayd"}

// Executor runs programs in the agents' pods. So the API server says who may ask: whoever may do that is root on the nodes
// anyway, and the agents need no port and no users of their own.
type Executor struct {
	runner *podexec.Runner
	host   string
	client client.Reader
	terway string

	mu   sync.Mutex
	pods map[string]string // by node; nil: not read yet
}

// New returns the agents of a cluster that has Terway in a namespace.
func New(cfg *rest.Config, c client.Reader, terway string) (*Executor, error) {
	r, err := podexec.New(cfg)
	return &Executor{runner: r, host: cfg.Host, client: c, terway: terway}, err
}

func (e *Executor) find(ctx context.Context) (map[string]string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.pods != nil {
		return e.pods, nil
	}
	pods := map[string]string{}
	for page, err := range pages.Of(ctx, e.client, &corev1.PodList{}, client.InNamespace(e.terway), agentLabels) {
		if err != nil {
			return nil, Explain(e.host, "list pods in "+e.terway, err)
		}
		for _, p := range page.Items {
			if p.Status.Phase == corev1.PodRunning && p.DeletionTimestamp == nil {
				pods[p.Spec.NodeName] = p.Name
			}
		}
	}
	if len(pods) == 0 {
		return nil, fmt.Errorf("no agent runs in namespace %s of the cluster at %s: want the namespace in which the chart was installed", e.terway, e.host)
	}
	e.pods = pods
	return pods, nil
}

// Nodes returns the nodes that have an agent, in order.
func (e *Executor) Nodes(ctx context.Context) (list []string, err error) {
	pods, err := e.find(ctx)
	for node := range pods {
		list = append(list, node)
	}
	slices.Sort(list)
	return list, err
}

// Ask makes it a Fleet, with Nodes.
func (e *Executor) Ask(ctx context.Context, node, path string, out io.Writer) error {
	return e.Run(ctx, node, []string{"ask", path}, out)
}

// Run runs a command of terwayd in the pod of a node's agent, and writes what it prints.
func (e *Executor) Run(ctx context.Context, node string, args []string, out io.Writer) error {
	pods, err := e.find(ctx)
	if err != nil {
		return err
	}
	pod := pods[node]
	if pod == "" {
		return fmt.Errorf("no agent runs on node %s", node)
	}
	err = e.runner.Run(ctx, e.terway, pod, Container, append([]string{Program}, args...), out)
	var exit *podexec.ExitError
	switch {
	case err == nil || ctx.Err() != nil:
		return err
	case errors.As(err, &exit) && strings.Contains(exit.Said, "unknown command"):
		return fmt.Errorf("the agent of node %s is of a version that cannot be asked", node)
	case errors.As(err, &exit):
		return fmt.Errorf("node %s: %w", node, err)
	}
	return Explain(e.host, fmt.Sprintf("run %q in pod %s/%s", Program+" "+args[0], e.terway, pod), err)
}

// Explain says what an error of the cluster at host means to the user, who wanted to do something.
func Explain(host, what string, err error) error {
	switch {
	case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
		return fmt.Errorf("the cluster at %s does not let this user %s; --help says what is needed: %w", host, what, err)
	case apierrors.ReasonForError(err) == "" && !errors.Is(err, context.Canceled):
		return fmt.Errorf("the cluster at %s cannot be reached to %s: %w", host, what, err)
	}
	return fmt.Errorf("%s in the cluster at %s: %w", what, host, err)
}
