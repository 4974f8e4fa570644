package loadbalancer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/scheme"
	"pgregory.net/rapid"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/controller/cloudtest"
	lb "terway.dev/terway/internal/loadbalancer"
)

// tb is what tests and rapid's have.
type tb interface {
	Helper()
	Fatalf(format string, args ...any)
}

// gateWorld is a Service web in namespace ns, its pods, and what its load balancer says.
type gateWorld struct {
	tb
	kube   client.WithWatch
	live   client.Reader
	events *cloudtest.Events
	now    time.Time
	g      *Gates

	members map[int]*Member // by port
	ready   bool            // Members knows them
	// sick has the word for backends that are not healthy, by port and address.
	sick   map[int]map[netip.Addr]string
	asked  map[int]int // calls, by port
	fails  error
	denies string
}

// Health implements cloud.BalancerAPI; Gates make no other call.
func (w *gateWorld) Health(_ context.Context, is cloud.Listener) (cloud.Health, error) {
	w.asked[is.Port]++
	h := cloud.Health{Listed: map[cloud.BackendKey]string{}}
	for _, b := range w.members[is.Port].Backends {
		h.Listed[b.Key()] = w.sick[is.Port][b.Address]
	}
	return h, w.fails
}

func newGateWorld(t tb, ports ...int) *gateWorld {
	w := &gateWorld{tb: t, events: &cloudtest.Events{}, now: time.Unix(1_700_000_000, 0), ready: true,
		members: map[int]*Member{}, sick: map[int]map[netip.Addr]string{}, asked: map[int]int{}}
	w.kube = fake.NewClientBuilder().WithScheme(scheme.Scheme).WithStatusSubresource(&corev1.Pod{}).WithIndex(&corev1.Pod{}, indexGate, gatesOf).Build()
	w.live = w.kube
	for _, port := range ports {
		w.sick[port] = map[netip.Addr]string{}
		w.members[port] = &Member{API: onlyHealth{w: w}, Listener: cloud.Listener{Balancer: "lb-1", Port: port, Protocol: "TCP"}, Port: int32(port), Checked: true}
	}
	w.start()
	w.put(gateService(lb.ClassCLB))
	return w
}

type onlyHealth struct {
	cloud.BalancerAPI
	w *gateWorld
}

func (o onlyHealth) Health(ctx context.Context, is cloud.Listener) (cloud.Health, error) {
	return o.w.Health(ctx, is)
}

// start makes Gates without memory.
func (w *gateWorld) start() {
	w.g = NewGates(GatesOptions{
		Client: w.kube, Live: liveReader{w}, Settings: func() lb.Settings { return lb.Settings{PodBackends: true} },
		Members: func(svc types.NamespacedName) (all []Member, ok bool) {
			for _, port := range slices.Sorted(maps.Keys(w.members)) {
				all = append(all, *w.members[port])
			}
			return all, w.ready && svc.Name == "web"
		},
		DeniesProbes: func(context.Context, *corev1.Pod, uint8, uint16) string { return w.denies },
		Events:       w.events, Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return w.now }, Poll: time.Second,
	})
}

type liveReader struct{ w *gateWorld }

func (l liveReader) Get(ctx context.Context, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
	return l.w.live.Get(ctx, key, o, opts...)
}

func (l liveReader) List(ctx context.Context, list client.ObjectList, opts ...client.ListOption) error {
	return l.w.live.List(ctx, list, opts...)
}

func gateService(class string) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web"}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeLoadBalancer, LoadBalancerClass: &class, Selector: map[string]string{"app": "web"}}}
}

func (w *gateWorld) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatalf("%v", err)
	}
}

// put creates an object, or changes it.
func (w *gateWorld) put(o client.Object) {
	w.Helper()
	was := o.DeepCopyObject().(client.Object)
	if w.kube.Get(context.Background(), client.ObjectKeyFromObject(o), was) == nil {
		o.SetResourceVersion(was.GetResourceVersion())
		w.must(w.kube.Update(context.Background(), o))
		return
	}
	w.must(w.kube.Create(context.Background(), o))
}

func addressOf(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}) }

