package checks

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/verify"
)

var ownReport = verify.Check{
	Name:   "own-report",
	About:  "the credential of an agent, or of a pod of kube-flannel, cannot report for another node, and a token of the same account without a pod cannot report at all",
	Beside: true,
	Run: run(func(ctx context.Context, e *env) (string, error) {
		a, b, err := e.TwoNodes()
		if err != nil {
			return "", err
		}
		flannel := e.Lab.Options.Network == lab.NetworkFlannel
		agent, err := e.asAgent(a)
		if err != nil {
			return "", err
		}
		report := func(as client.Client, node string) error {
			var o client.Object = &v1alpha1.NodeNetwork{}
			if flannel {
				o = &corev1.Node{}
			}
			o.SetName(node)
			return as.Status().Patch(ctx, o, client.RawPatch(types.MergePatchType, []byte(`{"status":{"demand":0}}`)), client.DryRunAll)
		}
		if err := report(agent, a.Name); err != nil {
			return "", fmt.Errorf("the agent's credential of %s cannot report for %s: %w", a.Name, a.Name, err)
		}
		if err := refused(report(agent, b.Name), "its own node"); err != nil {
			return "", fmt.Errorf("with the agent's credential of %s a report for %s: %w", a.Name, b.Name, err)
		}
		// A token of kubectl create token names no node of a pod.
		podless, err := e.asPodless(ctx)
		if err != nil {
			return "", err
		}
		for _, m := range []lab.Machine{a, b} {
			if err := refused(report(podless, m.Name), "its own node"); err != nil {
				return "", fmt.Errorf("with a token of the agents' account that is of no pod, a report for %s: %w", m.Name, err)
			}
		}
		if err := agent.Create(ctx, &v1alpha1.NodeNetwork{}, client.DryRunAll); !apierrors.IsForbidden(err) {
			return "", fmt.Errorf("the agent's credential of %s can make a NodeNetwork, or the answer is no refusal: %w", a.Name, err)
		}
		leases := ""
		if !flannel {
			own := &v1alpha1.NodeNetwork{}
			own.SetName(a.Name)
			if err := agent.Patch(ctx, own, client.RawPatch(types.MergePatchType, []byte(`{"spec":{"datapath":"auto"}}`)), client.DryRunAll); !apierrors.IsForbidden(err) {
				return "", fmt.Errorf("the agent's credential of %s can change the spec of its NodeNetwork, or the answer is no refusal: %w", a.Name, err)
			}
			if err := ownLease(ctx, agent, podless, a.Name, b.Name); err != nil {
				return "", err
			}
			leases = fmt.Sprintf(", of Leases its own alone accepted (%s's and the controller's refused)", b.Name)
		}
		if err := e.noIgnoreLabel(ctx, a.Name); err != nil {
			return "", err
		}
		return fmt.Sprintf("with the agent's token of %s: a report for %s accepted, for %s refused, a new NodeNetwork refused%s; with a token of no pod: reports refused; "+
			"its kubelet cannot label the Node to be ignored", a.Name, a.Name, b.Name, leases), nil
	}),
}

// refused returns an error if err is not a refusal with these words.
func refused(err error, words string) error {
	switch {
	case err == nil:
		return errors.New("accepted, want it refused")
	case !apierrors.IsForbidden(err) && !apierrors.IsInvalid(err), !strings.Contains(err.Error(), words):
		return fmt.Errorf("the answer is no refusal that says %q: %w", words, err)
	}
	return nil
}

// ownLease tests Leases: with the Lease of another node an agent could make that node look
// alive, with the controller's it could become the leader.
func ownLease(ctx context.Context, agent, podless client.Client, node, other string) error {
	renew := func(as client.Client, name string) error {
		l := &coordinationv1.Lease{}
		l.Namespace, l.Name = metav1.NamespaceSystem, name
		return as.Patch(ctx, l, client.RawPatch(types.MergePatchType, []byte(`{"spec":{"leaseDurationSeconds":40}}`)), client.DryRunAll)
	}
	own := v1alpha1.LeaseName(node)
	if err := renew(agent, own); err != nil {
		return fmt.Errorf("the agent's credential of %s cannot renew Lease %s: %w", node, own, err)
	}
	for _, name := range []string{v1alpha1.LeaseName(other), controllerName} {
		if err := refused(renew(agent, name), "its own Lease"); err != nil {
			return fmt.Errorf("with the agent's credential of %s, to renew Lease %s: %w", node, name, err)
		}
	}
	if err := refused(renew(podless, own), "its own Lease"); err != nil {
		return fmt.Errorf("with a token of the agents' account that is of no pod, to renew Lease %s: %w", own, err)
	}
	foreign := &coordinationv1.Lease{}
	foreign.Namespace, foreign.Name = metav1.NamespaceSystem, v1alpha1.LeaseName("lab-verify-no-such-node")
	if err := refused(agent.Create(ctx, foreign, client.DryRunAll), "its own Lease"); err != nil {
		return fmt.Errorf("with the agent's credential of %s, to make Lease %s: %w", node, foreign.Name, err)
	}
	return nil
}

// noIgnoreLabel tests which labels a kubelet may set on its own Node.
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
		return fmt.Errorf("the kubelet of %s cannot set an unrelated label: %w", node, err)
	}
	for key, value := range map[string]string{claims.LabelNodeType: claims.VirtualNode, claims.LabelIgnore: "true", claims.LabelOtherIgnore: "true"} {
		if err := refused(label(key, value), "leaves it alone"); err != nil {
			return fmt.Errorf("the kubelet of %s labels its Node %s=%s: %w", node, key, value, err)
		}
	}
	return nil
}

// tokenFile is the path of a pod's token.
const tokenFile = "/var/run/secrets/kubernetes.io/serviceaccount/token"

// asAgent returns a client with the credential of a node's agent; with Flannel, of flanneld.
func (e *env) asAgent(m lab.Machine) (client.Client, error) {
	const agent = "terwayd"
	ps, err := lab.ProcessesIn(m.NetNS, agent)
	if err != nil {
		return nil, err
	}
	if len(ps) == 0 {
		return nil, fmt.Errorf("no process %s runs on %s", agent, m.Name)
	}
	// The file system of the pod, by its process (proc_pid_root(5)).
	token, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(ps[0].PID), "root", tokenFile))
	if err != nil {
		return nil, fmt.Errorf("read the agent's token on %s: %w", m.Name, err)
	}
	return e.withToken(string(token))
}

// asPodless returns a client with a token of the same service account that is bound to no pod.
func (e *env) asPodless(ctx context.Context) (client.Client, error) {
	account := "terwayd"
	if e.Lab.Options.Network == lab.NetworkFlannel {
		account = "flannel"
	}
	const least = 600 // seconds; the minimum of the API server
	r, err := e.Client.CoreV1().ServiceAccounts(metav1.NamespaceSystem).CreateToken(ctx, account,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: new(int64(least))}}, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("ask for a token of service account %s: %w", account, err)
	}
	return e.withToken(r.Status.Token)
}

func (e *env) withToken(token string) (client.Client, error) {
	admin, err := e.Lab.Options.RESTConfig()
	if err != nil {
		return nil, err
	}
	cfg := rest.AnonymousClientConfig(admin)
	cfg.BearerToken = token
	return client.New(cfg, client.Options{Scheme: e.Objects.Scheme()})
}
