package podroute

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/controller/nodeinfo"
	"terway.dev/terway/internal/controller/podroute/entries"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/pages"
)

// node is a Node, its part of the plan, and what keeps it from a route.
type node struct {
	object   *corev1.Node
	pure     entries.Node
	instance string
	vswitch  string
	// fault, if it has a reason, is reported in place of the plan's state.
	fault standing
}

// nodes returns the nodes that pods may run on, the oldest first: of two nodes with the same block
// the older one has it.
func (r *Reconciler) nodes(ctx context.Context) ([]*node, error) {
	var list corev1.NodeList
	if err := r.Client.List(ctx, &list); err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	var all []*node
	r.seen, r.left = map[string]*corev1.Node{}, nil
	said := map[string]bool{}
	for i := range list.Items {
		n := &node{object: &list.Items[i]}
		name := n.object.Name
		r.seen[name] = n.object
		if nodeinfo.Ignored(n.object) {
			if routed(n.object) {
				// Without an instance its blocks are held: their entries stay as they are.
				r.left = append(r.left, entries.Node{Name: name, Blocks: blocks(n.object)})
				said["ignored/"+name] = true
				r.notifier.warn("ignored/"+name, name, "NodeIgnored", fmt.Sprintf("Node %s has a label that makes Terway ignore it, but its pods have routes: their entries stay as long as the Node exists", name))
			}
			continue
		}
		n.pure = entries.Node{Name: n.object.Name, Blocks: blocks(n.object)}
		id, err := nodeinfo.InstanceID(n.object.Spec.ProviderID)
		switch {
		case err == nil:
			n.instance = id
		case n.object.Spec.ProviderID == "":
			n.fault = standing{reason: "ProviderIDInvalid", message: "the node has no providerID, so its ECS instance is not known; the cloud controller manager or kubelet's --provider-id sets it"}
		default:
			n.fault = standing{reason: "ProviderIDInvalid", message: err.Error()}
		}
		all = append(all, n)
	}
	r.notifier.only(said, "ignored/")
	slices.SortFunc(all, func(a, b *node) int {
		return cmp.Or(a.object.CreationTimestamp.Compare(b.object.CreationTimestamp.Time), cmp.Compare(a.object.Name, b.object.Name))
	})
	return all, nil
}

// unseen returns a Node whose version in the API server differs from the cache and to which an
// entry to be deleted belongs; nil if there is none. It reads all Nodes from the API server, once
// for each call that deletes: a stale cache does not know which Nodes it lacks, and no selector
// finds Nodes by their blocks.
func (r *Reconciler) unseen(ctx context.Context, condemned []entries.Entry) (*corev1.Node, error) {
	for page, err := range pages.Of(ctx, r.Live, &corev1.NodeList{}) {
		if err != nil {
			return nil, fmt.Errorf("list nodes before route entries are deleted: %w", err)
		}
		for i := range page.Items {
			n := &page.Items[i]
			if was := r.seen[n.Name]; was != nil && was.UID == n.UID && !matters(was, n) {
				continue
			}
			for _, b := range blocks(n) {
				if slices.ContainsFunc(condemned, func(e entries.Entry) bool { return e.Destination.Overlaps(b) }) {
					return n, nil
				}
			}
		}
	}
	return nil, nil
}

// blocks returns a node's pod CIDRs, without those that do not parse.
func blocks(n *corev1.Node) []netip.Prefix {
	list := n.Spec.PodCIDRs
	if len(list) == 0 && n.Spec.PodCIDR != "" {
		list = []string{n.Spec.PodCIDR}
	}
	var all []netip.Prefix
	for _, s := range list {
		if p, err := netip.ParsePrefix(s); err == nil {
			all = append(all, p.Masked())
		}
	}
	return all
}

func instanceIDs(nodes []*node) []string {
	var ids []string
	for _, n := range nodes {
		if n.instance != "" {
			ids = append(ids, n.instance)
		}
	}
	return ids
}

// configured returns the blocks for which the node's CNI plugins are configured, according to its
// annotation.
func configured(n *corev1.Node) string { return n.Annotations[claims.AnnotationPodCIDR] }

