package ebpf

import (
	"context"
	"log/slog"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/route"
)

var _ datapath.Datapath = (*Datapath)(nil)

// Options of New.
type Options struct {
	// NetNS, ProcSys and Log are as in route.Options.
	NetNS   string
	ProcSys string
	Log     *slog.Logger
	// Flows is how many directions of flows are remembered, DefaultFlows if 0.
	Flows int
	// Beside are extensions of other datapaths of the node.
	Beside []route.Extension
	// Variants are datapaths that are this one with other devices for their pods.
	Variants []Variant
}

// DefaultFlows is as many connections as conntrack knows on a node of some size. It
// takes 30 MB; a flow beyond it costs its eldest neighbour one way through the stack.
const DefaultFlows = 262144

// Datapath is the datapath route, whose pods get shortcuts. It serves pods that were
// wired as route too (datapath.Pod.Datapath) and leaves them as they are.
type Datapath struct {
	*route.Datapath
	shortcuts *shortcuts
}

// New touches nothing of the node yet.
func New(o Options) (*Datapath, error) {
	if o.Flows == 0 {
		o.Flows = DefaultFlows
	}
	s := &shortcuts{flows: o.Flows}
	extensions := append([]route.Extension{s}, o.Beside...)
	for _, v := range o.Variants {
		extensions = append(extensions, variant{s, v})
	}
	core, err := route.New(route.Options{NetNS: o.NetNS, ProcSys: o.ProcSys, Log: o.Log, Extensions: extensions})
	if err != nil {
		return nil, err
	}
	s.inside = core.Inside
	return &Datapath{Datapath: core, shortcuts: s}, nil
}

// Name implements datapath.Datapath.
func (d *Datapath) Name() string { return claims.EBPF }

// AddPod implements datapath.Datapath.
func (d *Datapath) AddPod(ctx context.Context, node datapath.Node, pod datapath.Pod) (datapath.Wiring, error) {
	d.shortcuts.chosen.Store(true)
	return d.Datapath.AddPod(ctx, node, pod.WiredBy(claims.EBPF))
}

// CheckPod implements datapath.Datapath.
func (d *Datapath) CheckPod(ctx context.Context, node datapath.Node, pod datapath.Pod) error {
	return d.Datapath.CheckPod(ctx, node, pod.WiredBy(claims.EBPF))
}

// Sync implements datapath.Datapath.
func (d *Datapath) Sync(ctx context.Context, node datapath.Node, pods []datapath.Pod) ([]string, error) {
	d.shortcuts.chosen.Store(true)
	return d.Datapath.Sync(ctx, node, datapath.WiredBy(claims.EBPF, pods))
}

// Spoofed is the number of packets dropped because a pod sent them with a source address
// that is not its own: by programs, or by the host stack.
func (d *Datapath) Spoofed() (uint64, error) {
	return d.shortcuts.spoofed(d.Datapath)
}

// Close lets go of the node. Pods stay wired and their shortcuts work.
func (d *Datapath) Close(ctx context.Context) error {
	if err := d.Datapath.Close(ctx); err != nil {
		return err
	}
	return d.shortcuts.close()
}

// Route is the datapath route of the same node. A node whose kernel can do ebpf uses
// this one also when it is told to use route: its pods of both kinds have one owner.
func (d *Datapath) Route() datapath.Datapath { return plain{d.Datapath, d.shortcuts} }

type plain struct {
	*route.Datapath
	shortcuts *shortcuts
}

// Spoofed is as that of the datapath ebpf: the node may have pods of both.
func (p plain) Spoofed() (uint64, error) { return p.shortcuts.spoofed(p.Datapath) }

// Sync implements datapath.Datapath: with the last pod that has shortcuts, the ENIs'
// programs go.
func (p plain) Sync(ctx context.Context, node datapath.Node, pods []datapath.Pod) ([]string, error) {
	p.shortcuts.chosen.Store(false)
	return p.Datapath.Sync(ctx, node, pods)
}
