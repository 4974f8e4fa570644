package route

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"reflect"
	"sync"
	"sync/atomic"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/kernel"
	"terway.dev/terway/internal/netlinkx"
)

var _ datapath.Datapath = (*Datapath)(nil)

// Options of New.
type Options struct {
	// NetNS is the path of the node's network namespace; empty means the one the
	// process runs in.
	NetNS string
	// ProcSys is where sysctls are, "/proc/sys" if empty.
	ProcSys string
	// Extensions are the other datapaths of the node: one owner for the pods of all kinds.
	Extensions []Extension
	// Log receives repairs and background failures; nil means slog.Default().
	Log *slog.Logger
}

// Datapath implements datapath.Datapath. It is safe for concurrent use; calls
// for one pod wait for each other.
type Datapath struct {
	ns      netns.NsHandle
	procSys string
	log     *slog.Logger
	nft     nft
	reaper  reaper
	pods    tracker
	exts    []Extension

	// linkMu is held while pods' devices are made or deleted. The kernel does that one
	// after the other anyway (RTNL), but a thread that writes a sysctl of a device does
	// not sleep until its turn comes: it tries again and again (addrconf_sysctl_disable),
	// and a burst of pods would keep all processors busy with it.
	linkMu sync.Mutex
	// syncMu makes runs of Sync follow each other. Order of locks: syncMu, a pod's
	// turn, linkMu, nodeMu.
	syncMu sync.Mutex
	// forward is what others let pass; syncMu guards it.
	forward forwarding
	// nodeMu makes node-wide changes one after the other.
	nodeMu sync.Mutex
	// stateMu guards node, which AddPod reads without waiting for nodeMu.
	stateMu sync.Mutex
	node    nodeState

	// reversePath: the node checks the way back on every device; see readReversePath.
	reversePath atomic.Bool
}

// New opens the node's namespace and touches nothing in it.
func New(opts Options) (*Datapath, error) {
	ns := netns.None()
	if opts.NetNS != "" {
		var err error
		if ns, err = netns.GetFromPath(opts.NetNS); err != nil {
			return nil, fmt.Errorf("open the node's network namespace %s: %w", opts.NetNS, err)
		}
	}
	d := &Datapath{ns: ns, procSys: opts.ProcSys, log: opts.Log, nft: nft{ns: ns}, exts: opts.Extensions}
	if d.procSys == "" {
		d.procSys = "/proc/sys"
	}
	if d.log == nil {
		d.log = slog.Default()
	}
	d.reaper.delete = d.deleteDying
	d.reaper.log = d.log
	return d, nil
}

// Close waits until devices of deleted pods are gone, then lets go of the
// node's namespace. Pods stay wired.
func (d *Datapath) Close(ctx context.Context) error {
	if err := d.reaper.wait(ctx); err != nil {
		return err
	}
	err := d.nft.close()
	d.syncMu.Lock()
	d.forward.close()
	d.syncMu.Unlock()
	if d.ns.IsOpen() {
		err = errors.Join(err, d.ns.Close())
	}
	return err
}

// Settle waits until devices of deleted pods are gone.
func (d *Datapath) Settle(ctx context.Context) error { return d.reaper.wait(ctx) }

// Inside runs f on a thread that is in the node's namespace, for what no socket can do.
func (d *Datapath) Inside(f func() error) error { return kernel.InNS(d.ns, f) }

// Name implements datapath.Datapath.
func (d *Datapath) Name() string { return claims.Route }

// Spoofed is the number of packets dropped because a pod sent them with a source
// address that is not its own.
func (d *Datapath) Spoofed() (uint64, error) { return d.nft.spoofed() }

// host opens the netlink socket that one call uses throughout.
func (d *Datapath) host() (*netlink.Handle, error) {
	h, err := netlinkx.Open(d.ns)
	if err != nil {
		return nil, fmt.Errorf("node's network namespace: %w", err)
	}
	return h, nil
}

// nodeState is what the last look at the node found: enough to wire a pod
// without looking again.
type nodeState struct {
	// done is the desired node that the kernel was made to agree with, or nil.
	done *datapath.Node
	enis map[string]eniState // by MAC
}

// eniState is an attached ENI's place in the datapath.
type eniState struct {
	slot   int
	index  int
	device string
	mac    net.HardwareAddr
	mtu    int
	// receivers are devices, beside its own, by which packets for its pods come to the
	// host stack.
	receivers []string
	// gateways are the vSwitch's.
	gateways []netip.Addr
}

func (d *Datapath) state() nodeState {
	d.stateMu.Lock()
	defer d.stateMu.Unlock()
	return d.node
}

func (d *Datapath) setState(s nodeState) {
	d.stateMu.Lock()
	defer d.stateMu.Unlock()
	d.node = s
}

// distrust makes the next AddPod look at the node again.
func (d *Datapath) distrust() {
	d.stateMu.Lock()
	defer d.stateMu.Unlock()
	d.node.done = nil
}

// agrees says that the kernel was made to agree with just this node.
func (s nodeState) agrees(node datapath.Node) bool {
	return s.done != nil && reflect.DeepEqual(*s.done, node)
}

// nodeSource is the node's address that local processes use towards pods.
func nodeSource(node datapath.Node, family int) netip.Addr {
	for _, a := range node.Addresses {
		if familyOf(a) == family {
			return a
		}
	}
	return netip.Addr{}
}
