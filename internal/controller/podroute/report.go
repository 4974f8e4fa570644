package podroute

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/controller/podroute/entries"
	"terway.dev/terway/internal/datapath/claims"
)

// standing is the condition NetworkUnavailable to be written to a node.
type standing struct {
	ready bool
	// unsure: the cloud has not answered. A node whose routes exist according to its condition
	// keeps the condition.
	unsure          bool
	reason, message string
}

// markNodes writes the nodes' conditions.
func (r *Reconciler) markNodes(ctx context.Context, plan entries.Plan, nodes []*node) error {
	var markErr error
	states := map[string]int{}
	for _, n := range nodes {
		s := r.standingOf(plan, n)
		if c := condition(n.object); s.unsure && routed(n.object) {
			s = standing{ready: true, reason: c.Reason, message: c.Message}
		}
		states[s.reason]++
		err := r.mark(ctx, n, s)
		if err == nil && s.ready {
			err = r.untaint(ctx, n)
		}
		markErr = errors.Join(markErr, err)
	}
	r.metrics.setNodes(states)
	return markErr
}

// reportTables records events about the tables: foreign entries, failed deletions, quotas.
func (r *Reconciler) reportTables(plan entries.Plan) {
	said := map[string]bool{}
	say := func(key, news, reason, message string) {
		said[key] = true
		r.notifier.warn(key, news, reason, message)
	}
	for _, ch := range plan.Changes {
		if len(ch.Foreign) > 0 {
			var list []string
			for _, e := range ch.Foreign {
				list = append(list, fmt.Sprintf("%s (%s, named %q)", e.Destination, e.ID, e.Name))
			}
			slices.Sort(list)
			news := strings.Join(list, ", ")
			if len(list) > mostListed {
				list = append(list[:mostListed], "…")
			}
			say("foreign/"+ch.Table, news, string(entries.Obstacle), fmt.Sprintf("route table %s has %d entries inside the pod CIDR %s that are not this cluster's (those are named %q): %s; they are left alone: delete those that are not needed", ch.Table, len(ch.Foreign), r.cfg.PodRange(), Mark(r.cfg.ClusterID), strings.Join(list, ", ")))
		}
		for _, e := range ch.Delete {
			if f, ok := r.steps.refused[entryKey{ch.Table, e.Destination}]; ok && !passes(f.why.Class) {
				say("delete/"+ch.Table, f.why.Reason, f.why.Reason, fmt.Sprintf("route table %s: the entry for %s (%s), which no node needs, cannot be deleted: %s", ch.Table, e.Destination, e.ID, f.why))
				break
			}
		}
		const next = "ask for a higher quota of route entries in the Quota Center (and give the controller --route-quota), or use a network that needs no route for each node"
		_, full := r.steps.full(ch.Table)
		switch key := "quota/" + ch.Table; {
		case full || ch.Level(r.Quota) == entries.Over:
			say(key, "RouteQuota", "RouteQuota", fmt.Sprintf("route table %s has %d custom entries and needs %d; the quota is %d, so new nodes get no route; %s", ch.Table, ch.Custom, ch.Planned, r.Quota, next))
		case ch.Level(r.Quota) == entries.Near:
			say(key, "RouteQuotaNear", "RouteQuotaNear", fmt.Sprintf("route table %s has %d custom entries of %d that its quota allows; %s", ch.Table, max(ch.Custom, ch.Planned), r.Quota, next))
		}
	}
	r.notifier.only(said, "foreign/", "delete/", "quota/")
}

// notConfigured is the reason of a node that has its routes, but whose pods would get addresses of
// another block or none.
const notConfigured = "CNINotConfigured"

// standingOf returns the condition of a node.
func (r *Reconciler) standingOf(plan entries.Plan, n *node) standing {
	s := plan.Nodes[n.object.Name]
	if n.fault.reason != "" {
		return n.fault
	}
	if r.blind != nil && (s.State == entries.Waiting || s.State == entries.Claimed) {
		x := cloud.Explain(r.blind)
		return standing{unsure: true, reason: x.Reason, message: fmt.Sprintf("it is not known whether there is a route for %s: %s", s.Block, x)}
	}
	not := func(format string, args ...any) standing {
		return standing{reason: string(s.State), message: fmt.Sprintf(format, args...)}
	}
	switch s.State {
	case entries.Routed:
		if table, known := r.uses[n.vswitch]; known && !slices.Contains(r.tables, table) {
			return standing{reason: "RouteTableLeftOut", message: fmt.Sprintf("vSwitch %s of the node's instance uses route table %s, which gets no entries, so the node's pods do not reach those of other nodes; name the table in route_tables, with the others that nodes use", n.vswitch, table)}
		}
		if !gives(n.object, s.Block) {
			return standing{reason: notConfigured, message: fmt.Sprintf("the VPC routes %s to instance %s, but the node's CNI plugins are not configured for it (annotation %s: %q); the node's pod of kube-flannel does that when it starts", s.Block, n.instance, claims.AnnotationPodCIDR, configured(n.object))}
		}
		out := standing{ready: true, reason: string(entries.Routed), message: fmt.Sprintf("the VPC routes %s to instance %s", s.Block, n.instance)}
		if s.Foreign {
			out.message += ", by an entry that is not this cluster's and that Terway does not maintain"
		}
		return out
	case entries.NoBlock:
		return not("the node has no pod CIDR; kube-controller-manager gives it one with --allocate-node-cidrs and --cluster-cidr=%s", r.cfg.PodRange())
	case entries.Outside:
		return not("the node's pod CIDR %s is not inside pod_cidr %s: kube-controller-manager's --cluster-cidr and the configuration must agree", s.Block, r.cfg.PodRange())
	case entries.Claimed:
		return not("the node's pod CIDR %s overlaps that of node %s, which keeps it; delete the Node object of one of them, so that it gets another", s.Block, s.Other)
	case entries.Obstacle:
		return not("route table %s routes %s elsewhere by the entry %s (%q), which is not this cluster's; delete that entry, or the Node object, so that it gets another pod CIDR", s.Table, s.Block, s.Entry.ID, s.Entry.Name)
	case entries.Destroyed:
		return not("instance %s does not exist; delete the Node object", n.instance)
	case entries.Unknown:
		out := not("instance %s is not found yet", n.instance)
		out.unsure = true // a list that lacks an instance may be old
		return out
	}
	for _, ch := range plan.Changes {
		if x, ok := r.steps.why(ch, s.Block); ok {
			return standing{reason: x.Reason, message: fmt.Sprintf("no route for %s yet: %s", s.Block, x)}
		}
	}
	for _, e := range plan.Moving() {
		if e.Name != Mark(r.cfg.ClusterID) { // the cluster's own are done soon
			return not("no route for %s yet: the VPC is changing the entry %s for %s, which is not this cluster's, and makes one change at a time", s.Block, e.ID, e.Destination)
		}
	}
	return not("the VPC does not route %s to instance %s yet", s.Block, n.instance)
}

