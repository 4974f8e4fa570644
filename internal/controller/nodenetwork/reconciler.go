package nodenetwork

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/answers"
	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/config"
	"terway.dev/terway/internal/controller/nodeinfo"
	"terway.dev/terway/internal/datapath/claims"
)

// Options configure a Reconciler.
type Options struct {
	Client client.Client
	// Live reads from the API server, not from a cache.
	Live   client.Reader
	Cloud  cloud.API
	Config *config.Store
	Events events.EventRecorder
	Log    *slog.Logger
	Now    func() time.Time
	// NewToken returns client tokens that never repeat.
	NewToken func() string
	// Catalogue has an instance type's limits for when the cloud does not answer.
	Catalogue func(instanceType string) (cloud.InstanceType, bool)
	// PodLimits are the limits of pods' bandwidth; nil: NodeNetworks have none. Bandwidth returns what an
	// instance type has, in bits per second; may be nil.
	PodLimits PodLimits
	Bandwidth func(instanceType string) (bits uint64, known bool)
	// Held reports whether an address is, or may be, a backend of a load balancer, and known whether that can
	// be told yet. nil: there are no load balancers. Call HeldChanged when an answer changes.
	Held func(netip.Addr) (held, known bool)
	// Metrics is where the metrics are registered; nil for nowhere.
	Metrics prometheus.Registerer
	// Poll is how often an ENI that is being attached or removed is checked, Retry the pause after
	// a failed call, Park the pause for a full vSwitch or another refusal.
	Poll, Retry, Park time.Duration
	// Settle is how long a difference between spec and cloud must last before it is acted on;
	// longer than the cloud's lists may lag.
	Settle time.Duration
	// GoneDelay is how long the ENIs of a node that is gone are kept while its instance runs and
	// pods have their addresses; longer than Kubernetes takes to delete the pods of such a node.
	GoneDelay time.Duration
	// Patience is how long addresses and ENIs must have been surplus before they are given back; a
	// new process starts over. See ipam.State.
	Patience time.Duration
	// Join is how long a list of ENIs waits for other nodes to join.
	Join time.Duration
	// Leads reports whether this process leads; nil: it does.
	Leads func() bool
	// Go runs queries beside the reconciles, by default in a goroutine.
	Go func(func())
}

// Reconciler gives nodes their ENIs and addresses.
type Reconciler struct {
	Options
	list            *lister
	vswitches       *vswitches
	knowledge       *knowledge
	instanceAnswers *answers.Cache[string, instanceAnswer]
	memories        memories
	metrics         *counters
	wake            chan event.GenericEvent
	// changed holds one event while a new configuration has not reached all nodes.
	changed chan event.GenericEvent
	// outdated records once that the CRD is older than the controller.
	outdated sync.Once
	// cluster tags the ENIs; the configuration does not change it.
	cluster string
}

// New makes a reconciler. Every node is compared with the cloud once at first.
func New(o Options) *Reconciler {
	if o.Leads == nil {
		o.Leads = func() bool { return true }
	}
	r := &Reconciler{
		Options:         o,
		knowledge:       newKnowledge(&o),
		instanceAnswers: newInstanceAnswers(&o),
		memories:        memories{now: o.Now, of: map[string]*memory{}},
		metrics:         newCounters(o.Metrics, o.Client, o.Leads),
		wake:            make(chan event.GenericEvent, 1024),
		changed:         make(chan event.GenericEvent, 1),
		cluster:         o.Config.Get().ClusterID,
	}
	r.vswitches = newVSwitches(&o, r.look)
	if o.Metrics != nil {
		o.Metrics.MustRegister(freeAddresses{r})
	}
	o.Config.OnChange(r.configChanged)
	r.list = newLister(&r.Options, r.tags("", ""))
	return r
}

// SetupWithManager registers the reconciler; it reconciles as many nodes at once as there are
// workers.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager, workers int) error {
	if err := mgr.GetFieldIndexer().IndexField(context.Background(), &corev1.Node{}, indexInstance, instanceOf); err != nil {
		return fmt.Errorf("index Nodes by instance: %w", err)
	}
	if err := mgr.GetFieldIndexer().IndexField(context.Background(), &v1alpha1.NodeNetwork{}, indexPod, podsOf); err != nil {
		return fmt.Errorf("index NodeNetworks by pod: %w", err)
	}
	if r.Held != nil {
		if err := mgr.GetFieldIndexer().IndexField(context.Background(), &v1alpha1.NodeNetwork{}, indexAddress, addressesOf); err != nil {
			return fmt.Errorf("index NodeNetworks by address: %w", err)
		}
	}
	return ctrl.NewControllerManagedBy(mgr).
		Named("nodenetwork").
		For(&v1alpha1.NodeNetwork{}, builder.WithPredicates(changes(networkNews))).
		Watches(&corev1.Node{}, &handler.EnqueueRequestForObject{}, builder.WithPredicates(changes(nodeNews))).
		WatchesRawSource(source.Channel(r.wake, &handler.EnqueueRequestForObject{})).
		WatchesRawSource(source.Channel(r.changed, handler.EnqueueRequestsFromMapFunc(r.everyNode))).
		WithOptions(controller.Options{MaxConcurrentReconciles: workers}).
		Complete(r)
}

