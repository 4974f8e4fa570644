package main

import (
	"fmt"
	"log/slog"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/ebpf"
	"terway.dev/terway/internal/datapath/exclusive"
	"terway.dev/terway/internal/datapath/ipvlan"
	"terway.dev/terway/internal/datapath/netkit"
	"terway.dev/terway/internal/datapath/route"
)

// datapaths are those that this node's kernel can run, the fastest first, and why it
// cannot run the others. The last one runs on every kernel. They are one: whichever has a
// node-wide piece changed knows the pods of all.
func datapaths(log *slog.Logger) (list []datapath.Datapath, lacking map[string]error, err error) {
	lacking = map[string]error{}
	has := func(name string, supported func() error) bool {
		why := supported()
		if why != nil {
			lacking[name] = why
		}
		return why == nil
	}
	options := ebpf.Options{Log: log}
	var slaves *ipvlan.Extension
	if has(ipvlan.Name, ipvlan.Supported) {
		slaves = ipvlan.NewExtension(log, ipvlan.DefaultFlows)
		options.Beside = append(options.Beside, slaves)
	}
	var core *route.Datapath
	var last datapath.Datapath
	withNetkit := has(netkit.Name, netkit.Supported)
	switch {
	case !has(ebpf.Name, ebpf.Supported):
		if core, err = route.New(route.Options{Log: log, Extensions: options.Beside}); err != nil {
			return nil, nil, fmt.Errorf("datapath route: %w", err)
		}
		last = core
	case withNetkit:
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
