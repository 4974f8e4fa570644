// Package eniconfig applies the cluster's configuration: it reads the ConfigMap eni-config at the
// start and after each change.
//
// It owns the config.Store from which all other parts of the controller read the configuration. It
// never applies a configuration that has an error, or that a running cluster cannot change to: then
// the last one stays in force, and the log, an event on the ConfigMap and a metric give the reason.
package eniconfig

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/config"
	"terway.dev/terway/internal/controller/nodeinfo"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/pages"
)

// Options configure a Watcher.
type Options struct {
	// Client may be a cache; Live is not.
	Client, Live client.Reader
	Namespace    string
	Events       events.EventRecorder
	Log          *slog.Logger
	// Metrics is where the metrics are registered; nil for nowhere.
	Metrics prometheus.Registerer
	// Leads reports whether this process is the leader: only the leader records events, or all
	// replicas would record the same.
	Leads func() bool
	// Retry is how often a missing or invalid configuration is read again at the start.
	Retry time.Duration
}

// Watcher reads the configuration.
type Watcher struct {
	Options
	good prometheus.Gauge

	mu      sync.Mutex
	store   *config.Store // nil until there is a configuration
	problem string        // of the ConfigMap as last read; "" if it is valid
}

// New makes a Watcher. Call First next.
func New(o Options) *Watcher {
	w := &Watcher{Options: o, problem: "the ConfigMap " + config.ConfigMapName + " has not been read yet", good: prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "terway_controller_config_last_reload_successful", Help: "1 if the current ConfigMap eni-config is in force, 0 if it was rejected.",
	})}
	if o.Metrics != nil {
		o.Metrics.MustRegister(w.good)
	}
	return w
}

// errWrong is an invalid configuration, as opposed to an API server that does not answer.
type errWrong struct{ error }

// First waits until there is a valid configuration, and reports meanwhile what is wrong. It does
// not give up: a process that exits is restarted with growing delays, and would take minutes to see
// that the configuration is valid.
func (w *Watcher) First(ctx context.Context) (*config.Store, error) {
	// A configuration that contradicts the nodes is compared with all nodes again when it changes.
	// The nodes may change too, but they are listed with growing pauses: otherwise each replica of
	// a large cluster would list all nodes continuously while the mistake lasts.
	var contradicted struct {
		version     string // of the ConfigMap
		err         error
		looks, wait int
	}
	for {
		m, c, err := w.read(ctx, w.Live)
		if err == nil {
			x := &contradicted
			x.wait--
			switch {
			case x.err != nil && x.version == m.ResourceVersion && x.wait > 0:
				err = x.err
			default:
				if x.version != m.ResourceVersion {
					x.looks = 0
				}
				err = w.settled(ctx, c)
				most := maxLooks
				if !errors.As(err, new(errWrong)) {
					most = maxLooksBlind
				}
				x.version, x.err, x.wait = m.ResourceVersion, err, min(2<<x.looks, most)
				x.looks = min(x.looks+1, 16)
			}
		}
		if err == nil {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.store, w.problem = config.NewStore(c), ""
			w.good.Set(1)
			return w.store, nil
		}
		w.reject(m, err, true, "nothing is done until it is valid")
		// An API server that does not answer is retried like an invalid ConfigMap.
		select {
		case <-time.After(w.Retry):
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for a configuration: %w", context.Cause(ctx))
		}
	}
}

// maxLooks is after how many reads of a ConfigMap that contradicts the nodes these are listed again
// at the latest; maxLooksBlind is the same after a failed list, so that a recovered API server is
// noticed soon.
const maxLooks, maxLooksBlind = 150, 4

// Ready is a readiness check: it fails while there is no configuration.
func (w *Watcher) Ready(*http.Request) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.store == nil {
		return errors.New(w.problem)
	}
	return nil
}

// SetupWithManager reads every change of the ConfigMap, on all replicas: a new leader must know the
// configuration in force.
func (w *Watcher) SetupWithManager(mgr ctrl.Manager) error {
	everywhere := false
	return ctrl.NewControllerManagedBy(mgr).
		Named("eni-config").
		For(&corev1.ConfigMap{}).
		WithOptions(controller.Options{NeedLeaderElection: &everywhere}).
		Complete(w)
}

// Reconcile applies the ConfigMap if it is valid.
func (w *Watcher) Reconcile(ctx context.Context, _ ctrl.Request) (ctrl.Result, error) {
	m, c, err := w.read(ctx, w.Client)
	old := w.store.Get()
	if err == nil {
		if err = old.CanBecome(c); err != nil {
			err = errWrong{err}
		}
	}
	if errors.As(err, new(errWrong)) {
		w.reject(m, err, w.Leads(), "the last valid one stays in force")
		return ctrl.Result{}, nil // the next change starts a reconcile
	}
	if err != nil {
		return ctrl.Result{}, err // try again
	}
	w.mu.Lock()
	was := w.problem
	w.problem = ""
	w.mu.Unlock()
	w.good.Set(1)
	changes := config.Diff(old, c)
	if len(changes) == 0 {
		if was != "" {
			w.Log.Info("the ConfigMap is valid again, and equal to the configuration in force")
		}
		return ctrl.Result{}, nil
	}
	w.store.Set(c)
	var lines []string
	for _, d := range changes {
		lines = append(lines, d.String())
	}
	w.Log.Info("a new configuration is in force", "changes", strings.Join(lines, "; "))
	if w.Leads() {
		w.event(m, corev1.EventTypeNormal, "ConfigurationChanged", "in force now: "+strings.Join(lines, "; "))
	}
	return ctrl.Result{}, nil
}

