package netkit

import (
	"context"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/ebpf"
	"terway.dev/terway/internal/datapath/route"
)

var _ datapath.Datapath = (*Datapath)(nil)

// Datapath is the datapath ebpf, whose new pods get netkit devices. It serves the node's
// pods of ebpf and route too (datapath.Pod.Datapath) and leaves them as they are.
type Datapath struct {
	*ebpf.Datapath
}

// New touches nothing of the node yet. Ask Supported before.
func New(o ebpf.Options) (*Datapath, error) {
	h := &hooks{}
	o.Variants = append(o.Variants, ebpf.Variant{Name: claims.Netkit, Pair: route.Netkit, Hooks: h})
	core, err := ebpf.New(o)
	if err != nil {
		return nil, err
	}
	h.inside = core.Inside
	return &Datapath{core}, nil
}

// Name implements datapath.Datapath.
func (d *Datapath) Name() string { return claims.Netkit }

// AddPod implements datapath.Datapath.
func (d *Datapath) AddPod(ctx context.Context, node datapath.Node, pod datapath.Pod) (datapath.Wiring, error) {
	return d.Datapath.AddPod(ctx, node, pod.WiredBy(claims.Netkit))
}

// CheckPod implements datapath.Datapath.
func (d *Datapath) CheckPod(ctx context.Context, node datapath.Node, pod datapath.Pod) error {
	return d.Datapath.CheckPod(ctx, node, pod.WiredBy(claims.Netkit))
}

// Sync implements datapath.Datapath.
func (d *Datapath) Sync(ctx context.Context, node datapath.Node, pods []datapath.Pod) ([]string, error) {
	return d.Datapath.Sync(ctx, node, datapath.WiredBy(claims.Netkit, pods))
}

// EBPF is the datapath ebpf of the same node: its pods of all kinds have one owner.
func (d *Datapath) EBPF() datapath.Datapath { return d.Datapath }
