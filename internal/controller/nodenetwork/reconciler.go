package nodenetwork

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/config"
)

// Options are what a Reconciler is made of.
type Options struct {
	Client client.Client
	// Live reads past the cache.
	Live   client.Reader
	Cloud  cloud.API
	Config *config.Config
	Events events.EventRecorder
	Log    *slog.Logger
	Now    func() time.Time
	// NewToken gives client tokens that never repeat.
	NewToken func() string
	// Catalogue knows an instance type's limits when the cloud does not answer.
	Catalogue func(instanceType string) (cloud.InstanceType, bool)
	// Poll is how often an ENI on its way is looked at, Retry how long a failed
	// call waits, Park how long a full vSwitch is not asked.
	Poll, Retry, Park time.Duration
}

// Reconciler gives nodes their ENIs and addresses.
type Reconciler struct {
	Options
	describe  *describer
	vswitches *vswitches
	wake      chan event.GenericEvent

	mu         sync.Mutex
	generation map[string]int64 // of the spec last written
	facts      map[string]*facts
	unsynced   map[string]bool // nodes whose ENIs were not compared with the cloud
}

// New makes a reconciler. Every node is compared with the cloud once at first.
func New(o Options) *Reconciler {
	return &Reconciler{
		Options:    o,
		describe:   &describer{api: o.Cloud, window: 50 * time.Millisecond},
		vswitches:  newVSwitches(o.Cloud, o.Now, o.Park),
		wake:       make(chan event.GenericEvent, 1024),
		generation: map[string]int64{},
		facts:      map[string]*facts{},
		unsynced:   map[string]bool{},
	}
}

// SetupWithManager registers the reconciler; workers nodes are served at once.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager, workers int) error {
	return ctrl.NewControllerManagedBy(mgr).
		Named("nodenetwork").
		For(&v1alpha1.NodeNetwork{}).
		Watches(&corev1.Node{}, &handler.EnqueueRequestForObject{}).
		WatchesRawSource(source.Channel(r.wake, &handler.EnqueueRequestForObject{})).
		WithOptions(controller.Options{MaxConcurrentReconciles: workers}).
		Complete(r)
}

// Ignored reports whether a node is left alone.
func Ignored(n *corev1.Node) bool {
	return n.Labels["network.terway.dev/ignore"] == "true" || n.Labels["k8s.aliyun.com/ignore-by-terway"] == "true" || n.Labels["type"] == "virtual-kubelet"
}

// InstanceID is the ECS instance in a node's providerID: "cn-hangzhou.i-…", with
// or without "alicloud://" in front.
func InstanceID(providerID string) (string, error) {
	_, id, ok := strings.Cut(strings.TrimPrefix(providerID, "alicloud://"), ".")
	if !ok || !strings.HasPrefix(id, "i-") || strings.ContainsAny(id, "./ ") {
		return "", fmt.Errorf("providerID %q: want region.instance, for example cn-hangzhou.i-bp1a2b3c", providerID)
	}
	return id, nil
}

// Reconcile brings one node a step further.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	node := &corev1.Node{}
	nodeErr := r.Client.Get(ctx, req.NamespacedName, node)
	if nodeErr != nil && !apierrors.IsNotFound(nodeErr) {
		return ctrl.Result{}, nodeErr
	}
	nn, err := r.read(ctx, req.Name)
	if err != nil {
		return ctrl.Result{}, err
	}
	if nodeErr != nil || Ignored(node) || nn != nil && !nn.DeletionTimestamp.IsZero() {
		return r.remove(ctx, nn)
	}
	instance, err := InstanceID(node.Spec.ProviderID)
	if err != nil {
		if node.Spec.ProviderID != "" {
			r.warn(node, "ProviderIDInvalid", err.Error())
		}
		return ctrl.Result{}, nil // the node's next change brings us back
	}
	if nn == nil {
		nn = &v1alpha1.NodeNetwork{
			ObjectMeta: metav1.ObjectMeta{Name: node.Name, Finalizers: []string{v1alpha1.FinalizerENIs}},
			Spec:       v1alpha1.NodeNetworkSpec{InstanceID: instance},
		}
		if err := r.Client.Create(ctx, nn); err != nil {
			return ctrl.Result{}, fmt.Errorf("create NodeNetwork %s: %w", node.Name, err)
		}
		r.wrote(nn)
	}
	w := &work{Reconciler: r, node: node, nn: nn, saved: nn.DeepCopy()}
	res, err := w.run(ctx, instance)
	if err != nil {
		if apierrors.IsConflict(err) || err == errMoved {
			return ctrl.Result{RequeueAfter: r.Poll}, nil
		}
		return ctrl.Result{}, err
	}
	return res, nil
}

// read returns the NodeNetwork, nil if there is none. The cache may lag behind
// our own last write, and a plan made on an old spec would be carried out twice;
// then the API server is asked.
func (r *Reconciler) read(ctx context.Context, name string) (*v1alpha1.NodeNetwork, error) {
	nn := &v1alpha1.NodeNetwork{}
	err := r.Client.Get(ctx, client.ObjectKey{Name: name}, nn)
	r.mu.Lock()
	last := r.generation[name]
	r.mu.Unlock()
	if last > 0 && (apierrors.IsNotFound(err) || err == nil && nn.Generation < last) {
		err = r.Live.Get(ctx, client.ObjectKey{Name: name}, nn)
	}
	if apierrors.IsNotFound(err) {
		r.forget(name)
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read NodeNetwork %s: %w", name, err)
	}
	return nn.DeepCopy(), nil
}

