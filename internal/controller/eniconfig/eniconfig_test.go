package eniconfig

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/datapath/claims"
)

const good = "{cluster_id: c1, region: cn-hangzhou, vswitches: {cn-hangzhou-i: [vsw-1]}, service_cidr: 172.21.0.0/20}"

type recorder chan string

func (r recorder) Eventf(regarding runtime.Object, _ runtime.Object, kind, reason, _, note string, args ...any) {
	r <- fmt.Sprintf("%s %s %s", kind, reason, fmt.Sprintf(note, args...))
}

type world struct {
	*testing.T
	kube   client.Client
	events recorder
	w      *Watcher
	reg    *prometheus.Registry
}

func newWorld(t *testing.T) *world {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	x := &world{T: t, kube: fake.NewClientBuilder().WithScheme(scheme).Build(), events: make(recorder, 100), reg: prometheus.NewRegistry()}
	x.w = New(Options{
		Client: x.kube, Live: x.kube, Namespace: "ns", Events: x.events, Log: slog.New(slog.DiscardHandler), Metrics: x.reg,
		Leads: func() bool { return true }, Retry: time.Millisecond,
	})
	return x
}

func configMap(data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "eni-config"}, Data: data}
}

// metric is terway_controller_config_last_reload_successful.
func (x *world) metric() float64 {
	x.Helper()
	all, err := x.reg.Gather()
	x.must(err)
	return all[0].Metric[0].Gauge.GetValue()
}

func (x *world) must(err error) {
	x.Helper()
	if err != nil {
		x.Fatal(err)
	}
}

func (x *world) put(text string) {
	x.Helper()
	m := configMap(map[string]string{"eni-config.yaml": text})
	if err := x.kube.Create(context.Background(), m); err != nil {
		x.must(x.kube.Update(context.Background(), m))
	}
}

func (x *world) reconcile() {
	x.Helper()
	_, err := x.w.Reconcile(context.Background(), ctrl.Request{})
	x.must(err)
}

func (x *world) expect(event string) {
	x.Helper()
	select {
	case e := <-x.events:
		if !strings.Contains(e, event) {
			x.Fatalf("event %q, want one with %q", e, event)
		}
	case <-time.After(time.Minute):
		x.Fatalf("no event, want one with %q", event)
	}
}

// At the start it waits, reports each new problem once, and is not ready until the configuration is
// valid.
func TestFirst(t *testing.T) {
	x := newWorld(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		store, err := x.w.First(context.Background())
		if err != nil || store.Get().ClusterID != "c1" {
			t.Errorf("%v, %v", store, err)
		}
	}()
	x.expect("Warning ConfigurationRefused nothing is done until it is valid: there is no ConfigMap ns/eni-config")
	if err := x.w.Ready(nil); err == nil || !strings.Contains(err.Error(), "there is no ConfigMap") {
		t.Errorf("readiness: %v", err)
	}
	x.must(x.kube.Create(context.Background(), configMap(map[string]string{"eni_conf": "{}"})))
	x.expect("terwayctl config convert")
	x.put("region: [7]")
	x.expect("region a list: want text")
	x.put("{network: magic, min_pool_size: -1, cluster_id: c, region: cn-hangzhou, vswitches: {cn-hangzhou-a: [vsw-1]}, service_cidr: 10.0.0.0/8}")
	x.expect(`network "magic": want one of terway, flannel; min_pool_size -1`)
	x.put(good)
	<-done
	if err := x.w.Ready(nil); err != nil {
		t.Errorf("readiness: %v", err)
	}
	if v := x.metric(); v != 1 {
		t.Errorf("the metric is %v", v)
	}
	if n := len(x.events); n != 0 {
		t.Errorf("%d more events, %q", n, <-x.events)
	}
}

// The first configuration must not contradict what nodes have.
func TestSettled(t *testing.T) {
	node := func(name, cluster string, enis ...v1alpha1.ENI) *v1alpha1.NodeNetwork {
		return &v1alpha1.NodeNetwork{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.NodeNetworkSpec{ClusterID: cluster, ENIs: enis}}
	}
	x := newWorld(t)
	x.must(x.kube.Create(context.Background(), node("idle", "c0")))
	x.must(x.kube.Create(context.Background(), node("n1", "c0", v1alpha1.ENI{Token: "t"})))
	x.put(good)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { _, err := x.w.First(ctx); done <- err }()
	x.expect(`cluster_id "c1": the ENIs of 1 nodes (n1, …) carry "c0"`)
	x.put("{cluster_id: c0, region: cn-hangzhou, network: flannel, pod_cidr: 172.20.0.0/16, service_cidr: 172.21.0.0/20}")
	x.expect("network flannel: 1 nodes (n1, …) have ENIs")
	cancel()
	if err := <-done; err == nil {
		t.Error("it was taken")
	}
	x.must(x.kube.Delete(context.Background(), node("n1", "")))
	x.put(good)
	if _, err := x.w.First(context.Background()); err != nil {
		t.Error(err)
	}
}

// lister counts lists.
type lister struct {
	client.Reader
	lists atomic.Int64
}

func (l *lister) List(ctx context.Context, list client.ObjectList, opts ...client.ListOption) error {
	l.lists.Add(1)
	return l.Reader.List(ctx, list, opts...)
}