// read returns the ConfigMap, even if it is invalid or missing, and its configuration.
func (w *Watcher) read(ctx context.Context, from client.Reader) (*corev1.ConfigMap, *config.Config, error) {
	m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: w.Namespace, Name: config.ConfigMapName}}
	name := client.ObjectKeyFromObject(m)
	if err := from.Get(ctx, name, m); err != nil {
		if apierrors.IsNotFound(err) {
			return m, nil, errWrong{fmt.Errorf("there is no ConfigMap %s", name)}
		}
		return m, nil, fmt.Errorf("read ConfigMap %s: %w", name, err)
	}
	c, err := config.FromConfigMap(m.Data)
	if err != nil {
		return m, nil, errWrong{err}
	}
	return m, c, nil
}

// settled returns in what a first configuration contradicts the existing nodes: what a running
// controller rejects, a restart must not accept.
func (w *Watcher) settled(ctx context.Context, c *config.Config) error {
	// Only labels and annotations of Nodes are read, to use little memory.
	var nodes []metav1.PartialObjectMetadata
	all := &metav1.PartialObjectMetadataList{}
	all.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("NodeList"))
	for page, err := range pages.Of(ctx, w.Live, all) {
		if err != nil {
			return fmt.Errorf("list Nodes: %w", err)
		}
		nodes = append(nodes, page.Items...)
	}
	var users []user
	for page, err := range pages.Of(ctx, w.Live, &v1alpha1.NodeNetworkList{}) {
		if err != nil {
			return fmt.Errorf("list NodeNetworks: %w", err)
		}
		users = append(users, usersOf(page.Items)...)
	}
	errs := append(withENIs(c, users), withBlocks(c, nodes)...)
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	if len(errs) > 0 {
		return errWrong{errors.Join(errs...)}
	}
	return nil
}

// user is a node that has ENIs, and their cluster id.
type user struct{ node, cluster string }

func usersOf(all []v1alpha1.NodeNetwork) (out []user) {
	for i := range all {
		if nn := &all[i]; len(nn.Spec.ENIs) > 0 {
			out = append(out, user{nn.Name, nn.Spec.ClusterID})
		}
	}
	return out
}

// withENIs returns in what a configuration contradicts the nodes' ENIs.
func withENIs(c *config.Config, all []user) (errs []error) {
	other := map[string][]string{} // nodes by their ENIs' cluster
	var nodes []string
	for _, u := range all {
		nodes = append(nodes, u.node)
		if u.cluster != "" && u.cluster != c.ClusterID {
			other[u.cluster] = append(other[u.cluster], u.node)
		}
	}
	for id, of := range other {
		errs = append(errs, fmt.Errorf("cluster_id %q: the ENIs of %d nodes (%s, …) carry %q and would belong to no cluster. Write %q again; the id may change only while no node has an ENI",
			c.ClusterID, len(of), of[0], id, id))
	}
	if c.Network == claims.NetworkFlannel && len(nodes) > 0 {
		errs = append(errs, fmt.Errorf("network %s: %d nodes (%s, …) have ENIs, whose addresses pods use. Write %s again; a cluster cannot change its network",
			c.Network, len(nodes), nodes[0], claims.NetworkTerway))
	}
	return errs
}

// withBlocks returns in what a configuration contradicts the blocks for which Flannel's plugins are
// configured on nodes. A single node with a block outside is no reason to reject it: podroute
// reports that node.
func withBlocks(c *config.Config, all []metav1.PartialObjectMetadata) (errs []error) {
	var nodes, blocks []string
	inside := false
	for _, n := range all {
		text := n.Annotations[claims.AnnotationPodCIDR]
		if text == "" || nodeinfo.Ignored(&n) {
			continue
		}
		nodes, blocks = append(nodes, n.Name), append(blocks, text)
		for _, one := range strings.Split(text, ",") {
			block, err := netip.ParsePrefix(one)
			inside = inside || err == nil && c.PodRange().Overlaps(block)
		}
	}
	switch {
	case len(nodes) == 0:
	case c.Network != claims.NetworkFlannel:
		errs = append(errs, fmt.Errorf("network %s: the pods of %d nodes (%s, …) have addresses of Flannel's blocks. Write %s again; a cluster cannot change its network (if no such pod is left, remove the annotation %s from the Nodes)",
			c.Network, len(nodes), nodes[0], claims.NetworkFlannel, claims.AnnotationPodCIDR))
	case !inside:
		errs = append(errs, fmt.Errorf("pod_cidr %s: the pods of all %d nodes (%s: %s, …) have addresses outside of it and would lose their routes. Write the range again from which these blocks were taken",
			c.PodRange(), len(nodes), nodes[0], blocks[0]))
	}
	return errs
}

// reject logs, and records as an event, why the ConfigMap is not applied, once.
func (w *Watcher) reject(m *corev1.ConfigMap, err error, speak bool, then string) {
	w.good.Set(0)
	text := err.Error()
	w.mu.Lock()
	again := w.problem == text
	w.problem = text
	w.mu.Unlock()
	if again {
		return
	}
	for _, line := range strings.Split(text, "\n") {
		w.Log.Error("no new configuration; "+then, "problem", line)
	}
	if speak && errors.As(err, new(errWrong)) {
		w.event(m, corev1.EventTypeWarning, "ConfigurationRefused", then+": "+strings.ReplaceAll(text, "\n", "; "))
	}
}

// noteLimit is the maximum length of an event's text, in bytes (events.k8s.io/v1: note).
const noteLimit = 1024

func (w *Watcher) event(m *corev1.ConfigMap, kind, reason, text string) {
	const more = " … (all of it is in the controller's log)"
	if len(text) > noteLimit {
		text = strings.ToValidUTF8(text[:noteLimit-len(more)], "") + more
	}
	w.Events.Eventf(m, nil, kind, reason, "Configure", "%s", text)
}