// condition returns a node's NetworkUnavailable, nil if it has none.
func condition(n *corev1.Node) *corev1.NodeCondition {
	for i := range n.Status.Conditions {
		if n.Status.Conditions[i].Type == corev1.NodeNetworkUnavailable {
			return &n.Status.Conditions[i]
		}
	}
	return nil
}

// mark writes the condition, and an event when its reason has changed.
func (r *Reconciler) mark(ctx context.Context, n *node, s standing) error {
	c := corev1.NodeCondition{Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionTrue, Reason: s.reason, Message: s.message}
	if s.ready {
		c.Status = corev1.ConditionFalse
	}
	was := condition(n.object)
	switch {
	case was == nil:
	case was.Status == c.Status && was.Reason == c.Reason && was.Message == c.Message:
		return nil
	}
	now := metav1.NewTime(r.Now().Truncate(1e9))
	c.LastHeartbeatTime, c.LastTransitionTime = now, now
	if was != nil && was.Status == c.Status {
		c.LastTransitionTime = was.LastTransitionTime
	}
	changed := n.object.DeepCopy()
	if old := condition(changed); old != nil {
		*old = c
	} else {
		changed.Status.Conditions = append(changed.Status.Conditions, c)
	}
	// A strategic patch contains this condition only: the kubelet writes others. It also contains
	// the object's UID, so that it does not reach a newer Node of the same name.
	from := n.object.DeepCopy()
	from.UID = ""
	if err := r.Client.Status().Patch(ctx, changed, client.StrategicMergeFrom(from)); err != nil {
		if client.IgnoreNotFound(err) == nil {
			return nil
		}
		return fmt.Errorf("write the condition NetworkUnavailable of node %s: %w", n.object.Name, err)
	}
	if was == nil || was.Reason != c.Reason {
		switch {
		case s.ready:
			r.Events.Eventf(changed, nil, corev1.EventTypeNormal, c.Reason, "Route", "%s", c.Message)
		case s.reason != string(entries.Waiting) && !(s.reason == notConfigured && configured(n.object) == ""):
			// Each new node waits for its routes and its plugins.
			r.Events.Eventf(changed, nil, corev1.EventTypeWarning, c.Reason, "Route", "%s", c.Message)
		}
	}
	n.object = changed
	return nil
}

// untaint removes the taint with which the kubelet may have registered the node. The condition
// keeps pods away as well, but only after it is written.
func (r *Reconciler) untaint(ctx context.Context, n *node) error {
	is := func(t corev1.Taint) bool { return t.Key == claims.TaintNotReady }
	if !slices.ContainsFunc(n.object.Spec.Taints, is) {
		return nil
	}
	changed := n.object.DeepCopy()
	changed.Spec.Taints = slices.DeleteFunc(changed.Spec.Taints, is)
	// Others write to the list of taints too: the lock keeps theirs, and those of a newer Node of
	// the same name.
	err := r.Client.Patch(ctx, changed, client.MergeFromWithOptions(n.object, client.MergeFromWithOptimisticLock{}))
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("remove taint %s from node %s: %w", claims.TaintNotReady, n.object.Name, err)
	}
	n.object = changed
	return nil
}

// mostListed is how many entries an event lists.
const mostListed = 5

// notifier records events that concern no single node, once each.
type notifier struct {
	events  events.EventRecorder
	subject runtime.Object
	log     *slog.Logger
	last    map[string]string // the last news by key
}

// warn records an event unless the last news for the key were the same.
func (n *notifier) warn(key, news, reason, message string) {
	if was, ok := n.last[key]; ok && was == news {
		return
	}
	n.last[key] = news
	n.log.Warn(message, "reason", reason)
	n.events.Eventf(n.subject, nil, corev1.EventTypeWarning, reason, "Route", "%s", message)
}

// clear forgets the news for a key, so that they are recorded again when they come back.
func (n *notifier) clear(key string) { delete(n.last, key) }

// only forgets the keys that begin with one of the prefixes and are not in keys.
func (n *notifier) only(keys map[string]bool, prefixes ...string) {
	for key := range n.last {
		for _, p := range prefixes {
			if strings.HasPrefix(key, p) && !keys[key] {
				delete(n.last, key)
			}
		}
	}
}
