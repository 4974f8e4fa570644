package connectivity

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/agent/policyapi"
	"terway.dev/terway/internal/cli/cluster"
	"terway.dev/terway/internal/connectivity"
	"terway.dev/terway/internal/connectivity/probe"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/policy"
)

const image = "registry.example/terway@sha256:1"

// world is a cluster of two nodes with CoreDNS on n1. Its pods start at once, each on its node's only ENI.
type world struct {
	client client.WithWatch
	// lost says which probes are lost; flows are what each agent answers.
	lost  func(from string, t connectivity.Task) bool
	flows map[string][]policyapi.Flow
	// starts says whether a pod starts.
	starts func(*corev1.Pod) bool
	// sending is called as soon as probes are sent.
	sending func()

	mu    sync.Mutex
	pods  []*corev1.Pod
	seen  []string // marks of datagrams
	asked []string // paths that agents were asked for
}

func newWorld(t *testing.T, more ...client.Object) *world {
	w := &world{lost: func(string, connectivity.Task) bool { return false }, starts: func(*corev1.Pod) bool { return true }, sending: func() {}}
	scheme, err := cluster.Scheme()
	if err != nil {
		t.Fatal(err)
	}
	objects := append(more, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kubernetes"}, Spec: corev1.ServiceSpec{ClusterIP: "172.21.0.1"}},
		&discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "kube-dns-x", Labels: map[string]string{discoveryv1.LabelServiceName: "kube-dns"}},
			Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.1.1.9"}, Conditions: discoveryv1.EndpointConditions{Ready: ptr(true)}}}})
	for i, name := range []string{"n1", "n2"} {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
		n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("10.0.0.%d", i+1)}}
		n.Status.DaemonEndpoints.KubeletEndpoint.Port = 10250
		nn := &v1alpha1.NodeNetwork{ObjectMeta: metav1.ObjectMeta{Name: name}}
		nn.Spec.ENIs = []v1alpha1.ENI{{Token: name, ID: "eni-" + name, Phase: v1alpha1.ENIReady}}
		for _, kind := range []string{v1alpha1.ConditionReady, v1alpha1.ConditionDatapathReady, v1alpha1.ConditionPolicyReady} {
			nn.Status.Conditions = append(nn.Status.Conditions, metav1.Condition{Type: kind, Status: metav1.ConditionTrue})
		}
		for _, a := range []string{"1", "2", "9"} {
			nn.Spec.ENIs[0].Addresses = append(nn.Spec.ENIs[0].Addresses, v1alpha1.Address{Address: fmt.Sprintf("10.1.%d.%s", i+1, a)})
		}
		if name == "n1" {
			nn.Status.Used = []v1alpha1.UsedAddress{{Address: "10.1.1.9", Pod: "kube-system/coredns"}}
		}
		agent := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "terwayd-" + name, Labels: cluster.AgentLabels},
			Spec: corev1.PodSpec{NodeName: name, Containers: []corev1.Container{{Name: "terwayd", Image: image}}}}
		objects = append(objects, n, nn, agent)
	}
	w.client = fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).WithStatusSubresource(&corev1.Pod{}).WithInterceptorFuncs(interceptor.Funcs{Create: w.create}).Build()
	return w
}

// create is what the API server, the scheduler and the kubelets do.
func (w *world) create(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
	switch o := o.(type) {
	case *corev1.Namespace:
		return errors.Join(c.Create(ctx, o, opts...), c.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: o.Name, Name: "default"}}))
	case *corev1.Service:
		o.Spec.ClusterIP = "172.21.1." + strings.TrimPrefix(o.Name, "to-")
		return c.Create(ctx, o, opts...)
	case *corev1.Pod:
		if err := c.Create(ctx, o, opts...); err != nil {
			return err
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.pods = append(w.pods, o.DeepCopy())
		if !w.starts(o) {
			return c.Create(ctx, &corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: o.Namespace, Name: o.Name}, Type: corev1.EventTypeWarning,
				InvolvedObject: corev1.ObjectReference{Name: o.Name}, Reason: "FailedCreatePodSandBox", Message: "no free address"})
		}
		p := o.DeepCopy()
		p.Status = corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
			PodIP: fmt.Sprintf("10.1.%s.%s", strings.TrimPrefix(p.Spec.NodeName, "n"), map[byte]string{'a': "1", 'b': "2"}[p.Name[0]])}
		var nn v1alpha1.NodeNetwork
		if err := errors.Join(c.Status().Update(ctx, p), c.Get(ctx, client.ObjectKey{Name: p.Spec.NodeName}, &nn)); err != nil {
			return err
		}
		nn.Status.Used = append(nn.Status.Used, v1alpha1.UsedAddress{Address: p.Status.PodIP, Pod: p.Namespace + "/" + p.Name})
		return c.Update(ctx, &nn)
	}
	return c.Create(ctx, o, opts...)
}

