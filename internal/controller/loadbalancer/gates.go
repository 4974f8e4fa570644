package loadbalancer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"terway.dev/terway/internal/cloud"
	lb "terway.dev/terway/internal/loadbalancer"
	"terway.dev/terway/internal/policy"
)

// GatesOptions configure Gates.
type GatesOptions struct {
	// Client reads from a cache, with pods as CachedPods says; Live from the API server.
	Client client.Client
	Live   client.Reader
	// Settings are those of the cluster's configuration.
	Settings func() lb.Settings
	// Members returns the listeners that a Service's load balancer has; ok is false while that is not known, or
	// there is no load balancer yet.
	Members func(svc types.NamespacedName) (members []Member, ok bool)
	// DeniesProbes returns what denies health checks a port of a pod, "" if nothing does; nil if policies are off.
	DeniesProbes func(ctx context.Context, pod *corev1.Pod, protocol uint8, port uint16) string
	Events       events.EventRecorder
	Metrics      prometheus.Registerer
	Log          *slog.Logger
	Now          func() time.Time
	// Poll is the pause between two looks at a listener for which pods wait.
	Poll time.Duration
}

// Gates opens pods' readiness gates: that of a Service opens when its load balancer says that the pod is healthy on
// every listener, or has it as a backend where there is no health check. Only this, and that the pod needs the gate no
// more, opens it; then it stays open. The load balancer is asked again and again, without growing pauses, while pods
// wait whose containers are ready.
type Gates struct {
	GatesOptions
	opened prometheus.Histogram

	mu sync.Mutex
	// said is what was last said about gates that are shut as far as the cache knows, by Service and pod.
	said map[types.NamespacedName]map[types.UID]saying
}

type saying struct {
	why string
	at  time.Time
}

// shutFor is for how long a gate is shut, with the pod's containers ready, until an event says why.
const shutFor = 30 * time.Second

// cacheLag is how long the cache may not have a condition that was written.
const cacheLag = 10 * time.Second

// lookAgain is the pause between looks at Services for whose load balancer pods wait that are not ready otherwise; a
// change of a pod is looked at at once.
const lookAgain = 5 * time.Minute

// NewGates makes Gates.
func NewGates(o GatesOptions) *Gates {
	g := &Gates{GatesOptions: o, said: map[types.NamespacedName]map[types.UID]saying{}, opened: prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "terway_readiness_gate_duration_seconds", Help: "How long readiness gates of load balancers stayed shut after the pods' containers were ready.",
		Buckets: []float64{1, 2, 4, 6, 8, 10, 15, 20, 30, 60, 120, 300},
	})}
	if o.Metrics != nil {
		o.Metrics.MustRegister(g.opened)
	}
	return g
}

// SetupWithManager registers the controller; workers is how many Services are looked at at once.
func (g *Gates) SetupWithManager(mgr ctrl.Manager, workers int) error {
	if err := mgr.GetFieldIndexer().IndexField(context.Background(), &corev1.Pod{}, indexGate, gatesOf); err != nil {
		return fmt.Errorf("index pods by readiness gates: %w", err)
	}
	services := func(_ context.Context, o client.Object) (all []reconcile.Request) {
		for _, name := range gated(o) {
			all = append(all, reconcile.Request{NamespacedName: name})
		}
		return all
	}
	return ctrl.NewControllerManagedBy(mgr).
		Named("readiness-gates").
		For(&corev1.Service{}).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(services)).
		WithOptions(controller.Options{MaxConcurrentReconciles: workers}).
		Complete(g)
}

// Reconcile looks at the gates of one Service. After an error it looks again as soon as after an answer: pauses that
// grow would leave pods waiting for minutes after the cause is gone.
func (g *Gates) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	next, err := g.reconcile(ctx, req.NamespacedName)
	if err != nil {
		if ctx.Err() != nil {
			return ctrl.Result{}, err
		}
		g.Log.Warn("readiness gates", "service", req.NamespacedName, "error", err)
		next = g.Poll
	}
	return ctrl.Result{RequeueAfter: next}, nil
}

