package ebpf

import (
	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath/bpfobj"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/fastpath"
	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/object"
	"terway.dev/terway/internal/datapath/routing"
	"terway.dev/terway/internal/netlinkx"
)

// Kind is the kind of pods with a veth and a fast path.
type Kind struct {
	node.Plain
	fast *fastPath
	// names are the kinds whose pods the ENIs' programs serve.
	names map[string]bool
}

// New returns the kind; connections is the number of IPv4 connections in the table
// (fastpath.SizesFor).
func New(connections int) *Kind {
	return &Kind{Plain: node.Plain{KindName: claims.EBPF}, fast: newFastPath(connections), names: map[string]bool{claims.EBPF: true}}
}

// Hooks attaches a pod's programs.
type Hooks interface {
	// Attach attaches programs to the node's end of a pod's pair, and replaces ours that are there,
	// each atomically.
	Attach(b *netlinkx.Batch, o *bpfobj.Objects, index int) error
	// Problem returns what is wrong with the first program that is missing or has another version, or
	// "".
	Problem(h *netlink.Handle, o *bpfobj.Objects, index int) (string, error)
}

// Serve makes pods of another kind use the maps and the ENIs' programs, so that connections between
// the kinds take the fast path. A new agent finds the maps by that kind's programs too. It must be
// called before the node starts.
func (k *Kind) Serve(kind string, programs fastpath.Running) {
	k.names[kind] = true
	k.fast.Others = append(k.fast.Others, programs)
}

// With returns the objects of a pod whose programs are attached by these hooks.
func (k *Kind) With(p *node.Pod, hooks Hooks) node.Added {
	return node.Added{
		// Without entries of addresses the programs use the slow path alone, so they may come first.
		First: []object.Object{podPrograms{k.fast, p, hooks}},
		Reach: []object.Object{podEntries{k.fast, p}},
	}
}

// Policy returns the feature that enforces policies on the node.
func (k *Kind) Policy() *Policy { return &Policy{fast: k.fast} }

// Start implements node.Kind.
func (k *Kind) Start(n *node.Node) { k.fast.Inside, k.fast.Batch = n.Inside, n.Batch }

// Choose implements node.Kind.
func (k *Kind) Choose(kind string) { k.fast.chosen.Store(k.names[kind]) }

// Objects implements node.Kind.
func (k *Kind) Objects(p *node.Pod) node.Added { return k.With(p, veth{}) }

// Points implements node.Kind: packets on the fast path to the pod bypass the node's end of its
// veth.
func (k *Kind) Points(p *node.Pod) []node.Point {
	list := k.Plain.Points(p)
	for i, at := range list {
		list[i].Bypassed = at.Device == p.Host && !at.FromPod
	}
	return list
}

// Sync implements node.Kind.
func (k *Kind) Sync(h *netlink.Handle, links []netlink.Link, enis []routing.ENI) ([]string, error) {
	return k.fast.sync(h, links, enis)
}

// ENIProblem implements node.Kind.
func (k *Kind) ENIProblem(h *netlink.Handle, eni routing.ENI) (string, error) {
	return k.fast.ENIProblem(h, eni)
}

// Teardown implements node.Kind.
func (k *Kind) Teardown(h *netlink.Handle, links []netlink.Link) error {
	return k.fast.teardown(h, links)
}

// Close implements node.Kind; the fast path goes on working.
func (k *Kind) Close() error { return k.fast.Close() }