// send is "terwayd probe run".
func (w *world) send(ctx context.Context, from string, args []string, out io.Writer) error {
	w.sending()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var tasks []connectivity.Task
	if err := json.Unmarshal([]byte(args[3]), &tasks); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, t := range tasks {
		o := connectivity.Outcome{ID: t.ID, Result: connectivity.Answered, Attempts: 1}
		if w.lost(from, t) {
			o = connectivity.Outcome{ID: t.ID, Result: connectivity.Silent, Attempts: 3, Error: "i/o timeout"}
		} else {
			w.seen = append(w.seen, probe.Mark(args[2], t.ID))
		}
		if err := json.NewEncoder(out).Encode(o); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) Nodes(context.Context) ([]string, error) { return []string{"n1", "n2"}, nil }

func (w *world) Ask(_ context.Context, node, path string, out io.Writer) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked = append(w.asked, node+path)
	for _, f := range w.flows[node] {
		if err := json.NewEncoder(out).Encode(f); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) Run(ctx context.Context, node string, args []string, out io.Writer) error {
	return w.send(ctx, node, args, out)
}

// podRunner runs programs in the pods of a world.
type podRunner struct{ *world }

func (w podRunner) Run(ctx context.Context, _, pod, in string, command []string, out io.Writer) error {
	switch {
	case in != "probe" || command[0] != "/usr/bin/terwayd" || command[1] != "probe":
		return fmt.Errorf("%s in container %s", command, in)
	case command[2] == "seen":
		w.mu.Lock()
		defer w.mu.Unlock()
		return json.NewEncoder(out).Encode(w.seen)
	}
	return w.send(ctx, pod, command[1:], out)
}

func (w *world) run(ctx context.Context, o options) (*report, string, error) {
	if o.sample == 0 {
		o.sample = 3
	}
	if o.wait == 0 {
		o.wait = time.Minute
	}
	var said bytes.Buffer
	r := &run{options: o, reader: &cluster.Reader{Reader: w.client, Host: "c", Terway: "kube-system"}, writer: w.client, fleet: w, pods: podRunner{w}, say: &said, poll: time.Millisecond}
	report, err := r.run(ctx)
	return report, said.String(), err
}

// namespaces are those with the command's label.
func (w *world) namespaces(t *testing.T) (names []string) {
	var list corev1.NamespaceList
	if err := w.client.List(context.Background(), &list, client.MatchingLabels{claims.LabelConnectivity: "true"}); err != nil {
		t.Fatal(err)
	}
	for _, ns := range list.Items {
		names = append(names, ns.Name)
	}
	return names
}

func text(t *testing.T, r *report, rows bool) string {
	var out bytes.Buffer
	if err := r.write(&out, rows); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestHealthy(t *testing.T) {
	w := newWorld(t)
	r, _, err := w.run(t.Context(), options{outside: []string{"192.0.2.1:443"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.verdict(); err != nil || len(r.Findings) != 0 || len(r.Lacks) != 0 {
		t.Errorf("verdict %v, findings %+v, lacks %q", err, r.Findings, r.Lacks)
	}
	want := []connectivity.Count{{Kind: connectivity.SameNode, Of: 2}, {Kind: connectivity.OtherNode, Of: 2}, {Kind: connectivity.PodToNode, Of: 4},
		{Kind: connectivity.NodeToPod, Of: 4}, {Kind: connectivity.Service, Of: 4}, {Kind: connectivity.DNS, Of: 4}, {Kind: connectivity.Outside, Of: 2}}
	for i := range want {
		want[i].Answered = want[i].Of
	}
	if !slices.Equal(r.Counts, want) {
		t.Errorf("counts %+v, want %+v", r.Counts, want)
	}
	if left := w.namespaces(t); len(left) != 0 {
		t.Errorf("namespaces %v are left", left)
	}
	if len(w.asked) != 0 {
		t.Errorf("agents were asked %v, although all was answered", w.asked)
	}
	for _, p := range w.pods {
		s := p.Spec.Containers[0].SecurityContext
		if p.Spec.Containers[0].Image != image || p.Spec.HostNetwork || *p.Spec.AutomountServiceAccountToken || !*p.Spec.SecurityContext.RunAsNonRoot ||
			*s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem || p.Spec.ActiveDeadlineSeconds == nil {
			t.Errorf("pod %s has more than it needs: %+v", p.Name, p.Spec)
		}
	}
	if out := text(t, r, false); !strings.Contains(out, "pod to pod, other node  2         2") || !strings.Contains(out, "nodes: n1, n2") {
		t.Errorf("it prints\n%s", out)
	}
	if out := text(t, r, true); strings.Count(out, " answered") != len(r.Probes) {
		t.Errorf("-o table prints\n%s", out)
	}
}

// All that passes the ENI of n2 is lost.
func TestENI(t *testing.T) {
	w := newWorld(t)
	w.lost = func(from string, task connectivity.Task) bool {
		from2 := from == "n2" || from == "a2"
		switch {
		case task.Do == connectivity.Lookup:
			return from == "a2"
		case strings.HasPrefix(task.To, "10.1.2.") || task.To == "172.21.1.2:80":
			return !from2 // to its pods
		case from == "a2":
			return !strings.HasPrefix(task.To, "10.0.0.2:")
		}
		return false
	}
	r, _, err := w.run(t.Context(), options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Findings) != 1 || r.Findings[0].Hops[0] != (connectivity.Hop{Kind: connectivity.HopENI, Name: "eni-n2", Node: "n2"}) || len(r.Findings[0].Hops) != 1 {
		t.Fatalf("findings %+v", r.Findings)
	}
	if !strings.Contains(r.Findings[0].Message, "do not arrive at the other pod") {
		t.Errorf("it does not say which way: %s", r.Findings[0].Message)
	}
	if err := r.verdict(); err == nil || !strings.Contains(err.Error(), " connections were not answered") {
		t.Errorf("verdict: %v", err)
	}
	if out := text(t, r, false); !strings.Contains(out, "problem: eni-n2 of node n2 loses packets") || !strings.Contains(out, "look at: the ENI's security groups") {
		t.Errorf("it prints\n%s", out)
	}
}

// The agent of the pod tells which rule denied it; flows of other pods are not taken for it.
func TestPolicy(t *testing.T) {
	w := newWorld(t)
	w.lost = func(from string, task connectivity.Task) bool { return from == "a1" && task.To == "10.1.2.2:8080" }
	rule := policy.Decision{Action: policy.Deny, Reason: policy.ByRule, Tier: "admin",
		Rule: policy.RuleID{Policy: policy.Ref{Kind: "ClusterNetworkPolicy", Name: "deny"}, Direction: policy.Ingress}}
	decision := policyapi.DecisionOf(rule)
	flow := func(pod string) policyapi.Flow {
		return policyapi.Flow{First: time.Now(), Last: time.Now(), Count: 3, Verdict: policyapi.Denied, Protocol: policy.TCPProtocol,
			From: policyapi.End{Address: "10.1.1.1", Port: 40000}, To: policyapi.End{Address: "10.1.2.2", Port: 8080, Pod: pod}, Ingress: &decision}
	}
	w.flows = map[string][]policyapi.Flow{"n2": {flow("shop/b2")}}
	r, _, err := w.run(t.Context(), options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Findings) != 1 || r.Findings[0].Told {
		t.Fatalf("by another pod's flow: %+v", r.Findings)
	}
	// The namespace's name is made by the run: it is found as soon as probes are sent.
	w.sending = func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.flows["n2"] = []policyapi.Flow{flow("shop/b2"), flow(w.pods[len(w.pods)-1].Namespace + "/b2")}
	}
	if r, _, err = w.run(t.Context(), options{}); err != nil {
		t.Fatal(err)
	}
	if len(r.Findings) != 1 || !r.Findings[0].Told || r.Findings[0].Hops[0].Kind != connectivity.HopPolicy || !strings.Contains(r.Findings[0].Message, "node n2: ingress of pod b2: ClusterNetworkPolicy deny rule 0") {
		t.Errorf("findings %+v", r.Findings)
	}
}

// A pod that does not start is a finding with its event, and the others go on.
func TestNotStarted(t *testing.T) {
	w := newWorld(t)
	w.starts = func(p *corev1.Pod) bool { return p.Name != "b2" }
	r, _, err := w.run(t.Context(), options{wait: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Findings) != 1 || r.Findings[0].Hops[0].Kind != connectivity.HopStart || !strings.Contains(r.Findings[0].Message, "node n2 has not started in 1ms: FailedCreatePodSandBox: no free address") {
		t.Errorf("findings %+v", r.Findings)
	}
	if r.verdict() == nil || len(r.Probes) == 0 {
		t.Errorf("verdict %v after %d probes", r.verdict(), len(r.Probes))
	}
}

// Nothing is left after an interrupt, whenever it comes.
func TestInterrupt(t *testing.T) {
	for _, when := range []string{"pods start", "probes are sent"} {
		w := newWorld(t)
		ctx, cancel := context.WithCancel(t.Context())
		made := 0
		w.starts = func(*corev1.Pod) bool {
			if made++; when == "pods start" && made == 2 {
				cancel()
			}
			return true
		}
		if when == "probes are sent" {
			w.sending = cancel
		}
		_, _, err := w.run(ctx, options{})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("interrupted as %s: %v", when, err)
		}
		if left := w.namespaces(t); len(left) != 0 {
			t.Errorf("interrupted as %s: namespaces %v are left", when, left)
		}
		cancel()
	}
}

// What a killed run has left is removed, and no other run's namespace.
func TestSweep(t *testing.T) {
	old, running, foreign := newNamespace("terway-connectivity-old", time.Now().Add(-time.Minute)), newNamespace("terway-connectivity-running", time.Now().Add(time.Minute)), newNamespace("else", time.Now())
	foreign.Annotations = nil
	w := newWorld(t, old, running, foreign)
	_, said, err := w.run(t.Context(), options{})
	if err != nil {
		t.Fatal(err)
	}
	if left := w.namespaces(t); !slices.Equal(left, []string{"else", "terway-connectivity-running"}) || !strings.Contains(said, "removing namespace terway-connectivity-old") {
		t.Errorf("namespaces %v are left; it said %q", left, said)
	}
}

func TestChosenNodes(t *testing.T) {
	w := newWorld(t)
	for name, want := range map[string]string{"n9": "no such node", "n2": ""} {
		r, _, err := w.run(t.Context(), options{nodes: []string{name}})
		switch {
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("--node %s: %v", name, err)
		case want == "" && (err != nil || !slices.Equal(r.Nodes, []string{name})):
			t.Errorf("--node %s: %v", name, err)
		}
	}
	if left := w.namespaces(t); len(left) != 0 {
		t.Errorf("namespaces %v are left", left)
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{"--sample", "0"}, {"--sample", "21"}, {"--node", "n1", "--sample", "2"}, {"--outside", "www.aliyun.com"}, {"--outside", "h:0"}, {"--wait", "0s"}, {"-o", "wide"}, {"more"}} {
		cmd := NewCommand()
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		cmd.SetArgs(args)
		cmd.SetOut(io.Discard)
		cmd.SetErr(io.Discard)
		if err := cmd.Execute(); err == nil {
			t.Errorf("%q is taken", args)
		}
	}
	var o options
	o.sample, o.wait = 3, time.Minute
	if err := o.check(false); err != nil {
		t.Error(err)
	}
}