// Reconcile advances one node.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	node := &corev1.Node{}
	nodeErr := r.Client.Get(ctx, req.NamespacedName, node)
	if nodeErr != nil && !apierrors.IsNotFound(nodeErr) {
		return ctrl.Result{}, nodeErr
	}
	mem := r.memories.get(req.Name)
	nn, err := r.read(ctx, req.Name, mem)
	if err != nil {
		return ctrl.Result{}, err
	}
	w := &work{Reconciler: r, cfg: r.Config.Get(), mem: mem, name: req.Name}
	w.forgetRefusals()
	if nodeErr == nil {
		w.node = node
	}
	if nn != nil {
		w.nn, w.saved = nn, nn.DeepCopy()
		if w.loadConditions(); len(nn.Spec.Conditions) > 0 { // written by a controller of the previous version
			if err := w.saveConditions(ctx); err != nil {
				return ctrl.Result{}, err
			}
			nn.Spec.Conditions = nil
		}
		// The answer to the write does not show that.
		if is := mem.written; nn.Generation == is.generation && (len(nn.Spec.TakenAway) < is.takenAway || held(&nn.Spec) < is.held) {
			w.outdated.Do(func() { w.warnAll("CRDOutdated", "%s", crdOutdated) })
		}
		if w.leaves() != "" {
			if err := w.readNode(ctx); err != nil {
				return ctrl.Result{}, err
			}
		}
	}
	res, err := w.reconcile(ctx)
	var moved *specError
	if errors.As(err, &moved) {
		mem.needsCompare.Store(true) // changes in the cloud may not be in the spec
		mem.generation = 0
		mem.conditions.of = "" // another leader may have written conditions
	}
	if err != nil && (apierrors.IsConflict(err) || errors.Is(err, errMoved)) {
		return ctrl.Result{RequeueAfter: r.Poll}, nil
	}
	return res, err
}

func (w *work) reconcile(ctx context.Context) (ctrl.Result, error) {
	if w.nn == nil && (w.node == nil || nodeinfo.Ignored(w.node)) {
		w.forget()
		return ctrl.Result{}, nil
	}
	if w.nn != nil {
		if why := w.leaves(); why != "" {
			return w.leave(ctx, why)
		}
		if w.isGoing() {
			return w.remove(ctx) // and a new one is created
		}
		w.stays()
	}
	instance, err := nodeinfo.InstanceID(w.node.Spec.ProviderID)
	if err != nil {
		if w.nn == nil && w.node.Spec.ProviderID == "" {
			err = errors.New("the node has no providerID, so its ECS instance is not known; the cloud controller manager or kubelet's --provider-id sets it")
		}
		w.once("ProviderID", err.Error(), func(message string) { w.warn(w.node, "ProviderIDInvalid", message) })
		return ctrl.Result{}, nil // the node's next change starts a reconcile
	}
	if w.nn == nil {
		// Somebody may have deleted the old one: what is in the cloud is adopted.
		w.forget()
		w.mem = w.memories.get(w.name)
		w.mem.config = w.cfg
		nn := &v1alpha1.NodeNetwork{
			ObjectMeta: metav1.ObjectMeta{Name: w.name, Finalizers: []string{claims.FinalizerENIs}},
		}
		if err := w.Client.Create(ctx, nn); err != nil {
			if apierrors.IsAlreadyExists(err) {
				w.mem.generation = 0 // the cache lags: read the API server
				return ctrl.Result{RequeueAfter: w.Poll}, nil
			}
			return ctrl.Result{}, fmt.Errorf("create NodeNetwork %s: %w", w.name, err)
		}
		w.mem.generation = nn.Generation
		w.nn, w.saved = nn, nn.DeepCopy()
		w.loadConditions()
	}
	return w.run(ctx, instance)
}

// read returns the NodeNetwork, nil if there is none. The cache may lag behind our own last write,
// and a plan based on an old spec would be carried out twice; then, and the first time, the API
// server is read.
func (r *Reconciler) read(ctx context.Context, name string, mem *memory) (*v1alpha1.NodeNetwork, error) {
	nn := &v1alpha1.NodeNetwork{}
	key := client.ObjectKey{Name: name}
	err := r.Client.Get(ctx, key, nn)
	if mem.generation == 0 || apierrors.IsNotFound(err) || err == nil && nn.Generation < mem.generation {
		nn = &v1alpha1.NodeNetwork{}
		err = r.Live.Get(ctx, key, nn)
	}
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read NodeNetwork %s: %w", name, err)
	}
	mem.generation = nn.Generation
	return nn, nil
}