// addPod runs a pod whose containers are ready.
func (w *gateWorld) addPod(n int) {
	w.Helper()
	w.put(&corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: podName(n), UID: types.UID(podName(n)), Labels: map[string]string{"app": "web"}},
		Spec:       corev1.PodSpec{ReadinessGates: []corev1.PodReadinessGate{{ConditionType: lb.Gate("web")}}},
	})
	p := w.pod(n)
	p.Status.PodIP, p.Status.PodIPs = addressOf(n).String(), []corev1.PodIP{{IP: addressOf(n).String()}}
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.ContainersReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(w.now)}}
	w.must(w.kube.Status().Update(context.Background(), p))
}

func podName(n int) string { return fmt.Sprintf("pod-%d", n) }

func (w *gateWorld) pod(n int) *corev1.Pod {
	w.Helper()
	p := &corev1.Pod{}
	w.must(w.kube.Get(context.Background(), types.NamespacedName{Namespace: "ns", Name: podName(n)}, p))
	return p
}

// gate returns the condition of a pod's gate; empty if there is none.
func (w *gateWorld) gate(n int) corev1.PodCondition {
	w.Helper()
	for _, c := range w.pod(n).Status.Conditions {
		if c.Type == lb.Gate("web") {
			return c
		}
	}
	return corev1.PodCondition{}
}

// register adds pods to the group of a listener.
func (w *gateWorld) register(port int, pods ...int) {
	for _, n := range pods {
		w.members[port].Backends = append(w.members[port].Backends, cloud.Backend{Server: "eni-1", Type: cloud.ServerENI, Address: addressOf(n), Port: 8000 + port, Weight: 100})
	}
}

func (w *gateWorld) look() time.Duration {
	w.Helper()
	r, err := w.g.Reconcile(context.Background(), ctrl.Request{NamespacedName: types.NamespacedName{Namespace: "ns", Name: "web"}})
	w.must(err)
	return r.RequeueAfter
}

func (w *gateWorld) shut(n int, what string) {
	w.Helper()
	if c := w.gate(n); c.Status == corev1.ConditionTrue {
		w.Fatalf("%s: the gate of pod %d is open: %+v", what, n, c)
	}
}

func (w *gateWorld) open(n int, reason string) {
	w.Helper()
	if c := w.gate(n); c.Status != corev1.ConditionTrue || c.Reason != reason || c.Message == "" {
		w.Fatalf("the gate of pod %d: %+v, want it open because of %s", n, c, reason)
	}
}

// A gate opens when the pod is healthy on every listener, and stays open.
func TestGateOpensWhenHealthyOnEveryListener(t *testing.T) {
	w := newGateWorld(t, 80, 443)
	w.addPod(1)
	w.addPod(2)
	w.ready = false
	w.look()
	w.shut(1, "there is no load balancer yet")
	w.ready = true
	w.register(80, 1, 2)
	w.sick[80][addressOf(1)], w.sick[443][addressOf(1)] = "abnormal", "abnormal"
	w.look()
	w.shut(1, "it is not in the group of 443")
	w.shut(2, "it is not in the group of 443")
	if w.asked[443] != 0 {
		t.Errorf("%d calls for a listener that has none of the pods", w.asked[443])
	}
	w.register(443, 1, 2)
	for range 20 {
		if after := w.look(); after != time.Second {
			t.Fatalf("next look after %s: want no growing pauses", after)
		}
		w.shut(1, "it is healthy nowhere")
	}
	w.open(2, lb.GateHealthy)
	delete(w.sick[80], addressOf(1))
	w.look()
	w.shut(1, "it is healthy on 80 alone")
	delete(w.sick[443], addressOf(1))
	w.look()
	w.open(1, lb.GateHealthy)

	w.sick[80][addressOf(1)] = "abnormal"
	w.now = w.now.Add(time.Minute)
	asked := w.asked[80]
	w.look()
	w.open(1, lb.GateHealthy)
	if w.asked[80] != asked {
		t.Error("the load balancer is asked although no pod waits")
	}
}

// Without health checks a gate opens when the pod is a backend of every listener.
func TestGateOpensWhenAdded(t *testing.T) {
	w := newGateWorld(t, 80, 53)
	w.members[53].Checked = false
	w.addPod(1)
	w.register(80, 1)
	w.look()
	w.shut(1, "it is not in the group of 53")
	w.register(53, 1)
	w.sick[80][addressOf(1)] = "abnormal"
	w.look()
	w.shut(1, "it is not healthy on 80")
	delete(w.sick[80], addressOf(1))
	w.look()
	w.open(1, lb.GateAdded)
	if w.asked[53] != 0 {
		t.Error("a listener without health checks was asked for health")
	}
}

