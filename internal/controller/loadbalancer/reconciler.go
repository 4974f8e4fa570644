package loadbalancer

import (
	"context"
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
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/config"
	"terway.dev/terway/internal/controller/nodeinfo"
	lb "terway.dev/terway/internal/loadbalancer"
)

// Options configure a Reconciler.
type Options struct {
	Client client.Client
	// Live reads from the API server, not from a cache.
	Live client.Reader
	// CLB and NLB are the calls to the cloud.
	CLB, NLB cloud.BalancerAPI
	Config   *config.Store
	// VPC returns the cluster's VPC.
	VPC func(context.Context) (string, error)
	// ENI returns the ENI of a node that has an address and keeps it; "" if there is none. With Flannel
	// it is not called.
	ENI func(ctx context.Context, address netip.Addr) string
	// HeldChanged, if not nil, is called after addresses were added to groups, or removed from them.
	HeldChanged func(ctx context.Context, addresses []netip.Addr)
	Events      events.EventRecorder
	Log         *slog.Logger
	Now         func() time.Time
	// Metrics is where the metrics are registered; nil for nowhere.
	Metrics prometheus.Registerer
	// Join is how long a change waits for others, Poll how often a load balancer that is being made is
	// looked at, Retry the first pause after an error and Park the longest, Resync how often what the
	// cloud has is read again.
	Join, Poll, Retry, Park, Resync time.Duration
}

// Reconciler keeps the load balancers of Services.
type Reconciler struct {
	Options
	metrics *metrics

	mu       sync.Mutex
	services map[types.NamespacedName]*service
	// orphans are Services that went without being cleaned up after: somebody has removed their finalizer by force. What
	// their groups have is held until a sweep has deleted them.
	orphans map[types.UID]*service
	// preserved are load balancers that stayed when their Services went, by id: only with what their groups have.
	preserved map[string]*service
	// held counts the groups that have, or may have, an address.
	held map[netip.Addr]int
	// unread are Services that had load balancers when this process began to lead, and whose groups have
	// not been read yet; nil before the Services are known.
	unread map[types.NamespacedName]bool
	// early are Services of which it was known what their groups hold before unread was made.
	early map[types.NamespacedName]bool
	vpc   string

	changed chan event.GenericEvent
}

// New makes a reconciler.
func New(o Options) *Reconciler {
	r := &Reconciler{Options: o, metrics: newMetrics(o.Metrics), services: map[types.NamespacedName]*service{}, held: map[netip.Addr]int{}, early: map[types.NamespacedName]bool{}, orphans: map[types.UID]*service{}, preserved: map[string]*service{},
		changed: make(chan event.GenericEvent, 1)}
	o.Config.OnChange(func() {
		select {
		case r.changed <- event.GenericEvent{Object: &corev1.Service{}}:
		default: // the pending event serves this change too
		}
	})
	return r
}

// Finalizer keeps a Service until what was made for it in the cloud is gone. It is the name that Kubernetes'
// own controller uses (k8s.io/cloud-provider, service/helpers, LoadBalancerCleanupFinalizer).
const Finalizer = "service.kubernetes.io/load-balancer-cleanup"

// indexService indexes EndpointSlices by their Service.
const indexService = "terway.service"

// serviceOf returns the name of a slice's Service.
func serviceOf(o client.Object) []string {
	if name := o.GetLabels()[discoveryv1.LabelServiceName]; name != "" {
		return []string{name}
	}
	return nil
}

// workers is how many Services are reconciled at once. Most of them wait for the cloud.
const workers = 128