// Wake requests that a node be compared with the cloud and reconciled.
func (r *Reconciler) Wake(name string) {
	r.memories.get(name).needsCompare.Store(true)
	r.look(name)
}

// tags returns the tags that select the cluster's ENIs, of one node and with one token if given.
func (r *Reconciler) tags(node, token string) map[string]string {
	t := map[string]string{claims.TagCreator: claims.Creator, claims.TagCluster: r.cluster}
	if node != "" {
		t[claims.TagNode] = nodeTag(node)
	}
	if token != "" {
		t[claims.TagToken] = token
	}
	return t
}

// errMoved means that somebody else wrote the spec: another leader, or a user. The reconcile starts
// over.
var errMoved = errors.New("the spec was changed by somebody else")

// specError is a failure to write the spec: nothing more may be done based on it.
type specError struct{ err error }

func (e *specError) Error() string { return e.err.Error() }
func (e *specError) Unwrap() error { return e.err }

// work is one reconcile of one node.
type work struct {
	*Reconciler
	cfg   *config.Config
	name  string
	mem   *memory
	node  *corev1.Node          // nil: the node is gone, which the API server has confirmed if there is a NodeNetwork
	nn    *v1alpha1.NodeNetwork // its desired version; nil: it does not exist yet
	saved *v1alpha1.NodeNetwork // its version in the API server
	facts *facts
	// vpcCIDRs are the ranges of the instance's VPC.
	vpcCIDRs []string
	// problem is why the node cannot have what it needs.
	problem *cloud.Explanation
	// unsure: this reconcile does not know whether it can; the condition stays.
	unsure bool
	next   time.Duration
}

// forget drops what is remembered of the node.
func (w *work) forget() {
	w.memories.forget(w.name)
	w.vswitches.promise(w.name, nil)
	w.vswitches.wait(w.name, nil)
}

// again requests the next reconcile after d, unless one is due earlier.
func (w *work) again(d time.Duration) {
	if w.next == 0 || d < w.next {
		w.next = d
	}
}

// crdOutdated: without these fields a leader does not find what its predecessor recorded. The chart updates
// its CRD, unless kinds.install is false.
const crdOutdated = "the API server does not store spec.takenAway, which addresses are held or status.controllerConditions, because the CustomResourceDefinition of NodeNetworks is older than terway-controller; until it is upgraded, addresses that were taken away may be offered again after a restart, addresses that load balancers still have may be given to other pods, dead agents may not be detected, and it is not visible why a node gets no addresses: kubectl apply --server-side --force-conflicts -f the chart's folder kinds"

// save writes the spec if it has changed, on the condition that it is still the one we know. The
// status, which the agent writes often, is not part of the condition: with the object's resource
// version as the condition, a third of the writes of a cold start failed.
func (w *work) save(ctx context.Context) error {
	w.nn.Spec.FormerNames()
	w.hold()
	if equality.Semantic.DeepEqual(w.nn.Spec, w.saved.Spec) && slices.Equal(w.nn.Finalizers, w.saved.Finalizers) {
		return nil
	}
	if !equality.Semantic.DeepEqual(w.nn.Spec, w.saved.Spec) {
		w.forgetTaken() // not worth its own write
	}
	change := []map[string]any{
		{"op": "test", "path": "/metadata/uid", "value": w.saved.UID},
		{"op": "test", "path": "/metadata/generation", "value": w.saved.Generation},
		{"op": "add", "path": "/spec", "value": w.nn.Spec},
	}
	if !slices.Equal(w.nn.Finalizers, w.saved.Finalizers) {
		change = append(change, map[string]any{"op": "add", "path": "/metadata/finalizers", "value": w.nn.Finalizers})
	}
	patch, err := json.Marshal(change)
	if err != nil {
		return &specError{fmt.Errorf("write NodeNetwork %s: %w", w.name, err)}
	}
	// Empty: decoding keeps fields that the answer lacks.
	out := &v1alpha1.NodeNetwork{ObjectMeta: metav1.ObjectMeta{Name: w.name}}
	err = w.Client.Patch(ctx, out, client.RawPatch(types.JSONPatchType, patch))
	if err == nil {
		w.mem.generation = out.Generation
		w.mem.written = written{out.Generation, len(w.nn.Spec.TakenAway), held(&w.nn.Spec)}
		w.nn, w.saved = out, out.DeepCopy()
		return nil
	}
	// Only the message says which operation failed, so read the object.
	live := &v1alpha1.NodeNetwork{}
	if e := w.Live.Get(ctx, client.ObjectKeyFromObject(w.nn), live); e == nil && (live.UID != w.saved.UID || live.Generation != w.saved.Generation) {
		return &specError{errMoved}
	}
	return &specError{fmt.Errorf("write NodeNetwork %s: %w", w.name, err)}
}
