//go:build e2e

package api

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	cnpv1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	v3 "terway.dev/terway/api/calico/v3"
	"terway.dev/terway/internal/controller/policyhub"
	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/policy/compile"
	"terway.dev/terway/internal/policy/hub"
	"terway.dev/terway/internal/policy/node"
	"terway.dev/terway/internal/policy/translate"
	"terway.dev/terway/internal/policy/wire"
)

const system, shop, follower = "kube-system", "hub-shop", "node1"

// a cluster for the hub: two replicas read it, and one node follows them.
type hubs struct {
	*testing.T
	kube client.Client
	rest *rest.Config

	mu        sync.Mutex
	addresses []string
	part      string // what the node was given
}

// serves has two replicas of the hub read the API server, and a node follow them with a token of the API server's.
func serves(t *testing.T, kube client.Client, kubeconfig string) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	h := &hubs{T: t, kube: kube, rest: config}
	labels := func(app string) map[string]string { return map[string]string{"app": app} }
	name := metav1.ObjectMeta{Namespace: system, Name: policyhub.Name}
	h.create(&corev1.Secret{ObjectMeta: name}, &corev1.ConfigMap{ObjectMeta: name},
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: policyhub.Agents}},
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: follower}},
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: shop}},
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: shop, Name: "default"}},
	)
	agent := h.pod(system, "terwayd-x", follower, "", nil)
	h.pod(shop, "db", follower, "10.0.0.1", labels("db"))
	h.pod(shop, "web", "node2", "10.0.0.2", labels("web"))

	stopA, a := h.replica("a")
	leads := h.lead(a)
	cl := h.follow(agent)
	h.settled("the first part")

	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: shop, Name: "db"}, Spec: networkingv1.NetworkPolicySpec{
		PodSelector: metav1.LabelSelector{MatchLabels: labels("db")},
		Ingress: []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{
			{PodSelector: &metav1.LabelSelector{MatchLabels: labels("web")}},
		}}},
	}}
	h.create(p)
	if h.settled("a policy that is created"); len(h.want().Peers) == 0 {
		t.Fatal("the part is empty: this test sees nothing")
	}
	h.pod(shop, "web-2", "node2", "10.0.0.3", labels("web"))
	h.settled("another pod that it allows")
	p.Spec.Ingress = nil
	h.must(kube.Update(t.Context(), p))
	h.settled("a policy that is changed")
	h.must(kube.Delete(t.Context(), p))
	h.settled("a policy that is deleted")

	global := &v3.GlobalNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "hub"}, Spec: v3.GlobalNetworkPolicySpec{PolicySpec: v3.PolicySpec{
		Selector: "app == 'db'", Tier: "hub",
		Ingress: []v3.Rule{{Action: v3.Allow, HTTP: &v3.HTTPMatch{Methods: []string{"GET"}}}, {Action: v3.Deny, Source: v3.EntityRule{Nets: []string{"10.0.0.0/8"}}}},
	}}}
	h.create(global)
	h.settled("a policy whose tier is not there")
	h.condition(global, func() []metav1.Condition { return global.Status.Conditions }, "PolicyRefused", "spec.tier")

	// The other replica has another history, and the node goes on with it.
	_, b := h.replica("b")
	leads()
	stopA()
	eventually(t, "the node follows the other replica", func() error {
		if s := cl.Status(); !s.Following || s.Hub != "b" {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	h.settled("the part by the other replica")
	order := 10.0
	h.create(&v3.Tier{ObjectMeta: metav1.ObjectMeta{Name: "hub"}, Spec: v3.TierSpec{Order: &order}})
	h.settled("the tier comes")
	h.lead(b)
	h.condition(global, func() []metav1.Condition { return global.Status.Conditions }, "PolicyNotEnforced", "spec.ingress[0].http")
	global.Spec.Ingress = global.Spec.Ingress[1:]
	h.must(kube.Update(t.Context(), global))
	h.settled("the rule is taken out")
	h.condition(global, func() []metav1.Condition { return global.Status.Conditions }, "", "")

	cluster := &cnpv1.ClusterNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "hub"}, Spec: cnpv1.ClusterNetworkPolicySpec{
		Tier: cnpv1.AdminTier, Subject: cnpv1.ClusterNetworkPolicySubject{Namespaces: &metav1.LabelSelector{}},
		Egress: []cnpv1.ClusterNetworkPolicyEgressRule{{Action: cnpv1.ClusterNetworkPolicyRuleActionAccept, To: []cnpv1.ClusterNetworkPolicyEgressPeer{{DomainNames: []cnpv1.DomainName{"example.com"}}}}},
	}}
	h.create(cluster)
	h.settled("a policy of the cluster")
	h.condition(cluster, func() []metav1.Condition { return cluster.Status.Conditions }, "PolicyNotEnforced", "domainNames")
}

