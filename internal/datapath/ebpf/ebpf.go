package ebpf

import (
	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath/bpfobj"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/object"
	"terway.dev/terway/internal/datapath/routing"
)

// Kind is that of pods with shortcuts.
type Kind struct {
	node.Plain
	shortcuts *shortcuts
	// names are those of the kinds whose pods the ENIs' programs serve.
	names map[string]bool
}

// New is the kind; connections is how many of IPv4 are remembered (fastpath.SizesFor).
func New(connections int) *Kind {
	return &Kind{Plain: node.Plain{KindName: claims.EBPF}, shortcuts: newShortcuts(connections), names: map[string]bool{claims.EBPF: true}}
}

// Hooks are where a pod's programs run.
type Hooks interface {
	// Attach puts programs on the node's end of a pod's pair, or in the place of ours
	// that are there; no packet passes in between.
	Attach(h *netlink.Handle, o *bpfobj.Objects, index int) error
	// Wrong names the first program that is not in its place there, or "".
	Wrong(h *netlink.Handle, o *bpfobj.Objects, index int) (string, error)
}

// Serve lets pods of another kind share the maps and the ENIs' programs, so that the pods of
// both have shortcuts to each other. It is called before the node starts.
func (k *Kind) Serve(kind string) { k.names[kind] = true }

// With are the objects of a pod whose programs run at these hooks.
func (k *Kind) With(p *node.Pod, hooks Hooks) node.Added {
	return node.Added{
		// Without entries they let nothing from the pod pass, so they may come before.
		First:  []object.Object{podPrograms{k.shortcuts, p, hooks}},
		Before: []object.Object{podEntries{k.shortcuts, p}},
	}
}

// Start implements node.Kind.
func (k *Kind) Start(n *node.Node) { k.shortcuts.Inside = n.Inside }

// Choose implements node.Kind.
func (k *Kind) Choose(kind string) { k.shortcuts.chosen.Store(k.names[kind]) }

// Objects implements node.Kind.
func (k *Kind) Objects(p *node.Pod) node.Added { return k.With(p, veth{}) }

// Points implements node.Kind: known flows go from device to device, past what comes to a pod
// by the node's end of its veth.
func (k *Kind) Points(p *node.Pod) []node.Point {
	list := k.Plain.Points(p)
	for i, at := range list {
		list[i].Bypassed = at.Device == p.Host && !at.FromPod
	}
	return list
}

// Sync implements node.Kind.
func (k *Kind) Sync(h *netlink.Handle, links []netlink.Link, enis []routing.ENI) ([]string, error) {
	return k.shortcuts.sync(h, links, enis)
}

// ENIProblem implements node.Kind.
func (k *Kind) ENIProblem(h *netlink.Handle, eni routing.ENI) (string, error) {
	return k.shortcuts.problemOf(h, eni)
}

// Teardown implements node.Kind.
func (k *Kind) Teardown(h *netlink.Handle, links []netlink.Link) error {
	return k.shortcuts.teardown(h, links)
}

// Close implements node.Kind; shortcuts go on working.
func (k *Kind) Close() error { return k.shortcuts.Close() }