// SetupWithManager registers the reconciler.
func (r *Reconciler) SetupWithManager(ctx context.Context, mgr ctrl.Manager) error {
	if err := mgr.GetFieldIndexer().IndexField(ctx, &discoveryv1.EndpointSlice{}, indexService, serviceOf); err != nil {
		return err
	}
	// A standby has them in its cache, so that it knows all when it begins to lead.
	for _, o := range []client.Object{&corev1.Service{}, &corev1.Pod{}, &corev1.Node{}} {
		if _, err := mgr.GetCache().GetInformer(ctx, o, cache.BlockUntilSynced(false)); err != nil {
			return err
		}
	}
	for _, f := range []leading{r.begin, (&sweeper{Reconciler: r}).run} {
		if err := mgr.Add(f); err != nil {
			return err
		}
	}
	type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]
	// The first change of a Service waits for others.
	later := func(names func(client.Object) []types.NamespacedName) handler.Funcs {
		add := func(q queue, objects ...client.Object) {
			for _, o := range objects {
				for _, n := range names(o) {
					q.AddAfter(reconcile.Request{NamespacedName: n}, r.Join)
				}
			}
		}
		return handler.Funcs{
			CreateFunc: func(_ context.Context, e event.CreateEvent, q queue) { add(q, e.Object) },
			UpdateFunc: func(_ context.Context, e event.UpdateEvent, q queue) { add(q, e.ObjectOld, e.ObjectNew) },
			DeleteFunc: func(_ context.Context, e event.DeleteEvent, q queue) { add(q, e.Object) },
		}
	}
	b := ctrl.NewControllerManagedBy(mgr).
		Named("loadbalancer").
		For(&corev1.Service{}).
		Watches(&discoveryv1.EndpointSlice{}, later(func(o client.Object) []types.NamespacedName {
			var all []types.NamespacedName
			for _, name := range serviceOf(o) {
				all = append(all, types.NamespacedName{Namespace: o.GetNamespace(), Name: name})
			}
			return all
		})).
		Watches(&corev1.Pod{}, later(gated)).
		WatchesRawSource(source.Channel(r.changed, handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, _ client.Object) []reconcile.Request {
			return r.all(ctx)
		}))).
		WithOptions(controller.Options{MaxConcurrentReconciles: workers})
	if !Settings(r.Config.Get()).PodBackends {
		b = b.Watches(&corev1.Node{}, handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, _ client.Object) []reconcile.Request {
			return r.all(ctx)
		}), builder.WithPredicates(predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
			return nodeOf(e.ObjectOld.(*corev1.Node)) != nodeOf(e.ObjectNew.(*corev1.Node))
		}}))
	}
	return b.Complete(r)
}

// nodeOf returns what matters of a node; one that Terway must ignore is no backend.
func nodeOf(n *corev1.Node) lb.Node {
	id, err := nodeinfo.InstanceID(n.Spec.ProviderID)
	if err != nil {
		id = ""
	}
	node := lb.NodeOf(n, id)
	node.Excluded = node.Excluded || nodeinfo.Ignored(n)
	return node
}

// leading is a runnable of the leader.
type leading func(context.Context) error

func (f leading) Start(ctx context.Context) error { return f(ctx) }

var _ manager.Runnable = leading(nil)

// all returns the Services that are ours or were.
func (r *Reconciler) all(ctx context.Context) []reconcile.Request {
	var list corev1.ServiceList
	if err := r.Client.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		r.Log.Error("list Services", "error", err)
		return nil
	}
	var all []reconcile.Request
	for i := range list.Items {
		if svc := &list.Items[i]; r.isOurs(svc) {
			all = append(all, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(svc)})
		}
	}
	return all
}

// isOurs reports whether a Service is ours or was. The finalizer does not tell: other controllers have the same one.
func (r *Reconciler) isOurs(svc *corev1.Service) bool {
	_, wants := lb.ProductOf(svc, Settings(r.Config.Get()))
	return wants || svc.Annotations[AnnotationUses] != ""
}

// wasOurs reports whether a Service with the finalizer has something of ours although nothing on it says so: somebody has
// taken its annotation away. The cloud is asked only if the Service is being deleted, which else would never end.
func (r *Reconciler) wasOurs(ctx context.Context, svc *corev1.Service) (bool, error) {
	r.mu.Lock()
	s := r.services[client.ObjectKeyFromObject(svc)]
	r.mu.Unlock()
	if s != nil && s.uid == svc.UID || svc.DeletionTimestamp == nil {
		return s != nil && s.uid == svc.UID, nil
	}
	for _, api := range []cloud.BalancerAPI{r.CLB, r.NLB} {
		if found, err := api.FindBalancers(ctx, TagService, string(svc.UID)); err != nil || len(found) > 0 {
			return err == nil, err
		}
	}
	return false, nil
}

