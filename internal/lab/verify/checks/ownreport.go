package checks

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/verify"
)

var ownReport = verify.Check{
	Name:  "own-report",
	About: "with an agent's credential, or that of a pod of kube-flannel, nobody can report for another node",
	Run: run(func(ctx context.Context, e *env) (string, error) {
		a, b, err := e.TwoNodes()
		if err != nil {
			return "", err
		}
		agent, err := e.asAgent(a)
		if err != nil {
			return "", err
		}
		report := func(node string) error {
			var o client.Object = &v1alpha1.NodeNetwork{}
			if e.Lab.Options.Network == lab.NetworkFlannel {
				o = &corev1.Node{}
			}
			o.SetName(node)
			return agent.Status().Patch(ctx, o, client.RawPatch(types.MergePatchType, []byte(`{"status":{"demand":0}}`)), client.DryRunAll)
		}
		if err := report(a.Name); err != nil {
			return "", fmt.Errorf("the agent's credential of %s cannot report for %s: %w", a.Name, a.Name, err)
		}
		switch err := report(b.Name); {
		case err == nil:
			return "", fmt.Errorf("the agent's credential of %s can report for %s", a.Name, b.Name)
		case !apierrors.IsForbidden(err) && !apierrors.IsInvalid(err), !strings.Contains(err.Error(), "its own node"):
			return "", fmt.Errorf("with the agent's credential of %s a report for %s gives an answer that is no refusal: %w", a.Name, b.Name, err)
		}
		if err := agent.Create(ctx, &v1alpha1.NodeNetwork{}, client.DryRunAll); !apierrors.IsForbidden(err) {
			return "", fmt.Errorf("the agent's credential of %s can make a NodeNetwork, or the answer is no refusal: %w", a.Name, err)
		}
		if e.Lab.Options.Network != lab.NetworkFlannel {
			own := &v1alpha1.NodeNetwork{}
			own.SetName(a.Name)
			if err := agent.Patch(ctx, own, client.RawPatch(types.MergePatchType, []byte(`{"spec":{"datapath":"auto"}}`)), client.DryRunAll); !apierrors.IsForbidden(err) {
				return "", fmt.Errorf("the agent's credential of %s can change the spec of its NodeNetwork, or the answer is no refusal: %w", a.Name, err)
			}
		}
		if err := e.noIgnoreLabel(ctx, a.Name); err != nil {
			return "", err
		}
		return fmt.Sprintf("with the agent's token of %s: a report for %s accepted, for %s refused, a new NodeNetwork refused; its kubelet cannot label the Node to be ignored", a.Name, a.Name, b.Name), nil
	}),
}

// noIgnoreLabel tries what a kubelet may do to its own Node's labels.
func (e *env) noIgnoreLabel(ctx context.Context, node string) error {
	cfg, err := e.Lab.Options.RESTConfig()
	if err != nil {
		return err
	}
	cfg.Impersonate = rest.ImpersonationConfig{UserName: "system:node:" + node, Groups: []string{"system:nodes", "system:authenticated"}}
	kubelet, err := client.New(cfg, client.Options{Scheme: e.Objects.Scheme()})
	if err != nil {
		return err
	}
	label := func(key, value string) error {
		n := &corev1.Node{}
		n.SetName(node)
		return kubelet.Patch(ctx, n, client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"metadata":{"labels":{%q:%q}}}`, key, value)), client.DryRunAll)
	}
	if err := label("example.com/lab", "true"); err != nil {
		return fmt.Errorf("the kubelet of %s cannot set a label that is nobody's: %w", node, err)
	}
	for key, value := range map[string]string{"type": "virtual-kubelet", "network.terway.dev/ignore": "true"} {
		if err := label(key, value); err == nil || !strings.Contains(err.Error(), "leaves it alone") {
			return fmt.Errorf("the kubelet of %s labels its Node %s=%s: the answer is no refusal by the chart's policy: %w", node, key, value, err)
		}
	}
	return nil
}

// tokenFile is where Kubernetes puts a pod's token.
const tokenFile = "/var/run/secrets/kubernetes.io/serviceaccount/token"

// asAgent is a client with the credential that the agent of a node has; with Flannel it is
// that of flanneld, too.
func (e *env) asAgent(m lab.Machine) (client.Client, error) {
	const agent = "terwayd"
	ps, err := lab.ProcessesIn(m.NetNS, agent)
	if err != nil {
		return nil, err
	}
	if len(ps) == 0 {
		return nil, fmt.Errorf("no process %s runs on %s", agent, m.Name)
	}
	// The pod's file system, as its process sees it (proc_pid_root(5)).
	token, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(ps[0].PID), "root", tokenFile))
	if err != nil {
		return nil, fmt.Errorf("read the agent's token on %s: %w", m.Name, err)
	}
	admin, err := e.Lab.Options.RESTConfig()
	if err != nil {
		return nil, err
	}
	cfg := rest.AnonymousClientConfig(admin)
	cfg.BearerToken = string(token)
	return client.New(cfg, client.Options{Scheme: e.Objects.Scheme()})
}
