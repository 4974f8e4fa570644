package podroute

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/config"
	"terway.dev/terway/internal/controller/nodeinfo"
	"terway.dev/terway/internal/controller/podroute/entries"
)

// DefaultQuota is how many custom entries a route table may have (VPC API,
// CreateRouteEntries: "A route table can contain up to 200 custom route entries").
const DefaultQuota = 200

// Cloud is what podroute needs of the cloud.
type Cloud interface {
	cloud.RouteAPI
	// DescribeInstances returns those of the instances that exist.
	DescribeInstances(ctx context.Context, ids []string) ([]cloud.Instance, error)
}

// Options configure a Reconciler.
type Options struct {
	Client client.Client
	// Live reads from the API server, not from a cache.
	Live   client.Reader
	Cloud  Cloud
	Config *config.Store
	Events events.EventRecorder
	// Subject is the object of events that concern no single node.
	Subject runtime.Object
	Log     *slog.Logger
	Now     func() time.Time
	Random  func() float64 // uniform in [0,1)
	// Metrics is where the metrics are registered; nil for nowhere.
	Metrics prometheus.Registerer
	// Quota is how many custom entries a table may have. It is only used for warnings: the cloud
	// decides.
	Quota int
	// Join is how long the first change of a node waits for others, Poll how often an operation of
	// the VPC is checked, Retry the first pause after a conflict and Park the longest, Settle how
	// long an instance must be missing before it counts as gone, Resync how often everything is
	// compared.
	Join, Poll, Retry, Park, Settle, Resync time.Duration
}

// Reconciler keeps the route entries of the nodes' pod CIDRs up to date.
type Reconciler struct {
	Options
	instances *instances
	metrics   *gauges
	steps     steps
	notifier  notifier

	// seen are the Nodes that the current reconcile knows, by name; left are ignored ones that have
	// routes.
	seen map[string]*corev1.Node
	left []entries.Node
	// cfg is the configuration of the current reconcile.
	cfg *config.Config
	// changed holds one event while a new configuration has not been read.
	changed chan event.GenericEvent

	// vpc is the cluster's. listed are its tables, as the cloud listed them at listedAt; tables are
	// those of them that get entries, and uses has the table that each vSwitch uses.
	vpc      string
	listed   []cloud.RouteTable
	listedAt time.Time
	tables   []string
	uses     map[string]string
	// listing and reading are the outcomes of listing the tables and of reading their entries.
	listing, reading query
	// blind is why the current reconcile does not know the tables' entries.
	blind error
	// markFailures counts the failures in a row to write nodes' conditions.
	markFailures int
}

// New makes a reconciler.
func New(o Options) *Reconciler {
	r := &Reconciler{
		Options:  o,
		changed:  make(chan event.GenericEvent, 1),
		metrics:  newGauges(o.Metrics),
		steps:    steps{batch: entries.MaxBatch, refused: map[entryKey]refusal{}},
		notifier: notifier{events: o.Events, subject: o.Subject, log: o.Log, last: map[string]string{}},
	}
	r.instances = &instances{cloud: o.Cloud, now: o.Now, settle: o.Settle, fresh: o.Resync, backoff: r.backoff}
	o.Config.OnChange(func() {
		select {
		case r.changed <- event.GenericEvent{Object: &corev1.Node{}}:
		default: // the pending event serves this change too
		}
	})
	return r
}

// work is the only work item.
var work = reconcile.Request{NamespacedName: types.NamespacedName{Name: "vpc"}}

// SetupWithManager registers the reconciler.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]
	return ctrl.NewControllerManagedBy(mgr).
		Named("podroute").
		Watches(&corev1.Node{}, handler.Funcs{
			CreateFunc: func(_ context.Context, _ event.CreateEvent, q queue) { q.AddAfter(work, r.Join) },
			UpdateFunc: func(_ context.Context, _ event.UpdateEvent, q queue) { q.AddAfter(work, r.Join) },
			DeleteFunc: func(_ context.Context, _ event.DeleteEvent, q queue) { q.AddAfter(work, r.Join) },
		}, builder.WithPredicates(predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
			return matters(e.ObjectOld.(*corev1.Node), e.ObjectNew.(*corev1.Node))
		}})).
		WatchesRawSource(source.Channel(r.changed, handler.EnqueueRequestsFromMapFunc(func(context.Context, client.Object) []reconcile.Request {
			return []reconcile.Request{work}
		}))).
		WithOptions(controller.Options{MaxConcurrentReconciles: 1}).
		Complete(r)
}

// matters reports whether a node's change concerns what is read of it: heartbeats do not.
func matters(old, now *corev1.Node) bool {
	return old.Spec.ProviderID != now.Spec.ProviderID || !slices.Equal(blocks(old), blocks(now)) ||
		nodeinfo.Ignored(old) != nodeinfo.Ignored(now) || configured(old) != configured(now) || !equality.Semantic.DeepEqual(condition(old), condition(now)) ||
		kept(now) && alive(old) != alive(now)
}

