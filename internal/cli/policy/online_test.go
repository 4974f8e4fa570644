package policy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	cnpv1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	v3 "terway.dev/terway/api/calico/v3"
	"terway.dev/terway/internal/agent/policyapi"
	"terway.dev/terway/internal/cli/agents"
	"terway.dev/terway/internal/cli/kubeflags"
	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/translate"
)

// A fleet is a cluster whose agents answer as answers says, by the path without its query.
type fleet struct {
	client.Reader
	answers map[string]func(node string, query url.Values) (any, error)
}

func (f *fleet) Nodes(context.Context) ([]string, error) { return []string{"n1", "n2"}, nil }

func (f *fleet) Ask(_ context.Context, node, path string, out io.Writer) error {
	u, err := url.Parse(path)
	if err != nil {
		return err
	}
	answer := f.answers[u.Path]
	if answer == nil {
		return fmt.Errorf("node %s: 404", node)
	}
	a, err := answer(node, u.Query())
	if err != nil {
		return err
	}
	if text, ok := a.(string); ok {
		_, err = io.WriteString(out, text)
		return err
	}
	return json.NewEncoder(out).Encode(a)
}

// newFleet is a cluster with pods shop/web on n1 and shop/db on n2, and a policy that lets web reach db. Calico's kinds are not installed.
func newFleet(t *testing.T, more ...client.Object) *fleet {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, discoveryv1.AddToScheme, networkingv1.AddToScheme, cnpv1.Install, v3.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	pod := func(name, node, address string) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Labels: map[string]string{"app": name}},
			Spec:       corev1.PodSpec{NodeName: node},
			Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIP: address, PodIPs: []corev1.PodIP{{IP: address}}},
		}
	}
	labels := func(app string) metav1.LabelSelector {
		return metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}
	}
	web := labels("web")
	objects := append([]client.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}},
		pod("web", "n1", "10.0.0.1"), pod("db", "n2", "10.0.0.2"), pod("pending", "", ""),
		&networkingv1.NetworkPolicy{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "db"},
			Spec:       networkingv1.NetworkPolicySpec{PodSelector: labels("db"), Ingress: []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{PodSelector: &web}}}}},
		},
	}, more...)
	c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).WithInterceptorFuncs(interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
			if gvk, err := c.GroupVersionKindFor(list); err == nil && gvk.Group == v3.GroupVersion.Group {
				return &meta.NoKindMatchError{GroupKind: schema.GroupKind{Group: gvk.Group, Kind: gvk.Kind}}
			}
			return c.List(ctx, list, opts...)
		},
	}).Build()
	return &fleet{Reader: c, answers: map[string]func(string, url.Values) (any, error){}}
}

// run returns the output of "terwayctl policy ARGS" with this cluster.
func (f *fleet) run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	cmd := newCommand(func(_ context.Context, flags *kubeflags.Flags) (*online, error) {
		return &online{client: f, agents: f, host: "https://cluster", terway: flags.Terway, within: time.Minute}, nil
	})
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

// kernel answers as nodes do that have what policies say.
func (f *fleet) kernel(t *testing.T) func(string, url.Values) (any, error) {
	return func(node string, query url.Values) (any, error) {
		q, err := policyapi.ReadQuestion(query)
		if err != nil {
			return nil, err
		}
		o, err := (&online{client: f, host: "https://cluster"}).objects(t.Context())
		if err != nil {
			return nil, err
		}
		cluster, _ := translate.Cluster(o)
		set, _ := translate.Policies(o, translate.Options{AllowLoadBalancerProbes: true})
		tables, err := compiled(set, cluster)
		if err != nil {
			return nil, err
		}
		d := tables.decide(node, policy.Connection(q))
		return policyapi.Answer{Decision: policyapi.DecisionOf(d), State: "Following: all is well"}, nil
	}
}

// The compiler and both kernels are asked; where they differ is said, by an exit status of its own.
func TestTraceAsksKernels(t *testing.T) {
	f := newFleet(t)
	f.answers[policyapi.PathVerdict] = f.kernel(t)
	out, err := f.run(t, "trace", "--from", "shop/web", "--to", "10.0.0.2", "--port", "tcp/5432")
	if want := `shop/web (10.0.0.1) to shop/db (10.0.0.2)
egress at shop/web: allow: no policy selects the pod for it, or all pass it on
  node n1: its kernel says the same
ingress at shop/db: allow: NetworkPolicy shop/db, ingress rule 0, in tier default
  node n2: its kernel says the same
`; out != want || err != nil {
		t.Errorf("%s%v, want\n%s", out, err, want)
	}
	out, err = f.run(t, "trace", "--from", "198.51.100.7", "--to", "shop/db", "--port", "5432")
	if err == nil || err.Error() != "ingress at shop/db is denied" || !strings.Contains(out, "node n2: its kernel says the same\n") {
		t.Errorf("%s%v", out, err)
	}

	// A kernel that has not heard of it.
	times := 0
	f.answers[policyapi.PathVerdict] = func(node string, query url.Values) (any, error) {
		if a, err := f.kernel(t)(node, query); node == "n1" || err != nil {
			return a, err
		}
		times++
		return policyapi.Answer{Decision: policyapi.DecisionOf(policy.Decision{Action: policy.Deny, Reason: policy.ByTier, Tier: "default"}), State: "HubAway: for a while"}, nil
	}
	out, err = f.run(t, "trace", "--from", "shop/web", "--to", "shop/db", "--port", "5432")
	var exit interface{ ExitStatus() int }
	if !errors.As(err, &exit) || exit.ExitStatus() != 3 || times != 2 || !strings.Contains(err.Error(), "ingress at shop/db: node n2 says deny: the end of tier default") ||
		!strings.Contains(err.Error(), "policies say allow: NetworkPolicy shop/db, ingress rule 0") || !strings.Contains(out, "  node n2: HubAway: for a while\n") {
		t.Errorf("%s%v, asked %d times", out, err, times)
	}
}