// begin notes the Services whose groups a predecessor may have filled.
func (r *Reconciler) begin(ctx context.Context) error {
	var list corev1.ServiceList
	if err := r.Client.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("list Services: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unread = map[types.NamespacedName]bool{}
	if !r.early[preservedKey] {
		r.unread[preservedKey] = true
	}
	for i := range list.Items {
		if svc := &list.Items[i]; controllerutil.ContainsFinalizer(svc, Finalizer) && r.isOurs(svc) {
			if key := client.ObjectKeyFromObject(svc); !r.early[key] {
				r.unread[key] = true
			}
		}
	}
	r.early = nil
	return nil
}

// knownLocked notes that it is known what the groups of a Service hold.
func (r *Reconciler) knownLocked(svc types.NamespacedName) {
	if r.unread == nil {
		r.early[svc] = true
		return
	}
	delete(r.unread, svc)
}

// API returns the calls for a product.
func (r *Reconciler) API(p lb.Product) cloud.BalancerAPI {
	if p == lb.CLB {
		return r.CLB
	}
	return r.NLB
}

// service is what is remembered of a Service. Only its reconcile changes it; what others read, it changes
// under the Reconciler's lock.
type service struct {
	uid types.UID
	// balancer is nil before it was read or made.
	balancer  *cloud.Balancer
	listeners []cloud.Listener
	// groups are those that are the Service's, by name; extra are further ones of the same names.
	groups map[string]*cloud.Group
	extra  []string
	// contents has the backends by the group's id. stale are those of which it is not certain.
	contents map[string]map[cloud.BackendKey]cloud.Backend
	stale    map[string]bool
	// adding are those of them of which it is not known that the cloud has added them.
	adding map[string]map[cloud.BackendKey]bool
	// read is when all this was read; zero: never. dirty: something failed, so read it again.
	read  time.Time
	dirty bool
	// unready is since when the load balancer is not usable; zero: it is, or there is none.
	unready time.Time
	// access says who may connect; nil: everybody, or it is not known. It was read when read was accessRead.
	access     *cloud.AccessList
	accessRead time.Time
	// members are for Members.
	members []Member

	// attempt is the number of the token for a new load balancer; absent counts how often the one that it
	// gave could not be found.
	attempt, absent int
	notReady        map[string]time.Time
	// leaving are pods that terminate and whose backends still have a weight.
	leaving  map[cloud.BackendKey]leaving
	failures int
	// said are the last messages of events, by reason.
	said map[string]string
}

// leaving is a pod that terminates: since when, and for how long its containers wait then.
type leaving struct {
	since time.Time
	wait  time.Duration
}

// of returns what is remembered of a Service.
func (r *Reconciler) of(svc *corev1.Service) *service {
	key := client.ObjectKeyFromObject(svc)
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.services[key]
	if s == nil || s.uid != svc.UID {
		if s != nil {
			r.orphans[s.uid] = s
		}
		s = &service{uid: svc.UID, groups: map[string]*cloud.Group{}, contents: map[string]map[cloud.BackendKey]cloud.Backend{}, stale: map[string]bool{}, adding: map[string]map[cloud.BackendKey]bool{},
			leaving: map[cloud.BackendKey]leaving{}, said: map[string]string{}}
		r.services[key] = s
	}
	return s
}

// forget drops what is remembered of a Service that has nothing in the cloud.
func (r *Reconciler) forget(ctx context.Context, key types.NamespacedName) {
	r.mu.Lock()
	var addresses []netip.Addr
	if s := r.services[key]; s != nil {
		addresses = r.releaseLocked(s)
	}
	delete(r.services, key)
	r.knownLocked(key)
	r.mu.Unlock()
	r.heldChanged(ctx, addresses)
}

// lose takes note that a Service is gone. If it was cleaned up after, nothing is remembered of it by now.
func (r *Reconciler) lose(key types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.services[key]; s != nil {
		r.orphans[s.uid] = s
	}
	delete(r.services, key)
	r.knownLocked(key)
}

// work is one reconcile of a Service.
type work struct {
	*Reconciler
	*service
	svc  *corev1.Service
	want *lb.LoadBalancer
	api  cloud.BalancerAPI
	// errs are what failed, each of which concerns the Service only in part.
	errs []error
	// refused are the settings that cannot be changed.
	refused error
	// next is when to look again; zero: when something changes.
	next time.Duration
}

// again makes the next look come after d at the latest.
func (w *work) again(d time.Duration) {
	if w.next == 0 || d < w.next {
		w.next = max(d, time.Millisecond)
	}
}

func (w *work) fail(err error) {
	if err != nil {
		w.errs = append(w.errs, err)
	}
}

// Reconcile brings a Service's load balancer closer to what the Service wants.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	svc := &corev1.Service{}
	if err := r.Client.Get(ctx, req.NamespacedName, svc); apierrors.IsNotFound(err) {
		r.lose(req.NamespacedName)
		return ctrl.Result{}, nil
	} else if err != nil {
		return ctrl.Result{}, err
	}
	want, wrong := lb.Read(svc, Settings(r.Config.Get()))
	hasFinalizer := controllerutil.ContainsFinalizer(svc, Finalizer)
	ours := r.isOurs(svc)
	if !ours && hasFinalizer {
		var err error
		if ours, err = r.wasOurs(ctx, svc); err != nil {
			r.Log.Warn("look whether a Service that is being deleted has a load balancer", "service", req.NamespacedName, "error", err)
			return ctrl.Result{RequeueAfter: r.Park}, nil
		}
	}
	if !ours || !hasFinalizer && (want == nil || svc.DeletionTimestamp != nil) {
		r.forget(ctx, req.NamespacedName)
		return ctrl.Result{}, nil
	}
	w := &work{Reconciler: r, service: r.of(svc), svc: svc, want: want}
	if want == nil || svc.DeletionTimestamp != nil {
		w.fail(w.clean(ctx))
	} else {
		w.api = r.API(want.Product)
		w.warn("WrongLoadBalancer", wrong)
		w.warn("Capped", want.Capped)
		w.sync(ctx, wrong != nil)
	}
	return ctrl.Result{RequeueAfter: w.report()}, nil
}

