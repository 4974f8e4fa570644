package nodenetwork

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/controller/nodeinfo"
)

// indexInstance indexes Nodes by the instance that they name.
const indexInstance = "terway.instance"

func instanceOf(o client.Object) []string {
	id, err := nodeinfo.InstanceID(o.(*corev1.Node).Spec.ProviderID)
	if err != nil {
		return nil
	}
	return []string{id}
}

// ownsInstance reports whether the instance that the Node names belongs to it. A kubelet chooses
// the providerID that it registers with, so ENIs could be attached to any instance of the account.
// Therefore an ENI of the instance that serves no pods must have the Node's InternalIP, and of
// several such Nodes the oldest owns the instance. Another node gets nothing, and nothing is taken
// from it. A kubelet that lies about both its instance and its InternalIP is detected only if that
// instance has a Node.
func (w *work) ownsInstance(ctx context.Context) (bool, error) {
	in := &w.facts.instance
	mine := internalIPs(w.node)
	if len(mine) == 0 {
		w.problem = &cloud.Explanation{Class: cloud.Invalid, Reason: "NoInternalIP",
			Cause:    fmt.Sprintf("Node %s has no InternalIP, so it is not known whether instance %s is its own", w.name, in.ID),
			NextStep: "the kubelet's --node-ip or the cloud controller manager sets it"}
		return false, nil
	}
	if w.facts.old != nil {
		in.Addresses = mine // as found before the spec was written
	}
	if own, err := w.has(ctx, in, mine); err != nil {
		return false, err
	} else if !own {
		// It may have got another address since the query: the next query shows it.
		w.knowledge.instances.Expire(in.ID)
		w.knowledge.addresses.Expire(in.ID)
		w.problem = &cloud.Explanation{Class: cloud.Invalid, Reason: "InstanceNotOfNode",
			Cause:    fmt.Sprintf("Node %s (InternalIP %s) names instance %s in its providerID, which has %s, and no other ENI with the Node's address but those for pods", w.name, join(mine), in.ID, join(in.Addresses)),
			NextStep: "give the node's kubelet the --provider-id of its own instance, and a --node-ip that the instance has, and register it again"}
		return false, nil
	}
	var all corev1.NodeList
	if err := w.Client.List(ctx, &all, client.MatchingFields{indexInstance: in.ID}); err != nil {
		return false, fmt.Errorf("list the Nodes of instance %s: %w", in.ID, err)
	}
	for i := range all.Items {
		n := &all.Items[i]
		if n.Name != w.name && w.facts.old != nil {
			return false, w.facts.old // the owner cannot be determined without its addresses
		}
		if n.Name == w.name || !older(n, w.node) {
			continue
		}
		claimed, err := w.has(ctx, in, internalIPs(n))
		if err != nil {
			return false, err
		}
		if claimed {
			w.problem = &cloud.Explanation{Class: cloud.Conflict, Reason: "InstanceClaimed",
				Cause:    fmt.Sprintf("Nodes %s and %s both name instance %s; the older one, %s, has it", n.Name, w.name, in.ID, n.Name),
				NextStep: "delete the Node that is not the instance's, or correct its --provider-id"}
			return false, nil
		}
	}
	return true, nil
}

// has reports whether an instance has one of the addresses on an ENI that serves no pods.
func (w *work) has(ctx context.Context, in *cloud.Instance, addrs []netip.Addr) (bool, error) {
	if overlap(in.Addresses, addrs) {
		return true, nil
	}
	all, err := w.knowledge.addresses.Get(ctx, in.ID)
	return overlap(all, addrs), err
}

func older(a, b *corev1.Node) bool {
	if c := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); c != 0 {
		return c < 0
	}
	return a.Name < b.Name
}

func internalIPs(n *corev1.Node) (out []netip.Addr) {
	for _, a := range n.Status.Addresses {
		if ip, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP {
			out = append(out, ip)
		}
	}
	return out
}

// overlap reports whether the lists have an address in common.
func overlap(a, b []netip.Addr) bool {
	return slices.ContainsFunc(a, func(x netip.Addr) bool { return slices.Contains(b, x) })
}

func join(list []netip.Addr) string {
	var out []string
	for _, a := range list {
		out = append(out, a.String())
	}
	return strings.Join(out, ", ")
}
