package policyhub_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllertest"
	cnpv1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	v3 "terway.dev/terway/api/calico/v3"
	"terway.dev/terway/internal/controller/policyhub"
	"terway.dev/terway/internal/policy/compile"
	"terway.dev/terway/internal/policy/node"
	"terway.dev/terway/internal/policy/translate"
	"terway.dev/terway/internal/policy/wire"
)

const namespace = "kube-system"

// A world is a cluster of objects, which replicas watch. A token is a node's name.
type world struct {
	*testing.T
	kube   client.WithWatch
	events *events.FakeRecorder
	budget compile.Budget
	// noProbes is the setting that load balancers' health checks need rules.
	noProbes atomic.Bool

	mu       sync.Mutex
	replicas []*replica
	// absent are kinds that are not installed.
	absent map[reflect.Type]bool
}

func newWorld(t *testing.T, objects ...client.Object) *world {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v3.AddToScheme, cnpv1.Install} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	w := &world{T: t, absent: map[reflect.Type]bool{}, events: events.NewFakeRecorder(100), budget: compile.DefaultBudget}
	meta := metav1.ObjectMeta{Namespace: namespace, Name: policyhub.Name}
	w.kube = fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).
		WithObjects(&corev1.Secret{ObjectMeta: meta}, &corev1.ConfigMap{ObjectMeta: meta}).
		WithStatusSubresource(&v3.NetworkPolicy{}, &v3.GlobalNetworkPolicy{}, &v3.Tier{}, &cnpv1.ClusterNetworkPolicy{}).
		WithInterceptorFuncs(interceptor.Funcs{Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			if r, ok := o.(*authv1.TokenReview); ok {
				return review(r)
			}
			return c.Create(ctx, o, opts...)
		}}).Build()
	return w
}

// token is an agent's, of a node.
func token(node string) string {
	claims, err := json.Marshal(map[string]any{"exp": time.Now().Add(time.Hour).Unix(), "node": node})
	if err != nil {
		panic(err)
	}
	return "e30." + base64.RawURLEncoding.EncodeToString(claims) + ".c2ln"
}

// review does what the API server does.
func review(r *authv1.TokenReview) error {
	var claims struct{ Node string }
	var body string
	if _, err := fmt.Sscanf(r.Spec.Token, "e30.%s", &body); err != nil {
		return err
	}
	text, err := base64.RawURLEncoding.DecodeString(body[:len(body)-len(".c2ln")])
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, &claims); err != nil {
		return err
	}
	r.Status = authv1.TokenReviewStatus{Authenticated: true, Audiences: r.Spec.Audiences, User: authv1.UserInfo{
		Username: "system:serviceaccount:" + namespace + ":" + policyhub.Agents,
		Extra: map[string]authv1.ExtraValue{
			"authentication.kubernetes.io/pod-name": {"terwayd-x"}, "authentication.kubernetes.io/pod-uid": {"1"},
			"authentication.kubernetes.io/node-name": {claims.Node},
		},
	}}
	return nil
}

// A replica has a cache of its own.
type replica struct {
	*policyhub.Server
	cache   *objectCache
	address string
	stop    func()
	metrics *prometheus.Registry
}

// An objectCache hears of objects when the test says so.
type objectCache struct {
	cache.Cache
	world     *world
	mu        sync.Mutex
	informers map[reflect.Type]*controllertest.FakeInformer
	// hold is a kind that has not been read.
	hold reflect.Type
}

func (c *objectCache) GetInformer(_ context.Context, o client.Object, _ ...cache.InformerGetOption) (cache.Informer, error) {
	kind := reflect.TypeOf(o)
	c.world.mu.Lock()
	absent := c.world.absent[kind]
	c.world.mu.Unlock()
	if absent {
		return nil, &meta.NoKindMatchError{}
	}
	return c.informer(kind), nil
}

func (c *objectCache) informer(kind reflect.Type) *controllertest.FakeInformer {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := c.informers[kind]
	if i == nil {
		if i = controllertest.NewFakeInformer(); kind != c.hold {
			i.Synced()
		}
		c.informers[kind] = i
	}
	return i
}

func (c *objectCache) Start(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

func (c *objectCache) Get(ctx context.Context, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
	return c.world.kube.Get(ctx, key, o, opts...)
}

func (c *objectCache) List(ctx context.Context, list client.ObjectList, opts ...client.ListOption) error {
	return c.world.kube.List(ctx, list)
}

// replica starts one. hold, if not nil, is a kind that it does not read before release.
func (w *world) replica(name string, hold client.Object) *replica {
	w.Helper()
	r := &replica{cache: &objectCache{world: w, informers: map[reflect.Type]*controllertest.FakeInformer{}}, metrics: prometheus.NewRegistry()}
	if hold != nil {
		r.cache.hold = reflect.TypeOf(hold)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.Fatal(err)
	}
	r.address = l.Addr().String()
	if err := l.Close(); err != nil {
		w.Fatal(err)
	}
	r.Server = policyhub.New(policyhub.Options{
		Namespace: namespace, Address: r.address, Replica: name, Cache: r.cache, Live: w.kube, Client: w.kube, Budget: w.budget,
		Settings: func() translate.Options { return translate.Options{AllowLoadBalancerProbes: !w.noProbes.Load()} },
		Events:   w.events, Metrics: r.metrics, Log: slog.New(slog.DiscardHandler), Clock: clock.RealClock{},
		Retry: 10 * time.Millisecond, Look: 20 * time.Millisecond,
	})
	stop := w.run(r.Start)
	r.stop = func() {
		stop()
		w.mu.Lock()
		defer w.mu.Unlock()
		w.replicas = slices.DeleteFunc(slices.Clone(w.replicas), func(o *replica) bool { return o == r })
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.replicas = append(w.replicas, r)
	return r
}

// running are the replicas that have not been stopped.
func (w *world) running() []*replica {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.replicas
}

// run runs something until the test ends, or stop.
func (w *world) run(start func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- start(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.Error(err)
		}
	})
	w.Cleanup(stop)
	return stop
}