func (r *Reconciler) wrote(nn *v1alpha1.NodeNetwork) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.generation[nn.Name] = nn.Generation
}

func (r *Reconciler) forget(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.generation, name)
	delete(r.facts, name)
	delete(r.unsynced, name)
}

// needsSync reports whether the node's ENIs must be compared with the cloud:
// once in the process's life, and whenever something was left in doubt.
func (r *Reconciler) needsSync(name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	doubt, seen := r.unsynced[name]
	return doubt || !seen
}

func (r *Reconciler) setSync(name string, needed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unsynced[name] = needed
}

// Wake asks for a node to be compared with the cloud and reconciled.
func (r *Reconciler) Wake(name string) {
	r.setSync(name, true)
	select {
	case r.wake <- event.GenericEvent{Object: &v1alpha1.NodeNetwork{ObjectMeta: metav1.ObjectMeta{Name: name}}}:
	default: // the queue is full: the next sweep asks again
	}
}

func (r *Reconciler) warn(obj client.Object, reason, message string) {
	r.Events.Eventf(obj, nil, corev1.EventTypeWarning, reason, "Reconcile", "%s", message)
}

// errMoved says that the spec was written by somebody else, which means that
// another leader is at work or a user edited it: start over.
var errMoved = fmt.Errorf("the spec has changed under our hands")

// work is one reconcile of one node.
type work struct {
	*Reconciler
	node  *corev1.Node
	nn    *v1alpha1.NodeNetwork // what we want it to be
	saved *v1alpha1.NodeNetwork // what the API server has
	// trouble is the last thing that the cloud refused.
	trouble *cloud.Explanation
	again   time.Duration
}

// save writes the spec if it has changed. The status changes all the time, so a
// conflict is resolved by looking whether the spec is still the one we know.
func (w *work) save(ctx context.Context) error {
	if equality.Semantic.DeepEqual(w.nn.Spec, w.saved.Spec) && slices.Equal(w.nn.Finalizers, w.saved.Finalizers) {
		return nil
	}
	for {
		out := w.saved.DeepCopy()
		out.Spec, out.Finalizers = *w.nn.Spec.DeepCopy(), w.nn.Finalizers
		err := w.Client.Update(ctx, out)
		if err == nil {
			w.wrote(out)
			w.saved = out.DeepCopy()
			w.nn = out
			return nil
		}
		if !apierrors.IsConflict(err) {
			return fmt.Errorf("write NodeNetwork %s: %w", w.nn.Name, err)
		}
		live := &v1alpha1.NodeNetwork{}
		if err := w.Live.Get(ctx, client.ObjectKeyFromObject(w.nn), live); err != nil {
			return fmt.Errorf("read NodeNetwork %s: %w", w.nn.Name, err)
		}
		if live.Generation != w.saved.Generation {
			return errMoved
		}
		w.saved = live
	}
}

// remove gives everything back of a node that is gone or ignored.
func (r *Reconciler) remove(ctx context.Context, nn *v1alpha1.NodeNetwork) (ctrl.Result, error) {
	if nn == nil {
		return ctrl.Result{}, nil
	}
	if nn.DeletionTimestamp.IsZero() {
		return ctrl.Result{}, client.IgnoreNotFound(r.Client.Delete(ctx, nn))
	}
	left, err := r.Cloud.DescribeENIs(ctx, cloud.ENIFilter{Tags: r.tags(nn.Name, "")})
	if err != nil {
		return ctrl.Result{RequeueAfter: r.Retry}, fmt.Errorf("list ENIs of node %s: %w", nn.Name, err)
	}
	for i := range left {
		if err := r.giveBack(ctx, &left[i]); err != nil {
			r.Log.Warn("give back an ENI", "node", nn.Name, "eni", left[i].ID, "error", err)
		}
	}
	if len(left) > 0 {
		return ctrl.Result{RequeueAfter: r.Poll}, nil
	}
	if controllerutil.RemoveFinalizer(nn, v1alpha1.FinalizerENIs) {
		if err := r.Client.Update(ctx, nn); err != nil {
			if apierrors.IsConflict(err) {
				return ctrl.Result{RequeueAfter: r.Poll}, nil
			}
			return ctrl.Result{}, client.IgnoreNotFound(err)
		}
	}
	r.forget(nn.Name)
	return ctrl.Result{}, nil
}

// giveBack brings an ENI one step nearer to its end.
func (r *Reconciler) giveBack(ctx context.Context, e *cloud.ENI) error {
	switch e.Status {
	case cloud.ENIInUse:
		return r.Cloud.DetachENI(ctx, e.ID, e.InstanceID)
	case cloud.ENIAvailable:
		return r.Cloud.DeleteENI(ctx, e.ID)
	}
	return nil // on its way; the next look decides
}

// tags selects the cluster's ENIs, of one node and with one token if given.
func (r *Reconciler) tags(node, token string) map[string]string {
	t := map[string]string{TagCreator: creator, TagCluster: r.Config.ClusterID}
	if node != "" {
		t[TagNode] = node
	}
	if token != "" {
		t[TagToken] = token
	}
	return t
}