// Reconcile brings the VPC's tables closer to what the nodes need.
func (r *Reconciler) Reconcile(ctx context.Context, _ ctrl.Request) (ctrl.Result, error) {
	if now := r.Config.Get(); r.cfg != now {
		r.cfg, r.listedAt, r.listing = now, time.Time{}, query{} // the tables may be others
	}
	nodes, err := r.nodes(ctx)
	if err != nil {
		return ctrl.Result{}, err
	}
	// A new node takes no pods until its routes exist, whatever the cloud answers. A failure to
	// write one node's condition keeps no other node from its routes.
	var markErr error
	for _, n := range nodes {
		if condition(n.object) == nil {
			markErr = errors.Join(markErr, r.mark(ctx, n, standing{reason: string(entries.Waiting), message: "the node's route entries have not been checked yet"}))
		}
	}
	again := r.instances.learn(ctx, instanceIDs(nodes))
	r.reportUnanswered("instances", r.instances.query.err)
	r.locate(nodes)
	tables := r.read(ctx)
	mark := entries.Cluster{PodCIDR: r.cfg.PodRange(), Mark: Mark(r.cfg.ClusterID), Quota: r.Quota}
	plan := entries.Make(mark, append(pure(nodes), r.left...), tables)
	wait := r.listing.due(r.Now(), r.reading.due(r.Now(), r.Resync))
	if again > 0 {
		wait = min(wait, again)
	}
	if r.blind != nil { // nothing is changed
		markErr = r.markNodes(ctx, plan, nodes)
	} else {
		r.steps.forget(plan)
		r.metrics.show(plan, r.Quota)
		markErr = r.markNodes(ctx, plan, nodes)
		r.reportTables(plan)
		if r.vpc != "" {
			wait = min(wait, r.step(ctx, plan))
			markErr = r.markNodes(ctx, plan, nodes) // the call may have changed nodes' states
			r.reportTables(plan)
		}
	}
	if r.markFailures++; markErr == nil {
		r.markFailures = 0
	} else {
		r.Log.Warn("cannot write the condition NetworkUnavailable of nodes", "error", markErr)
		wait = min(wait, r.backoff(r.markFailures))
	}
	return ctrl.Result{RequeueAfter: wait}, nil
}

// reportUnanswered records an event, once, while the cloud does not answer a query.
func (r *Reconciler) reportUnanswered(question string, err error) {
	if err == nil {
		r.notifier.clear(question)
		return
	}
	x := cloud.Explain(err)
	r.notifier.warn(question, x.Reason, x.Reason, fmt.Sprintf("%v; %s", err, x.NextStep))
}

// read returns the tables that get entries, or sets blind if they cannot be read. Without a VPC
// there is nothing to read, and there are no tables.
func (r *Reconciler) read(ctx context.Context) []entries.Table {
	none := []entries.Table{{}}
	if r.blind = nil; r.vpc == "" {
		return none
	}
	tables := none
	if r.blind = r.choose(ctx); r.blind == nil {
		if !r.reading.backsOff(r.Now()) {
			var err error
			tables, err = r.contents(ctx)
			r.reading.record(err, r.Now(), r.backoff)
		}
		r.blind = r.reading.err
	}
	problem := r.blind
	if problem == nil {
		problem = r.listing.err
	}
	r.reportUnanswered("tables", problem)
	if r.blind != nil {
		return none
	}
	return tables
}

// choose selects the tables that get entries. While the cloud does not list the VPC's tables, the
// last list is used. It returns an error if there is no list, or if a configured table is not in
// it.
func (r *Reconciler) choose(ctx context.Context) error {
	now, err := r.Now(), r.listing.err
	old := err != nil || r.listedAt.IsZero() || now.Sub(r.listedAt) >= r.Resync
	asks := old && !r.listing.backsOff(now)
	if asks {
		var all []cloud.RouteTable
		if all, err = r.Cloud.DescribeRouteTables(ctx, r.vpc); err != nil {
			err = fmt.Errorf("look for the route tables of VPC %s: %w", r.vpc, err)
		} else {
			r.listed, r.listedAt = all, r.Now()
		}
	}
	var ids, missing []string
	uses := map[string]string{}
	for _, t := range r.listed {
		for _, v := range t.VSwitchIDs {
			uses[v] = t.ID
		}
		if t.System && len(r.cfg.RouteTables) == 0 || slices.Contains(r.cfg.RouteTables, t.ID) {
			ids = append(ids, t.ID)
		}
	}
	for _, id := range r.cfg.RouteTables {
		if !slices.Contains(ids, id) {
			missing = append(missing, id)
		}
	}
	known := len(missing) == 0 && len(ids) > 0
	if !known && err == nil {
		err = &cloud.Error{Action: "DescribeRouteTableList", Code: "InvalidRouteTableId.NotFound", Class: cloud.NotFound,
			Message: fmt.Sprintf("VPC %s has no route table %s", r.vpc, strings.Join(missing, ", "))}
	}
	if asks {
		r.listing.record(err, r.Now(), r.backoff)
	}
	if !known {
		return err
	}
	slices.Sort(ids)
	r.tables, r.uses = ids, uses
	return nil
}

// contents reads the tables' entries.
func (r *Reconciler) contents(ctx context.Context) ([]entries.Table, error) {
	var tables []entries.Table
	for _, id := range r.tables {
		all, err := r.Cloud.DescribeRouteEntries(ctx, id)
		if err != nil {
			return nil, fmt.Errorf("read route table %s: %w", id, err)
		}
		t := entries.Table{ID: id}
		for _, e := range all {
			t.Entries = append(t.Entries, entry(e))
		}
		tables = append(tables, t)
	}
	return tables, nil
}

// entry converts a cloud's entry for the plan.
func entry(e cloud.RouteEntry) entries.Entry {
	out := entries.Entry{ID: e.ID, Destination: e.Destination, Name: e.Name, Custom: e.Custom}
	if len(e.NextHops) == 1 && e.NextHops[0].Type == cloud.NextHopInstance {
		out.Instance = e.NextHops[0].ID
	}
	switch e.Status {
	case cloud.RouteAvailable, cloud.RouteCreated:
	case cloud.RouteDeleting:
		out.Phase = entries.Going
	default: // Pending, Creating, and unknown states
		out.Phase = entries.Coming
	}
	return out
}