// reconcile returns after what time to look again; 0: after a change.
func (g *Gates) reconcile(ctx context.Context, name types.NamespacedName) (next time.Duration, err error) {
	var pods corev1.PodList
	if err := g.Client.List(ctx, &pods, client.InNamespace(name.Namespace), client.MatchingFields{indexGate: name.Name}); err != nil {
		return 0, fmt.Errorf("list the pods with a gate of Service %s: %w", name, err)
	}
	shut := slices.DeleteFunc(pods.Items, func(p corev1.Pod) bool { return p.DeletionTimestamp != nil || lb.IsOpen(&p, name.Name) })
	if shut = g.recall(name, shut); len(shut) == 0 {
		return 0, nil
	}
	svc, err := g.service(ctx, name, shut)
	if err != nil {
		return 0, err
	}
	var errs []error
	var wait []*corev1.Pod
	for i := range shut {
		pod := &shut[i]
		if reason, message, needless := lb.Needless(name.Name, svc, pod.Labels, g.Settings()); needless {
			errs = append(errs, g.open(ctx, pod, name.Name, reason, message))
		} else if _, ready := containersReady(pod); ready {
			wait = append(wait, pod)
		}
	}
	if len(wait) == 0 {
		return lookAgain, errors.Join(errs...)
	}
	found := g.look(ctx, svc, wait)
	for _, pod := range wait {
		if why, of := found.why(pod); why != "" {
			errs = append(errs, g.stays(ctx, svc, pod, found, why))
		} else if of == 0 {
			errs = append(errs, g.open(ctx, pod, svc.Name, lb.GateNoPort, fmt.Sprintf("no container of the pod has a port of a name that spec.ports of Service %s gives, so no load balancer can have it as a backend", svc.Name)))
		} else if found.unchecked > 0 {
			errs = append(errs, g.open(ctx, pod, svc.Name, lb.GateAdded, fmt.Sprintf("the load balancer of Service %s has the pod as a backend; %d of its %d listeners have no health check", svc.Name, found.unchecked, len(found.listeners))))
		} else {
			errs = append(errs, g.open(ctx, pod, svc.Name, lb.GateHealthy, fmt.Sprintf("the load balancer of Service %s says that the pod is healthy", svc.Name)))
		}
	}
	return g.Poll, errors.Join(errs...)
}

// service returns a Service, nil if there is none. The cache may be older than the one by which the webhook decided, so
// only the API server's answer makes a gate, or a listener of it, needless.
func (g *Gates) service(ctx context.Context, name types.NamespacedName, pods []corev1.Pod) (*corev1.Service, error) {
	read := func(from client.Reader) (*corev1.Service, error) {
		svc := &corev1.Service{}
		if err := from.Get(ctx, name, svc); apierrors.IsNotFound(err) {
			return nil, nil
		} else if err != nil {
			return nil, fmt.Errorf("read Service %s: %w", name, err)
		}
		return svc, nil
	}
	svc, err := read(g.Client)
	if err == nil && slices.ContainsFunc(pods, func(p corev1.Pod) bool {
		_, _, needless := lb.Needless(name.Name, svc, p.Labels, g.Settings())
		return needless || slices.ContainsFunc(svc.Spec.Ports, func(port corev1.ServicePort) bool { return !lb.HasPort(&p, &port) })
	}) {
		return read(g.Live)
	}
	return svc, err
}

// containersReady reports whether all containers of a pod are ready, and since when.
func containersReady(pod *corev1.Pod) (since time.Time, ready bool) {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.ContainersReady {
			return c.LastTransitionTime.Time, c.Status == corev1.ConditionTrue
		}
	}
	return time.Time{}, false
}

// gateLook is what a Service's load balancer says of its backends.
type gateLook struct {
	*Gates
	// none is why there is no answer; "" if there is one.
	none      string
	listeners []gateListener
	unchecked int
}

type gateListener struct {
	Member
	// port is the Service's port; nil: it has it no more.
	port   *corev1.ServicePort
	health cloud.Health
	err    error
}

// look asks a Service's load balancer about the listeners that have one of the pods.
func (g *Gates) look(ctx context.Context, svc *corev1.Service, pods []*corev1.Pod) gateLook {
	l := gateLook{Gates: g}
	members, ok := g.Members(client.ObjectKeyFromObject(svc))
	if !ok || len(members) == 0 {
		l.none = "there is no load balancer yet; the events of the Service say why"
		return l
	}
	for _, m := range members {
		is := gateListener{Member: m}
		if at := slices.IndexFunc(svc.Spec.Ports, func(p corev1.ServicePort) bool { return p.Port == m.Port }); at >= 0 {
			is.port = &svc.Spec.Ports[at]
		}
		if !m.Checked {
			l.unchecked++
		} else if slices.ContainsFunc(pods, func(p *corev1.Pod) bool { return len(m.of(p)) > 0 }) {
			is.health, is.err = m.API.Health(ctx, m.Listener)
		}
		l.listeners = append(l.listeners, is)
	}
	return l
}

// of returns a pod's backends.
func (m Member) of(pod *corev1.Pod) (list []cloud.Backend) {
	for _, b := range m.Backends {
		if slices.ContainsFunc(pod.Status.PodIPs, func(ip corev1.PodIP) bool {
			a, err := netip.ParseAddr(ip.IP)
			return err == nil && a == b.Address
		}) {
			list = append(list, b)
		}
	}
	return list
}