// The load balancer is asked only for pods whose containers are ready.
func TestPodsThatAreNotReadyAreNotAskedFor(t *testing.T) {
	w := newGateWorld(t, 80)
	w.addPod(1)
	w.register(80, 1)
	p := w.pod(1)
	p.Status.Conditions[0].Status = corev1.ConditionFalse
	w.must(w.kube.Status().Update(t.Context(), p))
	if after := w.look(); w.asked[80] != 0 || after != lookAgain {
		t.Errorf("%d calls, next look after %s", w.asked[80], after)
	}
	w.shut(1, "its containers are not ready")
}

// A listener whose port names a port that the pod does not have waits for nothing; if all are so, the gate opens with
// that reason. The API server says what the ports name, not a cache.
func TestGateWithoutNamedPort(t *testing.T) {
	w := newGateWorld(t, 80, 443)
	ports := func(first, second string) *corev1.Service {
		svc := gateService(lb.ClassCLB)
		svc.Spec.Ports = []corev1.ServicePort{{Name: "a", Port: 80, TargetPort: intstr.FromString(first)}, {Name: "b", Port: 443, TargetPort: intstr.FromString(second)}}
		return svc
	}
	with := func(n int, name string) {
		w.addPod(n)
		p := w.pod(n)
		p.Spec.Containers = []corev1.Container{{Name: "c", Ports: []corev1.ContainerPort{{Name: name, ContainerPort: 8080, Protocol: corev1.ProtocolTCP}}}}
		w.must(w.kube.Update(t.Context(), p))
	}
	w.put(ports("web", "tls"))
	with(1, "web")
	with(2, "other")
	// The API server has a later one.
	w.live = fake.NewClientBuilder().WithScheme(scheme.Scheme).WithObjects(ports("web", "other")).Build()
	w.ready = false
	w.look()
	w.shut(2, "it is not known what listeners there are")
	w.ready = true
	w.look()
	w.shut(1, "listener 80 does not have it yet")
	w.shut(2, "listener 443 does not have it yet")
	w.register(443, 2)
	w.look()
	w.open(2, lb.GateHealthy)
	with(3, "none")
	w.register(80, 1)
	w.sick[80][addressOf(1)] = "abnormal"
	w.look()
	w.shut(1, "it is not healthy on 80")
	w.open(3, lb.GateNoPort)
	delete(w.sick[80], addressOf(1))
	w.look()
	w.open(1, lb.GateHealthy)
}

// The cache keeps of a pod which ports it has, those of sidecars, too.
func TestCachedPodsKeepPorts(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	pod := &corev1.Pod{Spec: corev1.PodSpec{
		Containers:     []corev1.Container{{Name: "c", Image: "i", Ports: []corev1.ContainerPort{{Name: "web"}}}},
		InitContainers: []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "init"}}}, {Ports: []corev1.ContainerPort{{Name: "sidecar"}}, RestartPolicy: &always}},
	}}
	cached := keep(pod).(*corev1.Pod)
	for _, name := range []string{"web", "sidecar", "init"} {
		port := &corev1.ServicePort{TargetPort: intstr.FromString(name)}
		if is, want := lb.HasPort(cached, port), lb.HasPort(pod, port); is != want || want != (name != "init") {
			t.Errorf("%s: cached %v, the pod %v", name, is, want)
		}
	}
}

// A gate that the pod does not need opens with the reason, also before the containers are ready; but not on the word
// of a cache.
func TestNeedlessGateOpens(t *testing.T) {
	other := gateService(lb.ClassCLB)
	other.Spec.Selector = map[string]string{"app": "other"}
	for reason, now := range map[string]*corev1.Service{lb.GateServiceGone: nil, lb.GateNotLoadBalancer: gateService("of-others"), lb.GateNotSelected: other} {
		w := newGateWorld(t, 80)
		w.addPod(1)
		// The API server still has it as it was.
		w.live = fake.NewClientBuilder().WithScheme(scheme.Scheme).WithObjects(gateService(lb.ClassCLB)).Build()
		if now == nil {
			w.must(w.kube.Delete(t.Context(), gateService(lb.ClassCLB)))
		} else {
			w.put(now)
		}
		w.look()
		w.shut(1, reason+" according to the cache alone")
		w.live = w.kube
		w.look()
		w.open(1, reason)
	}
}

