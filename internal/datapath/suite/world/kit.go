// Package world is a small VPC out of network namespaces, with nodes that a datapath programs, and
// the instruments with which tests look at it from outside: who answers whom, seen as whom, what the
// VPC dropped, what is left behind. What a datapath must do in it, package suite says.
//
// It needs root, and the programs ip (iproute2) and nft; ipvsadm where it is said. It judges nothing by
// itself but whether its own pieces work.
//
// Only tests import it.
package world

import (
	"context"
	"log/slog"

	"terway.dev/terway/internal/datapath"
)

// Subject is the node under test: package node's, with the kind of pod in question.
type Subject interface {
	AddPod(ctx context.Context, node datapath.Node, pod datapath.Pod) (datapath.Wiring, error)
	DelPod(ctx context.Context, pod datapath.Pod) error
	CheckPod(ctx context.Context, node datapath.Node, pod datapath.Pod) error
	Sync(ctx context.Context, node datapath.Node, pods []datapath.Pod) (repairs []string, err error)
	Teardown(ctx context.Context) error
	// Settle waits for what DelPod left to the background.
	Settle(ctx context.Context) error
	// Close lets go of the node; pods stay wired.
	Close(ctx context.Context) error
	// Spoofed counts packets dropped for a source that is not the pod's.
	Spoofed() (uint64, error)
}

// Options are what a datapath is made with.
type Options struct {
	// NetNS is the path of the node's network namespace.
	NetNS string
	Log   *slog.Logger
}

// Kit is one kind of pod, as the suite needs it.
type Kit struct {
	// Kind is the name of that of the pods, and of the node's new ones.
	Kind string
	// New makes the datapath for a node: at first and, on a node that one ran on
	// before, after a restart.
	New func(Options) (Subject, error)
	// Cuts takes the pieces of a wired pod away one by one, those of a node too.
	Cuts func(n *Node, p *Pod) []Cut
	// Trace describes what of the datapath ip and nft do not show; may be nil.
	Trace func(n *Node) (string, error)
	// GoesWithENI: a pod's device vanishes with its ENI, so it has no neighbours then.
	GoesWithENI bool
	// NoMAC: pods' devices have none.
	NoMAC bool
	// Exclusive: each pod has an ENI to itself, plugged in for it, whichever the scenario names.
	Exclusive bool
	// Except are scenarios that are about what the datapath has not, and why.
	Except map[string]string
}