// What agents answer is checked, and what they cannot answer is said.
func TestTraceTakesNoNonsense(t *testing.T) {
	f := newFleet(t)
	for answer, want := range map[string]string{
		`{`: "read the agent's answer",
		`{"decision": {"action": "maybe", "reason": "none"}}`:                                                                                     `action "maybe": want allow or deny`,
		`{"decision": {"action": "deny", "reason": "why"}}`:                                                                                       `reason "why": want none, rule, tier or closed`,
		`{"decision": {"action": "deny", "reason": "rule"}}`:                                                                                      "want rule, if and only if there is one",
		`{"decision": {"action": "deny", "reason": "tier", "tier": "a\u001b[2J"}}`:                                                                "letters that can be printed",
		`{"decision": {"action": "deny", "reason": "rule", "rule": {"kind": "NetworkPolicy", "name": "x", "direction": "up", "number": 1}}}`:      `"up": want ingress or egress`,
		`{"decision": {"action": "deny", "reason": "rule", "rule": {"kind": "NetworkPolicy", "name": "x", "direction": "egress", "number": -1}}}`: `number "-1": want 0 or more`,
		`{"decision": {"action": "deny", "reason": "rule", "rule": {"kind": "NetworkPolicy", "name": "", "direction": "ingress", "number": 1}}}`:  `name "": want a name`,
		`{"decision": {"action": "deny", "reason": "none", "logs": [{"kind": "", "name": "x", "direction": "ingress", "number": 1}]}}`:            `kind "": want a name`,
	} {
		f.answers[policyapi.PathVerdict] = func(string, url.Values) (any, error) { return answer, nil }
		out, err := f.run(t, "trace", "--from", "shop/web", "--to", "shop/db", "--port", "5432")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %s%v, want %s", answer, out, err, want)
		}
	}
	f.answers = nil
	if out, err := f.run(t, "trace", "--from", "shop/web", "--to", "shop/db", "--port", "5432"); err == nil || !strings.Contains(err.Error(), "egress at shop/web: the kernel was not asked: node n1: 404") {
		t.Errorf("%s%v", out, err)
	}
	if out, err := f.run(t, "trace", "--from", "shop/web", "--to", "shop/gone", "--port", "5432"); err == nil || !strings.Contains(err.Error(), "--to shop/gone: there is no such pod in the cluster") {
		t.Errorf("%s%v", out, err)
	}
}

// silent are agents that do not answer.
type silent struct{ agents.Fleet }

func (silent) Ask(ctx context.Context, _, _ string, _ io.Writer) error {
	<-ctx.Done()
	return ctx.Err()
}

// An agent that does not answer is named, and nobody waits for it for ever; who gives up is not told so.
func TestSilentAgents(t *testing.T) {
	o := &online{agents: silent{}, within: time.Millisecond}
	if _, err := o.ask(t.Context(), "n1", "/"); err == nil || err.Error() != "node n1: its agent has not answered in 1ms" {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := o.follow(ctx, []string{"n1", "n2"}, policyapi.FlowsQuery{Follow: true}, nil); err != nil {
		t.Error(err)
	}
}

// Whether health checks are let in is read from the cluster.
func TestProbesOfTheCluster(t *testing.T) {
	f := newFleet(t, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "terway", Name: "eni-config"},
		Data:       map[string]string{"eni-config.yaml": "{cluster_id: c, region: cn-hangzhou, service_cidr: 172.21.0.0/20, vswitches: {cn-hangzhou-i: [vsw-1]}, policy_allow_load_balancer_probes: false}"},
	})
	f.answers[policyapi.PathVerdict] = func(string, url.Values) (any, error) {
		return policyapi.Answer{Decision: policyapi.DecisionOf(policy.Decision{Action: policy.Allow})}, nil
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "ingress at shop/db: allow: Setting policy_allow_load_balancer_probes"},
		{[]string{"--terway-namespace", "terway"}, "ingress at shop/db: deny: the end of tier default"},
		{[]string{"--terway-namespace", "terway", "--allow-load-balancer-probes"}, "ingress at shop/db: allow: Setting"},
	} {
		if out, _ := f.run(t, append([]string{"trace", "--from", "100.64.0.1", "--to", "shop/db", "--port", "80"}, c.args...)...); !strings.Contains(out, c.want) {
			t.Errorf("%s: %s, want %s", c.args, out, c.want)
		}
	}
	if out, err := f.run(t, "lint"); err != nil {
		t.Errorf("%s%v", out, err)
	}
}
