package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/firewall"
	"terway.dev/terway/internal/datapath/nft"
	"terway.dev/terway/internal/datapath/object"
	"terway.dev/terway/internal/datapath/reaper"
	"terway.dev/terway/internal/datapath/routing"
	"terway.dev/terway/internal/datapath/tracker"
	"terway.dev/terway/internal/kernel"
	"terway.dev/terway/internal/netlinkx"
)

// Options of New.
type Options struct {
	// NetNS is the path of the node's network namespace; empty means the process's own.
	NetNS string
	// ProcSys is where sysctls are, "/proc/sys" if empty.
	ProcSys string
	// Kinds are all kinds that the node's pods may be of. A pod of another kind is left alone.
	Kinds []Kind
	// Choices are the names of the kinds of new pods with shared ENIs, the fastest first; the
	// others serve pods that an earlier agent wired.
	Choices []string
	// Lacking has the reasons why the node has no other kinds, by name.
	Lacking map[string]error
	// Features of the node.
	Features []Feature
	// Log receives repairs and background failures; nil means slog.Default().
	Log *slog.Logger
}

// Node programs one node. It is safe for concurrent use; calls for one pod are serialised.
type Node struct {
	ns       netns.NsHandle
	procSys  string
	log      *slog.Logger
	tables   *nft.Tables
	routing  *routing.Node
	reaper   *reaper.Reaper
	pods     tracker.Tracker
	kinds    []Kind
	features []Feature
	choices  []string
	lacking  map[string]error

	// linkMu is held while pods' devices are made or deleted. The kernel serialises that anyway
	// (RTNL), but a thread that writes a sysctl of a device does not sleep while it waits: it
	// retries (addrconf_sysctl_disable), and a burst of pods would keep all processors busy with
	// that.
	linkMu sync.Mutex
	// syncMu serialises runs of Sync. Order of locks: syncMu, a pod's lock, linkMu, nodeMu.
	syncMu sync.Mutex
	// firewall has the state of other programs' rules; syncMu guards it.
	firewall *firewall.Firewall
	// nodeMu serialises node-wide changes.
	nodeMu sync.Mutex
	// idleMu guards idle, the unused sockets in the node's namespace, and batch, which all calls
	// share and the first pod opens.
	idleMu sync.Mutex
	idle   []*netlink.Handle
	batch  *netlinkx.Batch
	// stateMu guards last, which AddPod reads without waiting for nodeMu.
	stateMu sync.Mutex
	last    nodeState
}

// New opens the node's namespace and changes nothing in it.
func New(opts Options) (*Node, error) {
	ns := netns.None()
	if opts.NetNS != "" {
		var err error
		if ns, err = netns.GetFromPath(opts.NetNS); err != nil {
			return nil, fmt.Errorf("open the node's network namespace %s: %w", opts.NetNS, err)
		}
	}
	n := &Node{
		ns: ns, procSys: opts.ProcSys, log: opts.Log, tables: nft.New(ns),
		kinds: opts.Kinds, features: opts.Features, choices: opts.Choices, lacking: opts.Lacking,
	}
	if n.procSys == "" {
		n.procSys = "/proc/sys"
	}
	if n.log == nil {
		n.log = slog.Default()
	}
	n.routing, n.firewall = routing.New(ns, n.procSys), firewall.New(ns, n.tables)
	n.reaper = reaper.New(ns, &n.linkMu, n.log)
	for _, k := range n.kinds {
		k.Start(n)
	}
	return n, nil
}

// Close waits until devices of deleted pods are gone, then closes the node's namespace. Pods stay
// wired.
func (n *Node) Close(ctx context.Context) error {
	if err := n.reaper.Wait(ctx); err != nil {
		return err
	}
	errs := []error{n.tables.Close()}
	n.syncMu.Lock()
	n.firewall.Close()
	n.syncMu.Unlock()
	for _, k := range n.kinds {
		errs = append(errs, k.Close())
	}
	n.idleMu.Lock()
	for _, h := range n.idle {
		h.Close()
	}
	n.idle = nil
	if n.batch != nil {
		n.batch.Close()
		n.batch = nil
	}
	n.idleMu.Unlock()
	if n.ns.IsOpen() {
		errs = append(errs, n.ns.Close())
	}
	return errors.Join(errs...)
}

