package main

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
	"terway.dev/terway/internal/datapath/route"
)

// datapaths are those that this node's kernel can run, the fastest first, and why it
// cannot run the others. The last one is what all others build on; it is there also if the
// kernel cannot run it, to remove what an earlier kernel could. They are one: whichever has a
// node-wide piece changed knows the pods of all.
func datapaths(log *slog.Logger) (list []datapath.Datapath, lacking map[string]error, err error) {
	lacking, err = probe(map[string]func() error{claims.Route: route.Supported, claims.IPvlan: ipvlan.Supported, claims.Netkit: netkit.Supported, claims.EBPF: ebpf.Supported})
	if err != nil {
		return nil, nil, err
	}
	has := func(name string) bool { return lacking[name] == nil && lacking[claims.Route] == nil }
	options := ebpf.Options{Log: log}
	var slaves *ipvlan.Extension
	if has(claims.IPvlan) {
		slaves = ipvlan.NewExtension(log, ipvlan.DefaultFlows)
		options.Beside = append(options.Beside, slaves)
	}
	var core *route.Datapath
	var last datapath.Datapath
	switch {
	case !has(claims.EBPF):
		if core, err = route.New(route.Options{Log: log, Extensions: options.Beside}); err != nil {
			return nil, nil, fmt.Errorf("datapath route: %w", err)
		}
		last = core
	case has(claims.Netkit):
		dp, err := netkit.New(options)
		if err != nil {
			return nil, nil, fmt.Errorf("datapath netkit: %w", err)
		}
		list, core, last = append(list, dp, dp.EBPF()), dp.Datapath.Datapath, dp.Route()
	default:
		dp, err := ebpf.New(options)
		if err != nil {
			return nil, nil, fmt.Errorf("datapath ebpf: %w", err)
		}
		list, core, last = append(list, dp), dp.Datapath, dp.Route()
	}
	if slaves != nil {
		list = append(list, slaves.On(core))
	}
	return append(list, last), lacking, nil
}

// probe asks for each datapath what the kernel lacks. Any other trouble, such as memory
// that is short, is an error: it says nothing of the kernel, and what is found out here
// holds until the agent starts again.
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

// own wires pods that have an ENI of their own. Its veth is package route's: the last
// of the list.
func own(list []datapath.Datapath, log *slog.Logger) (*exclusive.Datapath, error) {
	d, err := exclusive.New(exclusive.Options{Beside: list[len(list)-1], Log: log})
	if err != nil {
		return nil, fmt.Errorf("datapath exclusive: %w", err)
	}
	return d, nil
}

func names(list []datapath.Datapath) (names []string) {
	for _, d := range list {
		names = append(names, d.Name())
	}
	return names
}