// While a configuration contradicts the nodes, the cluster is not listed continuously; a change of
// the nodes is noticed after a while.
func TestSettledListsRarely(t *testing.T) {
	x := newWorld(t)
	n1 := &v1alpha1.NodeNetwork{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Spec: v1alpha1.NodeNetworkSpec{ClusterID: "c0", ENIs: []v1alpha1.ENI{{Token: "t"}}}}
	x.must(x.kube.Create(context.Background(), n1))
	counted := &lister{Reader: x.kube}
	var looks atomic.Int64
	x.w.Live = reader{counted, func() { looks.Add(1) }}
	x.put(good)
	done := make(chan error)
	go func() { _, err := x.w.First(context.Background()); done <- err }()
	x.expect(`carry "c0"`)
	for looks.Load() < 100 {
		time.Sleep(time.Millisecond)
	}
	if n := counted.lists.Load(); n > 2*8 {
		t.Errorf("%d lists in 100 reads", n)
	}
	x.must(x.kube.Delete(context.Background(), n1))
	x.must(<-done)
}

// reader calls a function at each read of the ConfigMap.
type reader struct {
	client.Reader
	look func()
}

func (r reader) Get(ctx context.Context, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
	r.look()
	return r.Reader.Get(ctx, key, obj, opts...)
}

// After a long outage of the API server, the nodes are listed soon once it is back.
func TestSettledAfterAnOutage(t *testing.T) {
	x := newWorld(t)
	x.put(good)
	const back = 260
	looks := 0
	x.w.Live = away{reader{x.kube, func() { looks++ }}, func() bool { return looks < back }}
	if _, err := x.w.First(context.Background()); err != nil {
		t.Fatal(err)
	}
	if looks > back+4 {
		t.Errorf("the configuration was applied after %d reads, the API server was back at %d", looks, back)
	}
}

// away is an API server whose lists fail for a while.
type away struct {
	client.Reader
	now func() bool
}

func (a away) List(ctx context.Context, list client.ObjectList, opts ...client.ListOption) error {
	if a.now() {
		return errors.New("too many requests")
	}
	return a.Reader.List(ctx, list, opts...)
}

// Nor the blocks from which Flannel's pods have their addresses.
func TestSettledWithFlannel(t *testing.T) {
	const flannel = "{cluster_id: c1, region: cn-hangzhou, network: flannel, pod_cidr: %s, service_cidr: 172.21.0.0/20}"
	node := func(name, block string) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{claims.AnnotationPodCIDR: block}}}
	}
	x := newWorld(t)
	ignored := node("ignored", "10.9.0.0/24")
	ignored.Labels = map[string]string{"network.terway.dev/ignore": "true"}
	x.must(x.kube.Create(context.Background(), ignored))
	x.put(good)
	if _, err := x.w.First(context.Background()); err != nil {
		t.Error(err)
	}
	x.must(x.kube.Create(context.Background(), node("n1", "172.20.1.0/24")))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { _, err := x.w.First(ctx); done <- err }()
	x.expect("network terway: the pods of 1 nodes (n1, …) have addresses of Flannel's blocks. Write flannel again")
	x.put(fmt.Sprintf(flannel, "10.9.0.0/16"))
	x.expect("pod_cidr 10.9.0.0/16: the pods of all 1 nodes (n1: 172.20.1.0/24, …) have addresses outside of it")
	cancel()
	if err := <-done; err == nil {
		t.Error("it was taken")
	}
	// A single node of several may be wrong.
	x.put(fmt.Sprintf(flannel, "172.20.0.0/16"))
	x.must(x.kube.Create(context.Background(), node("n2", "10.9.1.0/24")))
	if _, err := x.w.First(context.Background()); err != nil {
		t.Error(err)
	}
}

// An invalid configuration changes nothing and is reported once; replicas that do not lead report
// nothing.
func TestReconcile(t *testing.T) {
	x := newWorld(t)
	x.put(good)
	store, err := x.w.First(context.Background())
	x.must(err)
	first := store.Get()
	x.put("{colour: red}")
	for range 3 {
		x.reconcile()
	}
	x.expect("Warning ConfigurationRefused the last valid one stays in force: \"colour\" is not a key")
	if v := x.metric(); v != 0 || store.Get() != first {
		t.Errorf("the metric is %v", v)
	}
	// Back to the configuration in force: no change, and no problem any more.
	x.put(good)
	x.reconcile()
	if v := x.metric(); v != 1 || store.Get() != first {
		t.Errorf("the metric is %v", v)
	}
	x.must(x.kube.Delete(context.Background(), configMap(nil)))
	x.reconcile()
	x.expect("there is no ConfigMap")
	x.put(strings.Replace(good, "}", ", vsw-", 1)) // not YAML
	x.reconcile()
	x.expect("not YAML")
	x.put(strings.TrimSuffix(good, "}") + ", min_pool_size: 1}")
	x.reconcile()
	x.expect("Normal ConfigurationChanged in force now: min_pool_size: 3 → 1")
	if store.Get().MinPoolSize != 1 {
		t.Error("it is not in force")
	}
	x.w.Leads = func() bool { return false }
	x.put("{region: " + strings.Repeat("x", 2000) + "}")
	x.reconcile()
	if n := len(x.events); n != 0 {
		t.Errorf("%d events, %q", n, <-x.events)
	}
	x.w.Leads = func() bool { return true }
	x.put("{region: " + strings.Repeat("x", 2001) + "}")
	x.reconcile()
	select {
	case e := <-x.events:
		if len(e) > noteLimit+len("Warning ConfigurationRefused ") || !strings.HasSuffix(e, "controller's log)") {
			t.Errorf("%d bytes: %q", len(e), e)
		}
	default:
		t.Error("no event")
	}
}