// Settle waits until devices of deleted pods are gone.
func (n *Node) Settle(ctx context.Context) error { return n.reaper.Wait(ctx) }

// Inside runs f on a thread that is in the node's namespace, for operations without a socket.
func (n *Node) Inside(f func() error) error { return kernel.InNS(n.ns, f) }

// Choices returns the names of the kinds of new pods with shared ENIs, the fastest first.
func (n *Node) Choices() []string { return n.choices }

// Lacking returns why the node has no other kinds, by name.
func (n *Node) Lacking() map[string]error { return n.lacking }

// Spoofed returns the number of packets with a source that is not the pod's, dropped by the host
// stack or by programs.
func (n *Node) Spoofed() (uint64, error) {
	sum, err := n.tables.Spoofed()
	errs := []error{err}
	for _, k := range n.kinds {
		more, err := k.Spoofed()
		sum, errs = sum+more, append(errs, err)
	}
	return sum, errors.Join(errs...)
}

// Capacity says for people how many connections of pods of a kind the node can track; it is empty if
// only the kernel does, or if the node has no such kind.
func (n *Node) Capacity(kind string) string {
	if k := n.kind(kind); k != nil {
		return k.Capacity()
	}
	return ""
}

// Alive reports whether a wired pod still has its device, though its namespace may not be visible.
func (n *Node) Alive(pod datapath.Pod) (bool, error) {
	h, err := n.host()
	if err != nil {
		return false, err
	}
	defer n.giveBack(h)
	link, err := object.Find(h, claims.HostIfName(pod.Sandbox, pod.IfName))
	if err != nil || link == nil {
		return false, err
	}
	kind := n.kind(pod.Kind)
	if kind == nil {
		return true, nil // another version's kind: assume that it is alive
	}
	return kind.Alive(h, link)
}

// kind returns the kind with a name, or nil.
func (n *Node) kind(name string) Kind {
	for _, k := range n.kinds {
		if k.Name() == name {
			return k
		}
	}
	return nil
}

func (n *Node) names() (names []string) {
	for _, k := range n.kinds {
		names = append(names, k.Name())
	}
	return names
}

// mostIdle is how many sockets are kept for later calls: as many as are often in use at once.
const mostIdle = 4

// host returns the netlink socket that one call uses throughout, and then gives back.
func (n *Node) host() (*netlink.Handle, error) {
	n.idleMu.Lock()
	defer n.idleMu.Unlock()
	if last := len(n.idle) - 1; last >= 0 {
		h := n.idle[last]
		n.idle = n.idle[:last]
		return h, nil
	}
	h, err := netlinkx.Open(n.ns)
	if err != nil {
		return nil, fmt.Errorf("node's network namespace: %w", err)
	}
	return h, nil
}

func (n *Node) giveBack(h *netlink.Handle) {
	n.idleMu.Lock()
	defer n.idleMu.Unlock()
	if len(n.idle) < mostIdle {
		n.idle = append(n.idle, h)
		return
	}
	h.Close()
}

// nodeState is the state of the node as last read: enough to wire a pod without reading again.
type nodeState struct {
	// done is the desired node to which the kernel was last brought, or nil.
	done *datapath.Node
	enis map[string]routing.ENI // by routing.Key
}

func (n *Node) state() nodeState {
	n.stateMu.Lock()
	defer n.stateMu.Unlock()
	return n.last
}

func (n *Node) setState(s nodeState) {
	n.stateMu.Lock()
	defer n.stateMu.Unlock()
	n.last = s
}

