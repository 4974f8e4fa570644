// Package cluster publishes in the Node for which blocks its CNI plugins are configured.
//
// It owns the annotation AnnotationPodCIDR of Nodes, and must not write anything else.
package cluster

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/internal/agent/flannel"
	"terway.dev/terway/internal/datapath/claims"
)

// Node is a Node in the API server.
type Node struct {
	Client client.Client
	Name   string
}

// WaitForBlock waits until the Node has a block: flanneld looks once and ends if there is none. It
// looks again at every tick, and tells waits the reason when it changes.
func (o Node) WaitForBlock(ctx context.Context, tick <-chan time.Time, waits func(error)) error {
	for last := ""; ; {
		_, err := o.withBlock(ctx)
		if err == nil {
			return nil
		}
		if err.Error() != last {
			waits(err)
			last = err.Error()
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick:
		}
	}
}

// withBlock reads the Node; that it has no block is an error.
func (o Node) withBlock(ctx context.Context) (*corev1.Node, error) {
	var n corev1.Node
	if err := o.Client.Get(ctx, client.ObjectKey{Name: o.Name}, &n); err != nil {
		return nil, fmt.Errorf("read node %s: %w", o.Name, err)
	}
	if len(n.Spec.PodCIDRs) == 0 {
		return nil, fmt.Errorf("node %s has no block yet (spec.podCIDRs)", o.Name)
	}
	return &n, nil
}

// Publish writes into the Node for which blocks its plugins are configured. If the Node's spec has
// other blocks, nothing is written and the error is a flannel.ErrBlock.
func (o Node) Publish(ctx context.Context, blocks []netip.Prefix) error {
	n, err := o.withBlock(ctx)
	if err != nil {
		return err // a restarted flanneld would not find a block either
	}
	var nodes []netip.Prefix
	for _, s := range n.Spec.PodCIDRs {
		if p, err := netip.ParsePrefix(s); err == nil {
			nodes = append(nodes, p.Masked())
		}
	}
	var ours []string
	for _, b := range blocks {
		if !slices.Contains(nodes, b) {
			return fmt.Errorf("%w: node %s has %q (spec.podCIDRs), flanneld took %s", flannel.ErrBlock, o.Name, n.Spec.PodCIDRs, b)
		}
		ours = append(ours, b.String())
	}
	value := strings.Join(ours, ",")
	if n.Annotations[claims.AnnotationPodCIDR] == value {
		return nil
	}
	changed := n.DeepCopy()
	if changed.Annotations == nil {
		changed.Annotations = map[string]string{}
	}
	changed.Annotations[claims.AnnotationPodCIDR] = value
	// Patch the status, as flanneld does: its service account may write nothing else of a Node. The
	// optimistic lock keeps the patch off a newer object of the same name.
	if err := o.Client.Status().Patch(ctx, changed, client.MergeFromWithOptions(n, client.MergeFromWithOptimisticLock{})); err != nil {
		return fmt.Errorf("write annotation %s of node %s: %w", claims.AnnotationPodCIDR, o.Name, err)
	}
	return nil
}