// report tells what failed, and returns when to look again.
func (w *work) report() time.Duration {
	w.warn("CannotChange", w.refused)
	var failed []string
	for _, err := range w.errs {
		if apierrors.IsConflict(err) { // the cache is older than the last write
			w.again(w.Join)
			continue
		}
		failed = append(failed, explain(err))
	}
	slices.Sort(failed)
	failed = slices.Compact(failed)
	if len(failed) == 0 {
		w.failures = 0
		w.warn("SyncLoadBalancerFailed", nil)
		return w.next
	}
	w.metrics.failed.Inc()
	w.warn("SyncLoadBalancerFailed", fmt.Errorf("%s", strings.Join(failed, "; ")))
	pause := w.pause()
	if slices.ContainsFunc(w.errs, func(err error) bool { return err != nil && cloud.ClassOf(err) == cloud.Throttled }) {
		pause = w.Retry // the client itself calls less often
	}
	w.failures++
	w.again(pause)
	return w.next
}

// pause is the one after an error: longer after each failure.
func (w *work) pause() time.Duration { return min(w.Retry<<min(w.failures, 16), w.Park) }

// explain returns an error with its cause and the next step, without what differs each time.
func explain(err error) string {
	var e *cloud.Error
	if !errors.As(err, &e) {
		return err.Error()
	}
	x := cloud.Explain(err)
	where, _, _ := strings.Cut(err.Error(), e.Error())
	return fmt.Sprintf("%s%s: %s; %s", where, e.Brief(), x.Cause, x.NextStep)
}

// refuse notes settings that cannot be changed.
func (w *work) refuse(err error) { w.refused = errors.Join(w.refused, err) }

// warn records an event about the Service, unless the last one with this reason said the same. err nil: all is
// well.
func (w *work) warn(reason string, err error) {
	if err == nil {
		delete(w.said, reason)
		return
	}
	if text := err.Error(); w.said[reason] != text {
		w.said[reason] = text
		w.Log.Info("load balancer", "service", client.ObjectKeyFromObject(w.svc), "reason", reason, "message", text)
		if len(text) > mostNote {
			text = text[:mostNote] + "…"
		}
		w.Events.Eventf(w.svc, nil, corev1.EventTypeWarning, reason, "Reconcile", "%s", strings.ToValidUTF8(text, ""))
	}
}

// mostNote is the length of an event's note (events.k8s.io/v1: less than 1 kB).
const mostNote = 1000
