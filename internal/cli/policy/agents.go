package policy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/util/exec"
	"k8s.io/streaming/pkg/httpstream"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/internal/pages"
)

// agents are those of a cluster's nodes.
type agents interface {
	// nodes returns the nodes that have one, in order.
	nodes(ctx context.Context) ([]string, error)
	// ask writes what a node's agent answers. It may go on until the context is done.
	ask(ctx context.Context, node, path string, out io.Writer) error
}

// Of the chart's DaemonSet (deploy/chart/templates/agent.yaml).
const (
	agentContainer = "terwayd"
	agentProgram   = "/usr/bin/terwayd"
)

var agentLabels = client.MatchingLabels{"app": "terwayd"}

// executor runs a program in the agents' pods. So the API server says who may ask: whoever may do that is root on the nodes
// anyway, and the agents need no port and no users of their own.
type executor struct {
	cfg    *rest.Config
	rest   *rest.RESTClient
	client client.Reader
	terway string

	mu   sync.Mutex
	pods map[string]string // by node; nil: not read yet
}

// newExec takes the config.
func newExec(cfg *rest.Config, c client.Reader, terway string) (*executor, error) {
	cfg.Timeout = 0 // an answer may go on
	cfg.APIPath, cfg.GroupVersion, cfg.NegotiatedSerializer = "/api", &corev1.SchemeGroupVersion, scheme.Codecs.WithoutConversion()
	r, err := rest.RESTClientFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("make a client for the cluster at %s: %w", cfg.Host, err)
	}
	return &executor{cfg: cfg, rest: r, client: c, terway: terway}, nil
}

func (e *executor) find(ctx context.Context) (map[string]string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.pods != nil {
		return e.pods, nil
	}
	pods := map[string]string{}
	for page, err := range pages.Of(ctx, e.client, &corev1.PodList{}, client.InNamespace(e.terway), agentLabels) {
		if err != nil {
			return nil, explain(e.cfg.Host, "list pods in "+e.terway, err)
		}
		for _, p := range page.Items {
			if p.Status.Phase == corev1.PodRunning && p.DeletionTimestamp == nil {
				pods[p.Spec.NodeName] = p.Name
			}
		}
	}
	if len(pods) == 0 {
		return nil, fmt.Errorf("no agent runs in namespace %s of the cluster at %s: --terway-namespace says where the chart was installed", e.terway, e.cfg.Host)
	}
	e.pods = pods
	return pods, nil
}

func (e *executor) nodes(ctx context.Context) (list []string, err error) {
	pods, err := e.find(ctx)
	for node := range pods {
		list = append(list, node)
	}
	slices.Sort(list)
	return list, err
}

func (e *executor) ask(ctx context.Context, node, path string, out io.Writer) error {
	pods, err := e.find(ctx)
	if err != nil {
		return err
	}
	pod := pods[node]
	if pod == "" {
		return fmt.Errorf("no agent runs on node %s", node)
	}
	url := e.rest.Get().Resource("pods").Namespace(e.terway).Name(pod).SubResource("exec").VersionedParams(&corev1.PodExecOptions{
		Container: agentContainer, Command: []string{agentProgram, "ask", path}, Stdout: true, Stderr: true,
	}, scheme.ParameterCodec).URL()
	// Kubernetes 1.29 knows SPDY alone, and proxies may know websockets alone.
	websocket, err := remotecommand.NewWebSocketExecutor(e.cfg, "GET", url.String())
	if err != nil {
		return err
	}
	spdy, err := remotecommand.NewSPDYExecutor(e.cfg, "POST", url)
	if err != nil {
		return err
	}
	run, err := remotecommand.NewFallbackExecutor(websocket, spdy, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	})
	if err != nil {
		return err
	}
	why := &firstBytes{most: 4096}
	err = run.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: out, Stderr: why})
	var exit exec.CodeExitError
	switch {
	case err == nil || ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &exit) && strings.Contains(why.String(), "unknown command"):
		return fmt.Errorf("the agent of node %s is of a version that cannot be asked about policies", node)
	case errors.As(err, &exit):
		return fmt.Errorf("node %s: %s", node, strings.TrimSpace(printable(why.String())))
	}
	return explain(e.cfg.Host, fmt.Sprintf("run %q in pod %s/%s", agentProgram+" ask", e.terway, pod), err)
}

// firstBytes keeps the beginning of what is written.
type firstBytes struct {
	text []byte
	most int
}

func (w *firstBytes) Write(b []byte) (int, error) {
	w.text = append(w.text, b[:min(len(b), w.most-len(w.text))]...)
	return len(b), nil
}

func (w *firstBytes) String() string { return string(w.text) }

// printable is what of a node's text may go to a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r >= ' ' && r != 0x7f && (r < 0x80 || r >= 0xa0) {
			return r
		}
		return '\ufffd'
	}, s)
}
