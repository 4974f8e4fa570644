// Package kinds puts a node together: it finds out which kinds of pod the node's kernel can run,
// and makes a node of package node with all of them. It is the one package that knows every kind.
package kinds

import (
	"errors"
	"fmt"
	"log/slog"

	bpf "github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/ebpf"
	"terway.dev/terway/internal/datapath/exclusive"
	"terway.dev/terway/internal/datapath/ipvlan"
	"terway.dev/terway/internal/datapath/netkit"
	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/route"
)

// Options of New.
type Options struct {
	// NetNS is the path of the node's network namespace; empty means the process's own.
	NetNS string
	// Lacking are kinds that are not to be there, and why; see Probe.
	Lacking map[string]error
	Log     *slog.Logger
}

// New is a node with every kind that its kernel can run. New pods may be of any that shares
// ENIs, the fastest first. The last of them is what all build on; it is there also if the kernel
// cannot run it, to remove what an earlier kernel could.
func New(o Options) (*node.Node, error) {
	has := func(name string) bool { return o.Lacking[name] == nil && o.Lacking[claims.Route] == nil }
	list := []node.Kind{route.New(), exclusive.New()}
	var choices []string
	if has(claims.EBPF) {
		programs := ebpf.New(0)
		list = append(list, programs)
		if has(claims.Netkit) {
			list = append(list, netkit.New(programs))
			choices = append(choices, claims.Netkit)
		}
		choices = append(choices, claims.EBPF)
	} else {
		// A pod that was wired with programs is one of route without them.
		list = append(list, node.Plain{KindName: claims.EBPF})
	}
	if has(claims.IPvlan) {
		list = append(list, ipvlan.New(0))
		choices = append(choices, claims.IPvlan)
	}
	return node.New(node.Options{
		NetNS: o.NetNS, Log: o.Log, Kinds: list, Choices: append(choices, claims.Route), Lacking: o.Lacking,
	})
}

// Probe says what the kernel lacks for each kind that it cannot run. Any other trouble, such as
// memory that is short, is an error: it says nothing of the kernel, and what is found out here
// holds until the agent starts again.
func Probe() (lacking map[string]error, err error) {
	return probe(map[string]func() error{
		claims.Route: route.Supported, claims.IPvlan: ipvlan.Supported, claims.Netkit: netkit.Supported, claims.EBPF: ebpf.Supported,
	})
}

func probe(supported map[string]func() error) (lacking map[string]error, err error) {
	lacking = map[string]error{}
	var errs []error
	for name, try := range supported {
		switch why := try(); {
		case why == nil:
		case lacks(why):
			lacking[name] = why
		default:
			errs = append(errs, fmt.Errorf("find out whether this kernel can run datapath %s: %w", name, why))
		}
	}
	return lacking, errors.Join(errs...)
}

// lacks tells what a kernel says of something that it does not know from other trouble.
// Of a program that its verifier does not follow it says EACCES or E2BIG too, with a reason.
func lacks(err error) bool {
	var unsupported *datapath.UnsupportedError
	if errors.As(err, &unsupported) || errors.Is(err, bpf.ErrNotSupported) {
		return true
	}
	var refused *bpf.VerifierError
	if errors.As(err, &refused) && len(refused.Log) > 0 && (errors.Is(err, unix.EACCES) || errors.Is(err, unix.E2BIG)) {
		return true
	}
	for _, unknown := range []error{unix.EOPNOTSUPP, unix.ENOSYS, unix.ENOENT, unix.EINVAL} {
		if errors.Is(err, unknown) {
			return true
		}
	}
	return false
}
