package ipvlan

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/route"
	"terway.dev/terway/internal/datapath/tcprog"
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
}

// DefaultFlows is as in the datapath ebpf.
const DefaultFlows = 262144

// Extension is this datapath's part of a node that may run others too. It implements
// route.Linker.
//
// Its map of slaves is what makes a pod's address take part: without its entry a pod can
// send nothing, and what comes for it goes to the host stack. So an entry goes first when
// a pod goes.
type Extension struct {
	core  *route.Datapath
	log   *slog.Logger
	flows int
	// active: the node has such pods or is about to.
	active atomic.Bool

	// mu guards all below and makes changes of the map follow each other.
	mu sync.Mutex
	// objects is nil until they are needed.
	objects *tcprog.Objects
	// enis that are prepared, as far as we know, with the index of the receiver.
	enis map[int]int
	// holders are the pods that this process has wired or seen, by device on the node.
	holders map[string]holder
}

var _ route.Linker = (*Extension)(nil)

// NewExtension is for route.Options or the options of what is built on it; then On.
func NewExtension(log *slog.Logger, flows int) *Extension {
	if flows == 0 {
		flows = DefaultFlows
	}
	if log == nil {
		log = slog.Default()
	}
	return &Extension{log: log, flows: flows}
}

// On is the datapath on the node that has the extension.
func (s *Extension) On(core *route.Datapath) *Datapath {
	s.core = core
	return &Datapath{Datapath: core, slaves: s}
}

// Datapath is the datapath route, whose new pods get ipvlan devices. It serves the node's
// pods of other kinds too (datapath.Pod.Datapath) and leaves them as they are.
type Datapath struct {
	*route.Datapath
	slaves *Extension
}

// New touches nothing of the node yet. Ask Supported before.
func New(o Options) (*Datapath, error) {
	s := NewExtension(o.Log, o.Flows)
	core, err := route.New(route.Options{NetNS: o.NetNS, ProcSys: o.ProcSys, Log: o.Log, Extensions: []route.Extension{s}})
	if err != nil {
		return nil, err
	}
	return s.On(core), nil
}

// Name implements datapath.Datapath.
func (d *Datapath) Name() string { return claims.IPvlan }

// AddPod implements datapath.Datapath.
func (d *Datapath) AddPod(ctx context.Context, node datapath.Node, pod datapath.Pod) (datapath.Wiring, error) {
	d.slaves.active.Store(true)
	return d.Datapath.AddPod(ctx, node, pod.WiredBy(claims.IPvlan))
}

// DelPod implements datapath.Datapath.
func (d *Datapath) DelPod(ctx context.Context, pod datapath.Pod) error {
	return d.Datapath.DelPod(ctx, pod.WiredBy(claims.IPvlan))
}

// CheckPod implements datapath.Datapath.
func (d *Datapath) CheckPod(ctx context.Context, node datapath.Node, pod datapath.Pod) error {
	return d.Datapath.CheckPod(ctx, node, pod.WiredBy(claims.IPvlan))
}

// Sync implements datapath.Datapath.
func (d *Datapath) Sync(ctx context.Context, node datapath.Node, pods []datapath.Pod) ([]string, error) {
	d.slaves.active.Store(true)
	return d.Datapath.Sync(ctx, node, datapath.WiredBy(claims.IPvlan, pods))
}

// Spoofed is the number of packets dropped because a pod sent them with a source address
// that is not its own, at the pod's device or in the host stack.
func (d *Datapath) Spoofed() (uint64, error) {
	inStack, err := d.Datapath.Spoofed()
	if err != nil {
		return 0, err
	}
	counts, err := d.slaves.counters()
	return inStack + counts["spoofed"], err
}

// Counters are what the programs have done since their maps were made.
func (d *Datapath) Counters() (map[string]uint64, error) { return d.slaves.counters() }

// Close lets go of the node. Pods stay wired.
func (d *Datapath) Close(ctx context.Context) error {
	if err := d.Datapath.Close(ctx); err != nil {
		return err
	}
	return d.slaves.close()
}