func (h *hubs) must(err error) {
	h.Helper()
	if err != nil {
		h.Fatal(err)
	}
}

func (h *hubs) create(objects ...client.Object) {
	h.Helper()
	for _, o := range objects {
		h.must(h.kube.Create(h.Context(), o))
	}
}

func (h *hubs) pod(namespace, name, on, address string, labels map[string]string) *corev1.Pod {
	h.Helper()
	no := false
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels}, Spec: corev1.PodSpec{
		NodeName: on, AutomountServiceAccountToken: &no, Containers: []corev1.Container{{Name: "x", Image: "x"}},
	}}
	if namespace == system {
		p.Spec.ServiceAccountName = policyhub.Agents
	}
	h.create(p)
	p.Status.Phase = corev1.PodRunning
	if address != "" {
		p.Status.PodIP, p.Status.PodIPs = address, []corev1.PodIP{{IP: address}}
	}
	h.must(h.kube.Status().Update(h.Context(), p))
	return p
}

// replica starts one, and waits until it is ready.
func (h *hubs) replica(name string) (stop func(), s *policyhub.Server) {
	h.Helper()
	objects, err := cache.New(h.rest, policyhub.CacheOptions(cache.Options{Scheme: h.kube.Scheme(), Mapper: h.kube.RESTMapper()}))
	h.must(err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	h.must(err)
	at := l.Addr().String()
	h.must(l.Close())
	s = policyhub.New(policyhub.Options{
		Namespace: system, Address: at, Replica: name, Cache: objects, Live: h.kube, Client: h.kube, Budget: compile.DefaultBudget, Settings: func() translate.Options { return settings },
		Events: events.NewFakeRecorder(100), Metrics: prometheus.NewRegistry(), Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Clock: clock.RealClock{},
		Retry: 100 * time.Millisecond, Look: time.Second,
	})
	stop = h.run(s.Start)
	eventually(h.T, "replica "+name+" is ready", func() error { return s.Ready(nil) })
	h.mu.Lock()
	defer h.mu.Unlock()
	h.addresses = append(h.addresses, at)
	return stop, s
}

func (h *hubs) lead(s *policyhub.Server) (stop func()) { return h.run(s.Report) }

// run runs something until the test ends, or stop.
func (h *hubs) run(start func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- start(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			h.Error(err)
		}
	})
	h.Cleanup(stop)
	return stop
}

// follow starts a node, whose token is that of its agent's pod.
func (h *hubs) follow(agent *corev1.Pod) *node.Client {
	h.Helper()
	request := &authv1.TokenRequest{Spec: authv1.TokenRequestSpec{
		Audiences:      []string{hub.Audience},
		BoundObjectRef: &authv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: agent.Name, UID: agent.UID},
	}}
	h.must(h.kube.SubResource("token").Create(h.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: policyhub.Agents}}, request))
	cl := node.New(node.Config{
		Path: filepath.Join(h.TempDir(), "state"), Consumer: h, Version: "test", ServerName: policyhub.Host(system),
		Hubs: func(context.Context) ([]string, error) {
			h.mu.Lock()
			defer h.mu.Unlock()
			return h.addresses, nil
		},
		Trust: func() ([]byte, error) {
			var m corev1.ConfigMap
			err := h.kube.Get(context.Background(), client.ObjectKey{Namespace: system, Name: policyhub.Name}, &m)
			return []byte(m.Data["ca.crt"]), err
		},
		Token: func() (string, error) { return request.Status.Token, nil },
		Log:   slog.New(slog.NewTextHandler(io.Discard, nil)), Clock: clock.RealClock{},
	})
	h.run(func(ctx context.Context) error {
		cl.Run(ctx)
		return nil
	})
	return cl
}

