package route

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/firewall"
	"terway.dev/terway/internal/datapath/nft"
	"terway.dev/terway/internal/datapath/routing"
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
	tables  *nft.Tables
	routing *routing.Node
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
	// firewall is what others let pass; syncMu guards it.
	firewall *firewall.Firewall
	// nodeMu makes node-wide changes one after the other.
	nodeMu sync.Mutex
	// stateMu guards node, which AddPod reads without waiting for nodeMu.
	stateMu sync.Mutex
	node    nodeState
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
	d := &Datapath{ns: ns, procSys: opts.ProcSys, log: opts.Log, tables: nft.New(ns), exts: opts.Extensions}
	if d.procSys == "" {
		d.procSys = "/proc/sys"
	}
	if d.log == nil {
		d.log = slog.Default()
	}
	d.routing, d.firewall = routing.New(ns, d.procSys), firewall.New(ns, d.tables)
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
	err := d.tables.Close()
	d.syncMu.Lock()
	d.firewall.Close()
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
func (d *Datapath) Spoofed() (uint64, error) { return d.tables.Spoofed() }

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
	enis map[string]routing.ENI // by routing.Key
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
		if netlinkx.Family(a) == family {
			return a
		}
	}
	return netip.Addr{}
}

// ready returns the state of the node, and makes the kernel agree with the node
// first if it was never done or the node changed. AddPod calls it: a pod that
// arrives before the first Sync, or on a new ENI, need not wait for one. What AddPod was
// told of the node may be older than what the last Sync was, so nothing is removed.
func (d *Datapath) ready(ctx context.Context, h *netlink.Handle, node datapath.Node) (nodeState, error) {
	if s := d.state(); s.agrees(node) {
		return s, nil
	}
	d.nodeMu.Lock()
	defer d.nodeMu.Unlock()
	if s := d.state(); s.agrees(node) {
		return s, nil
	}
	repairs, err := d.ensureNode(ctx, h, node, false)
	for _, r := range repairs {
		d.log.Info("node prepared for pods", "repair", r)
	}
	return d.state(), err
}

// ensureNode makes the node-wide pieces agree with the node: rules, tables and ENIs, the
// nftables tables, and what extensions have; and, to prune, removes those of other ENIs. It
// goes on after an error with one ENI. The caller holds nodeMu.
func (d *Datapath) ensureNode(ctx context.Context, h *netlink.Handle, node datapath.Node, prune bool) ([]string, error) {
	var repairs []string
	var errs []error
	note := func(r []string, err error) {
		repairs = append(repairs, r...)
		errs = append(errs, err)
	}
	seen, err := d.routing.Ensure(ctx, h, node, d.state().enis, d.receivers, prune)
	note(seen.Repairs, err)
	if seen.ENIs == nil {
		return repairs, err
	}
	rs, err := nft.NewRuleset(node)
	if err == nil {
		var differs string
		if differs, err = d.tables.Ensure(rs, d.pods.elements()); differs != "" {
			note([]string{"wrote the nftables tables: " + differs}, nil)
		}
	}
	note(nil, err)

	links := seen.Links
	if !prune {
		links = nil // no others than the ENIs are extensions' business
	}
	var places []ENIPlace
	for _, mac := range slices.Sorted(maps.Keys(seen.ENIs)) {
		places = append(places, seen.ENIs[mac])
	}
	for _, ext := range d.exts {
		note(ext.Sync(h, links, places))
	}

	err = errors.Join(errs...)
	state := nodeState{enis: seen.ENIs}
	if err == nil {
		done := node.Clone()
		state.done = &done
	}
	d.setState(state)
	return repairs, err
}

// receivers are the devices that extensions have beside an ENI's own.
func (d *Datapath) receivers(eni routing.ENI) (names []string) {
	for _, ext := range d.exts {
		if l, ok := ext.(Linker); ok {
			if name := l.Receiver(eni); name != "" {
				names = append(names, name)
			}
		}
	}
	return names
}

// EnsureReceiver is routing.Node.EnsureReceiver of this node.
func (d *Datapath) EnsureReceiver(h *netlink.Handle, link netlink.Link) ([]string, error) {
	return d.routing.EnsureReceiver(h, link)
}
