// Package kinds assembles a node: it determines which kinds of pod the node's kernel supports, and
// makes a node of package node with all of them. It is the only package that knows every kind.
package kinds

import (
	"errors"
	"fmt"
	"log/slog"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/ebpf"
	"terway.dev/terway/internal/datapath/exclusive"
	"terway.dev/terway/internal/datapath/ipvlan"
	"terway.dev/terway/internal/datapath/netkit"
	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/route"
	"terway.dev/terway/internal/datapath/shaping"
)

// Options of New.
type Options struct {
	// NetNS is the path of the node's network namespace; empty means the process's own.
	NetNS string
	// ProcSys is where sysctls are, "/proc/sys" if empty.
	ProcSys string
	// Lacking are kinds that must not be used, with the reason; see Probe.
	Lacking map[string]error
	Log     *slog.Logger
}

// New returns a node with every kind that its kernel supports. New pods may be of any kind with
// shared ENIs, the fastest first. All build on the last one; it is included even if the kernel does
// not support it, to remove what was made under an earlier kernel.
//
// Policy enforces network policies on the node; nil if the kernel lacks kind ebpf, whose programs do
// it.
func New(o Options) (n *node.Node, policy *ebpf.Policy, err error) {
	has := func(name string) bool { return o.Lacking[name] == nil && o.Lacking[claims.Route] == nil }
	list := []node.Kind{route.New(), exclusive.New()}
	var choices []string
	features := []node.Feature{shaping.New(), shaping.NewPriorities()}
	var policies ipvlan.Policies
	if has(claims.EBPF) {
		programs := ebpf.New(0)
		policies = programs
		policy = programs.Policy()
		features = append(features, policy)
		list = append(list, programs)
		if has(claims.Netkit) {
			list = append(list, netkit.New(programs))
			choices = append(choices, claims.Netkit)
		}
		choices = append(choices, claims.EBPF)
	} else {
		// A pod that was wired with programs is a pod of route without them.
		list = append(list, node.Plain{KindName: claims.EBPF})
	}
	if has(claims.IPvlan) {
		list = append(list, ipvlan.New(0, policies))
		choices = append(choices, claims.IPvlan)
	}
	n, err = node.New(node.Options{
		NetNS: o.NetNS, ProcSys: o.ProcSys, Log: o.Log, Kinds: list, Choices: append(choices, claims.Route), Lacking: o.Lacking, Features: features,
	})
	return n, policy, err
}

// Probe returns what the kernel lacks for each kind that it does not support. Any other failure,
// such as lack of memory, is an error: it says nothing about the kernel, and the result is used
// until the agent is restarted.
func Probe() (lacking map[string]error, err error) {
	return probe(map[string]func() error{
		claims.Route: route.Supported, claims.IPvlan: ipvlan.Supported, claims.Netkit: netkit.Supported, claims.EBPF: ebpf.Supported,
	})
}

func probe(supported map[string]func() error) (lacking map[string]error, err error) {
	lacking = map[string]error{}
	var errs []error
	for name, try := range supported {
		var lacks *datapath.UnsupportedError
		switch why := try(); {
		case why == nil:
		case errors.As(why, &lacks):
			lacking[name] = why
		default:
			errs = append(errs, fmt.Errorf("find out whether this kernel can run datapath %s: %w", name, why))
		}
	}
	return lacking, errors.Join(errs...)
}
