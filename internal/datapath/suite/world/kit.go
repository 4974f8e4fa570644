// Package world builds a small VPC of network namespaces, with nodes that a datapath programs, and
// the instruments with which tests observe it from outside: which server answers, which client
// address it sees, what the VPC drops, what is left behind. Package suite tests what a datapath
// must do in it.
//
// It needs root, and the programs ip (iproute2) and nft; ipvsadm where noted. By itself it checks
// only that its own parts work.
//
// Only tests import it.
package world

import (
	"context"
	"log/slog"

	"terway.dev/terway/internal/bandwidth"
	"terway.dev/terway/internal/datapath"
)

// Subject is the node under test: package node's, with the kind of pod under test.
type Subject interface {
	AddPod(ctx context.Context, node datapath.Node, pod datapath.Pod) (datapath.Wiring, error)
	DelPod(ctx context.Context, pod datapath.Pod) error
	CheckPod(ctx context.Context, node datapath.Node, pod datapath.Pod) error
	Sync(ctx context.Context, node datapath.Node, pods []datapath.Pod) (repairs []datapath.Repair, err error)
	Teardown(ctx context.Context) error
	// Settle waits for the background work of DelPod.
	Settle(ctx context.Context) error
	// Close closes the node; pods stay wired.
	Close(ctx context.Context) error
	// Spoofed counts packets dropped for a source that is not the pod's.
	Spoofed() (uint64, error)
}

// Options are the arguments with which a datapath is made.
type Options struct {
	// NetNS is the path of the node's network namespace.
	NetNS string
	Log   *slog.Logger
}

// Kit is one kind of pod, as the suite needs it.
type Kit struct {
	// Kind is the kind of the pods, and of the node's new pods.
	Kind string
	// New makes the datapath for a node: at first and again after a restart.
	New func(Options) (Subject, error)
	// Cuts returns Cuts of a wired pod's objects one by one, including the node's.
	Cuts func(n *Node, p *Pod) []Cut
	// Trace describes what of the datapath ip and nft do not show; may be nil.
	Trace func(n *Node) (string, error)
	// Known returns the keys of the established connections that the datapath itself remembers; nil
	// if it remembers none.
	Known func(n *Node) (map[string]bool, error)
	// GoesWithENI: a pod's device disappears with its ENI, so the pod reaches no neighbours then.
	GoesWithENI bool
	// NoMAC: pods' devices have no MAC.
	NoMAC bool
	// Exclusive: each pod has an exclusive ENI, plugged in for it, whichever ENI the scenario
	// names.
	Exclusive bool
	// Limits are those of all pods; nil for none.
	Limits *bandwidth.Limits
	// ENIMbit is the node's total for each ENI; 0 for none.
	ENIMbit int
	// Except are scenarios that the datapath does not support, with the reason.
	Except map[string]string
}