// gives reports whether the node's plugins give pods addresses of a block: until they are
// configured for it, they use the node's earlier block. A node that takes pods and has no
// annotation is left alone: it runs a version of the chart that does not write it.
func gives(n *corev1.Node, block netip.Prefix) bool {
	says := configured(n)
	if says == "" {
		return routed(n)
	}
	return slices.Contains(strings.Split(says, ","), block.String())
}

// routed reports whether a node's condition says that its routes exist.
func routed(n *corev1.Node) bool {
	c := condition(n)
	return c != nil && c.Status == corev1.ConditionFalse
}

// clusterVPC returns the cluster's VPC: that of the oldest node that has its routes, else of the
// oldest whose instance exists. A node in another VPC may outlive all older ones; the controller's
// next start must not use its VPC, nor while the cloud does not say where the other instances are.
func (r *Reconciler) clusterVPC(nodes []*node) (vpc string) {
	sure := true
	for _, n := range nodes {
		at, _ := r.instances.where(n.instance)
		err := r.instances.failed(n.instance)
		switch {
		case at == "" && err != nil && !itsOwn(err):
			sure = false
		case at == "" || r.instances.gone(n.instance):
		case routed(n.object):
			return at
		case vpc == "":
			vpc = at
		}
	}
	if !sure {
		return ""
	}
	return vpc
}

// locate sets where each node's instance is, by the last answer. The VPC that was found first
// stays.
func (r *Reconciler) locate(nodes []*node) {
	if r.vpc == "" {
		if r.vpc = r.clusterVPC(nodes); r.vpc != "" {
			r.Log.Info("the cluster's VPC", "vpc", r.vpc)
		}
	}
	for _, n := range nodes {
		if n.instance == "" {
			continue
		}
		n.pure.Perhaps = n.instance
		vpc, vswitch := r.instances.where(n.instance)
		err := r.instances.failed(n.instance)
		if r.vpc == "" && err == nil {
			err = r.instances.query.err // the cluster's VPC depends on the other instances
		}
		switch {
		case err != nil && r.instances.gone(n.instance):
			n.fault = standing{ready: routed(n.object), reason: string(entries.Destroyed), message: fmt.Sprintf("the cloud did not list instance %s; as it does not answer now, the node's route entries stay as they are", n.instance)}
			continue
		case err != nil && (vpc == "" || r.vpc == ""):
			x := cloud.Explain(err)
			n.fault = standing{unsure: true, reason: x.Reason, message: fmt.Sprintf("no route yet, as it is not known whether instance %s is in the cluster's VPC: %s", n.instance, x)}
			continue
		case r.instances.gone(n.instance) && alive(n.object):
			// One of the two is wrong. If it is the list (of another region, or limited to what the
			// account may see), all nodes would lose their routes at once, or take no more pods.
			n.fault = standing{ready: routed(n.object), reason: string(entries.Destroyed), message: fmt.Sprintf("the cloud does not list instance %s, but its kubelet is alive, so the node's route entries stay as they are; check the controller's region and permissions, or delete the Node object", n.instance)}
			continue
		case r.instances.gone(n.instance):
			n.pure.Gone = true
			continue
		case vpc == "" || r.vpc == "":
			continue
		case vpc != r.vpc:
			n.pure.Gone = true // for this VPC's tables
			n.fault = standing{reason: "InstanceInOtherVPC", message: fmt.Sprintf("instance %s is in VPC %s, the cluster's other nodes are in %s, whose route tables cannot have it as a target", n.instance, vpc, r.vpc)}
			continue
		}
		n.pure.Instance, n.vswitch = n.instance, vswitch
	}
}

// alive reports whether a node's kubelet reports that it is ready.
func alive(n *corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// kept reports whether a node's condition says that its instance is gone: then the kubelet's state
// decides whether its entries stay.
func kept(n *corev1.Node) bool {
	c := condition(n)
	return c != nil && c.Reason == string(entries.Destroyed)
}

func pure(nodes []*node) []entries.Node {
	all := make([]entries.Node, len(nodes))
	for i, n := range nodes {
		all[i] = n.pure
	}
	return all
}