// put makes or changes an object, and tells all replicas.
func (w *world) put(o client.Object) {
	w.Helper()
	was := o.DeepCopyObject().(client.Object)
	err := w.kube.Get(w.Context(), client.ObjectKeyFromObject(o), was)
	if err != nil {
		err = w.kube.Create(w.Context(), o)
	} else {
		o.SetResourceVersion(was.GetResourceVersion())
		err = w.kube.Update(w.Context(), o)
	}
	if err != nil {
		w.Fatal(err)
	}
	for _, r := range w.running() {
		r.cache.informer(reflect.TypeOf(o)).Update(o, o.DeepCopyObject().(client.Object))
	}
}

func (w *world) remove(o client.Object) {
	w.Helper()
	if err := w.kube.Delete(w.Context(), o); err != nil {
		w.Fatal(err)
	}
	for _, r := range w.running() {
		r.cache.informer(reflect.TypeOf(o)).Delete(o)
	}
}

// part is what a node should have.
func (w *world) part(name string) *compile.Node {
	w.Helper()
	var o translate.Objects
	list(w, &corev1.PodList{}, &o.Pods)
	list(w, &corev1.NamespaceList{}, &o.Namespaces)
	list(w, &corev1.NodeList{}, &o.Nodes)
	list(w, &v3.GlobalNetworkPolicyList{}, &o.GlobalNetworkPolicies)
	list(w, &v3.NetworkPolicyList{}, &o.CalicoPolicies)
	list(w, &v3.TierList{}, &o.Tiers)
	list(w, &cnpv1.ClusterNetworkPolicyList{}, &o.ClusterNetworkPolicies)
	list(w, &networkingv1.NetworkPolicyList{}, &o.NetworkPolicies)
	set, _ := translate.Policies(o, translate.Options{AllowLoadBalancerProbes: !w.noProbes.Load()})
	cluster, _ := translate.Cluster(o)
	c, err := compile.Compile(set, cluster, compile.DefaultBudget)
	if err != nil {
		w.Fatal(err)
	}
	return c.ForNode(name)
}

func list[T client.Object](w *world, from client.ObjectList, to *[]T) {
	w.Helper()
	if err := w.kube.List(w.Context(), from); err != nil {
		w.Fatal(err)
	}
	if err := meta.EachListItem(from, func(o runtime.Object) error {
		*to = append(*to, o.(T))
		return nil
	}); err != nil {
		w.Fatal(err)
	}
}

// A consumer has what the node was given last.
type consumer struct {
	mu   sync.Mutex
	part string
}

func (c *consumer) Apply(part *wire.Part, _ *wire.Keys) error {
	n := part.Node()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.part = said(n)
	return n.Complete()
}

// said is a part as the names of what it has, which are hashes.
func said(n *compile.Node) string {
	var names []string
	for _, r := range wire.Encode(n, nil) {
		names = append(names, fmt.Sprintf("%s %x", r.Kind, r.Name))
	}
	slices.Sort(names)
	return strings.Join(names, "\n")
}

func (c *consumer) has(n *compile.Node) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if want := said(n); c.part != want {
		return fmt.Errorf("the node has\n%s\nwant\n%s", c.part, want)
	}
	return nil
}

// agent starts an agent that follows the world's replicas.
func (w *world) agent(name string) (*node.Client, *consumer) {
	c := &consumer{}
	cl := node.New(node.Config{
		Path: filepath.Join(w.TempDir(), "state"), Consumer: c, Version: "test", ServerName: policyhub.Host(namespace),
		Hubs: func(context.Context) (list []string, err error) {
			for _, r := range w.running() {
				list = append(list, r.address)
			}
			return list, nil
		},
		Trust: func() ([]byte, error) {
			var m corev1.ConfigMap
			err := w.kube.Get(context.Background(), client.ObjectKey{Namespace: namespace, Name: policyhub.Name}, &m)
			return []byte(m.Data["ca.crt"]), err
		},
		Token: func() (string, error) { return token(name), nil },
		Log:   slog.New(slog.DiscardHandler), Clock: clock.RealClock{},
	})
	w.run(func(ctx context.Context) error {
		cl.Run(ctx)
		return nil
	})
	return cl, c
}

// eventually waits for something to be so.
func eventually(t *testing.T, what string, is func() error) {
	t.Helper()
	err := errors.New("")
	for range 3000 {
		if err = is(); err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%s: %v", what, err)
}

// event waits for an event.
func (w *world) event() string {
	w.Helper()
	select {
	case e := <-w.events.Events:
		return e
	case <-time.After(30 * time.Second):
		w.Fatal("there is no event")
		return ""
	}
}