// Apply implements node.Consumer.
func (h *hubs) Apply(part *wire.Part, _ *wire.Keys) error {
	n := part.Node()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.part = contents(n)
	return n.Complete()
}

// contents are a part's resources by name, which is a hash of what each has.
func contents(n *compile.Node) string {
	var names []string
	for _, r := range wire.Encode(n, nil) {
		names = append(names, fmt.Sprintf("%s %x", r.Kind, r.Name))
	}
	slices.Sort(names)
	return strings.Join(names, "\n")
}

var settings = translate.Options{AllowLoadBalancerProbes: true}

// want is what the node should have, by all that the API server has.
func (h *hubs) want() *compile.Node {
	h.Helper()
	var o translate.Objects
	read(h, &corev1.PodList{}, &o.Pods)
	read(h, &corev1.NamespaceList{}, &o.Namespaces)
	read(h, &corev1.NodeList{}, &o.Nodes)
	read(h, &corev1.ServiceAccountList{}, &o.ServiceAccounts)
	read(h, &networkingv1.NetworkPolicyList{}, &o.NetworkPolicies)
	read(h, &v3.NetworkPolicyList{}, &o.CalicoPolicies)
	read(h, &v3.NetworkSetList{}, &o.NetworkSets)
	read(h, &v3.GlobalNetworkSetList{}, &o.GlobalNetworkSets)
	read(h, &v3.HostEndpointList{}, &o.HostEndpoints)
	read(h, &v3.GlobalNetworkPolicyList{}, &o.GlobalNetworkPolicies)
	read(h, &v3.TierList{}, &o.Tiers)
	read(h, &cnpv1.ClusterNetworkPolicyList{}, &o.ClusterNetworkPolicies)
	set, _ := translate.Policies(o, settings)
	cluster, _ := translate.Cluster(o)
	c, err := compile.Compile(set, cluster, compile.DefaultBudget)
	h.must(err)
	return c.ForNode(follower)
}

func read[T client.Object](h *hubs, from client.ObjectList, to *[]T) {
	h.Helper()
	h.must(h.kube.List(h.Context(), from))
	h.must(meta.EachListItem(from, func(o runtime.Object) error {
		*to = append(*to, o.(T))
		return nil
	}))
}

// settled waits until the node has what it should.
func (h *hubs) settled(what string) {
	h.Helper()
	want := contents(h.want())
	eventually(h.T, what, func() error {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.part != want {
			return fmt.Errorf("the node has\n%s\nwant\n%s", h.part, want)
		}
		return nil
	})
}

// condition waits for what is said of an object; reason "": nothing.
func (h *hubs) condition(o client.Object, of func() []metav1.Condition, reason, says string) {
	h.Helper()
	eventually(h.T, "the condition of "+o.GetName(), func() error {
		h.must(h.kube.Get(h.Context(), client.ObjectKeyFromObject(o), o))
		c := meta.FindStatusCondition(of(), policyhub.Programmed)
		switch {
		case reason == "" && c == nil:
			return nil
		case reason == "" || c == nil || c.Reason != reason || !strings.Contains(c.Message, says) || c.Status != metav1.ConditionFalse || c.ObservedGeneration != o.GetGeneration():
			return fmt.Errorf("%+v", c)
		}
		return nil
	})
}

func eventually(t *testing.T, what string, is func() error) {
	t.Helper()
	var last error
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := lab.Poll(ctx, 20*time.Millisecond, func() (bool, error) {
		last = is()
		return last == nil, nil
	}); err != nil {
		t.Fatalf("%s: %v", what, last)
	}
}