// After half a minute an event and the condition say why a gate is shut: once, and again when that changes.
func TestShutGateIsExplained(t *testing.T) {
	w := newGateWorld(t, 80)
	w.addPod(1)
	w.register(80, 1)
	w.sick[80][addressOf(1)] = "abnormal"
	w.denies = "NetworkPolicy ns/p denies it"
	pass := func(d time.Duration) {
		for end := w.now.Add(d); w.now.Before(end); w.now = w.now.Add(time.Second) {
			w.look()
		}
	}
	pass(30 * time.Second)
	if n := len(w.events.All()); n != 0 {
		t.Fatalf("events before half a minute: %v", w.events.All())
	}
	pass(5 * time.Minute)
	if n := w.events.Count("Warning ReadinessGateShut", "listener TCP 80 of load balancer lb-1", "port 8080: abnormal", "NetworkPolicy ns/p denies it"); n != 1 || len(w.events.All()) != 1 {
		t.Errorf("events %v, want one", w.events.All())
	}
	if c := w.gate(1); c.Status != corev1.ConditionFalse || !strings.Contains(c.Message, "NetworkPolicy ns/p denies it") {
		t.Errorf("condition %+v", c)
	}
	w.fails = errors.New("no answer")
	pass(time.Minute)
	if n := w.events.Count("does not say whether the pod is healthy"); n != 1 || len(w.events.All()) != 2 {
		t.Errorf("events %v, want another one", w.events.All())
	}
	w.fails = nil
	delete(w.sick[80], addressOf(1))
	w.look()
	w.open(1, lb.GateHealthy)
	w.now = w.now.Add(time.Minute)
	w.look()
	if len(w.g.said) != 0 {
		t.Errorf("remembered: %v", w.g.said)
	}
}

// Whatever load balancer, pods and restarts do: a gate opens only when the pod is healthy on all listeners at that
// moment, never shuts again, and opens at last.
func TestGatesOpenOnlyWhenHealthy(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newGateWorld(t, 80, 443)
		healthy := func(n int) bool {
			for port, m := range w.members {
				if !slices.ContainsFunc(m.Backends, func(b cloud.Backend) bool { return b.Address == addressOf(n) }) || w.sick[port][addressOf(n)] != "" {
					return false
				}
			}
			return w.ready && w.fails == nil
		}
		pods := rapid.IntRange(1, 4).Draw(t, "pods")
		for n := range pods {
			w.addPod(n)
		}
		opened := map[int]bool{}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			n, port := rapid.IntRange(0, pods-1).Draw(t, "pod"), rapid.SampledFrom([]int{80, 443}).Draw(t, "port")
			switch rapid.IntRange(0, 6).Draw(t, "what") {
			case 0:
				w.register(port, n)
			case 1:
				w.members[port].Backends = slices.DeleteFunc(w.members[port].Backends, func(b cloud.Backend) bool { return b.Address == addressOf(n) })
			case 2:
				w.sick[port][addressOf(n)] = rapid.SampledFrom([]string{"", "abnormal", "unavailable"}).Draw(t, "health")
			case 3:
				w.ready = !w.ready
			case 4:
				w.start()
			case 5:
				w.now = w.now.Add(time.Duration(rapid.IntRange(1, 40).Draw(t, "seconds")) * time.Second)
			case 6:
				if w.fails = nil; rapid.Bool().Draw(t, "fails") {
					w.fails = errors.New("throttled")
				}
			}
			w.look()
			for n := range pods {
				is := w.gate(n).Status == corev1.ConditionTrue
				switch {
				case opened[n] && !is:
					t.Fatalf("the gate of pod %d has shut", n)
				case is && !opened[n] && !healthy(n):
					t.Fatalf("the gate of pod %d has opened: members %+v, sick %v", n, w.members, w.sick)
				case !is && healthy(n):
					t.Fatalf("pod %d is healthy and its gate is shut", n)
				}
				opened[n] = is
			}
		}
	})
}