// distrust makes the next AddPod read the node again.
func (n *Node) distrust() {
	n.stateMu.Lock()
	defer n.stateMu.Unlock()
	n.last.done = nil
}

// agrees reports whether the kernel was brought to exactly this node.
func (s nodeState) agrees(node datapath.Node) bool {
	return s.done != nil && s.done.Equal(node)
}

// ready returns the state of the node, and first brings the kernel to the node if that was not done
// or the node changed. AddPod calls it: a pod that arrives before the first Sync, or on a new ENI,
// need not wait for one. AddPod's node may be older than the last Sync's, so nothing is removed.
func (n *Node) ready(ctx context.Context, h *netlink.Handle, node datapath.Node) (nodeState, error) {
	if s := n.state(); s.agrees(node) {
		return s, nil
	}
	n.nodeMu.Lock()
	defer n.nodeMu.Unlock()
	if s := n.state(); s.agrees(node) {
		return s, nil
	}
	repairs, err := n.ensureNode(ctx, h, node, false)
	for _, r := range repairs {
		n.log.Info("node prepared for pods", "repair", r.What)
	}
	return n.state(), err
}

// ensureNode brings the node-wide objects to the desired state: rules, tables and ENIs, the
// nftables tables, and those of kinds and features; with prune it also removes those of other ENIs.
// It continues after an error with one ENI. The caller holds nodeMu.
func (n *Node) ensureNode(ctx context.Context, h *netlink.Handle, node datapath.Node, prune bool) ([]datapath.Repair, error) {
	var repairs []datapath.Repair
	var errs []error
	note := func(kind, piece string, what []string, err error) {
		for _, x := range what {
			repairs = append(repairs, datapath.Repair{Kind: kind, Piece: piece, What: x})
		}
		errs = append(errs, err)
	}
	for _, k := range n.kinds {
		k.Choose(node.Kind)
	}
	features := func(links []netlink.Link, enis []routing.ENI) {
		for _, f := range n.features {
			what, err := f.Sync(n.site(ctx, h), node, links, enis)
			note(node.Kind, f.Name(), what, err)
		}
	}
	seen, err := n.routing.Ensure(ctx, h, node, n.state().enis, n.receivers, prune)
	note(node.Kind, datapath.PieceRouting, seen.Repairs, err)
	if seen.ENIs == nil {
		features(nil, nil) // it is not known which ENIs there are
		return repairs, errors.Join(errs...)
	}
	rs, err := nft.NewRuleset(node)
	if err == nil {
		var differs string
		if differs, err = n.tables.Ensure(rs, n.pods.Elements()); differs != "" {
			note(node.Kind, datapath.PieceNFTables, []string{"wrote the nftables tables: " + differs}, nil)
		}
	}
	errs = append(errs, err)

	links := seen.Links
	if !prune {
		links = nil // kinds handle only the ENIs' links
	}
	var enis []routing.ENI
	for _, mac := range slices.Sorted(maps.Keys(seen.ENIs)) {
		enis = append(enis, seen.ENIs[mac])
	}
	for _, k := range n.kinds {
		what, err := k.Sync(h, links, enis)
		note(k.Name(), datapath.PieceENIs, what, err)
	}
	features(links, enis)

	err = errors.Join(errs...)
	state := nodeState{enis: seen.ENIs}
	if _, _, failed := datapath.Sort(err); failed == nil { // with an obstacle it is programmed
		done := node.Clone()
		state.done = &done
	}
	n.setState(state)
	return repairs, err
}

// receivers returns the devices that kinds have beside an ENI's own.
func (n *Node) receivers(eni routing.ENI) (names []string) {
	for _, k := range n.kinds {
		if name := k.Receiver(eni); name != "" {
			names = append(names, name)
		}
	}
	return names
}

// EnsureReceiver is routing.Node.EnsureReceiver of this node.
func (n *Node) EnsureReceiver(h *netlink.Handle, link netlink.Link) ([]string, error) {
	return n.routing.EnsureReceiver(h, link)
}