// why returns why a pod's gate stays shut, "" if it opens, and how many listeners have the pod then. A listener whose port
// of the Service names a port that the pod does not have waits for no backend.
func (l gateLook) why(pod *corev1.Pod) (why string, of int) {
	if l.none != "" {
		return l.none, 0
	}
	for _, is := range l.listeners {
		name := fmt.Sprintf("listener %s %d of load balancer %s", is.Listener.Protocol, is.Listener.Port, is.Listener.Balancer)
		backends := is.of(pod)
		if len(backends) == 0 && is.port != nil && !lb.HasPort(pod, is.port) {
			continue
		}
		if of++; len(backends) == 0 {
			return name + " does not have the pod as a backend yet; the events of the Service say why", of
		}
		if is.err != nil {
			return fmt.Sprintf("%s does not say whether the pod is healthy: %s", name, cloud.Explain(is.err)), of
		}
		if !is.Checked {
			continue
		}
		for _, b := range backends {
			if word := is.health.Of(b.Key()); word != "" {
				return fmt.Sprintf("%s says of the pod's port %d: %s", name, b.Port, word), of
			}
		}
	}
	return "", of
}

// denied returns what denies the health checks to the pod; "" if nothing does.
func (l gateLook) denied(ctx context.Context, pod *corev1.Pod) string {
	if l.DeniesProbes == nil {
		return ""
	}
	for _, is := range l.listeners {
		protocol := uint8(policy.TCPProtocol)
		if strings.EqualFold(is.Listener.Protocol, "UDP") {
			protocol = policy.UDPProtocol
		}
		for _, b := range is.of(pod) {
			if why := l.DeniesProbes(ctx, pod, protocol, uint16(b.Port)); is.Checked && why != "" {
				return why
			}
		}
	}
	return ""
}

// open opens a pod's gate of a Service.
func (g *Gates) open(ctx context.Context, pod *corev1.Pod, service, reason, message string) error {
	if err := g.set(ctx, pod, service, corev1.ConditionTrue, reason, message); err != nil {
		return err
	}
	if since, ready := containersReady(pod); ready {
		g.opened.Observe(g.Now().Sub(since).Seconds())
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.say(types.NamespacedName{Namespace: pod.Namespace, Name: service}, pod, "")
	return nil
}

// set writes the condition of a pod's gate. A pod that is gone is no error; the API server refuses to write to another
// one of its name, because of the UID.
func (g *Gates) set(ctx context.Context, pod *corev1.Pod, service string, status corev1.ConditionStatus, reason, message string) error {
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": pod.UID},
		"status": map[string]any{"conditions": []corev1.PodCondition{{
			Type: lb.Gate(service), Status: status, Reason: reason, Message: message, LastTransitionTime: metav1.NewTime(g.Now()),
		}}},
	})
	if err != nil {
		return fmt.Errorf("the readiness gate of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	err = g.Client.Status().Patch(ctx, pod.DeepCopy(), client.RawPatch(types.StrategicMergePatchType, patch))
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("write the readiness gate of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}

// stays says why a pod's gate stays shut, after a while, and again when that changes.
func (g *Gates) stays(ctx context.Context, svc *corev1.Service, pod *corev1.Pod, l gateLook, why string) error {
	since, _ := containersReady(pod)
	now := g.Now()
	g.mu.Lock()
	name := client.ObjectKeyFromObject(svc)
	was := g.said[name][pod.UID]
	silent := now.Sub(since) < shutFor || was.why == why || now.Sub(was.at) < shutFor
	if !silent {
		g.say(name, pod, why)
	}
	g.mu.Unlock()
	if silent {
		return nil
	}
	message := why
	if denied := l.denied(ctx, pod); denied != "" {
		message += "; " + denied
	}
	g.Events.Eventf(pod, svc, corev1.EventTypeWarning, "ReadinessGateShut", "Wait", "the readiness gate of Service %s is shut, %s after the pod's containers were ready: %s",
		svc.Name, now.Sub(since).Round(time.Second), message)
	return g.set(ctx, pod, svc.Name, corev1.ConditionFalse, "NotHealthy", message)
}

// recall returns the pods whose gate is shut, without those whose gate was opened a moment ago, which the cache may not
// have yet; and drops what was said about others.
func (g *Gates) recall(svc types.NamespacedName, shut []corev1.Pod) []corev1.Pod {
	g.mu.Lock()
	defer g.mu.Unlock()
	for uid := range g.said[svc] {
		if !slices.ContainsFunc(shut, func(p corev1.Pod) bool { return p.UID == uid }) {
			delete(g.said[svc], uid)
		}
	}
	if len(g.said[svc]) == 0 {
		delete(g.said, svc)
	}
	return slices.DeleteFunc(shut, func(p corev1.Pod) bool {
		is, ok := g.said[svc][p.UID]
		return ok && is.why == "" && g.Now().Sub(is.at) < cacheLag
	})
}

// say remembers what was said about a pod's gate; why is empty for one that was opened. g.mu is held.
func (g *Gates) say(svc types.NamespacedName, pod *corev1.Pod, why string) {
	if g.said[svc] == nil {
		g.said[svc] = map[types.UID]saying{}
	}
	g.said[svc][pod.UID] = saying{why, g.Now()}
}
