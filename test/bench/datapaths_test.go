//go:build bench

package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/ebpf"
	"terway.dev/terway/internal/datapath/exclusive"
	"terway.dev/terway/internal/datapath/ipvlan"
	"terway.dev/terway/internal/datapath/netkit"
	"terway.dev/terway/internal/datapath/route"
	"terway.dev/terway/internal/testutil"
	"terway.dev/terway/test/bench/report"
)

// kind is a datapath of ours.
type kind struct {
	name string
	// own: a measured pod has an ENI for itself.
	own bool
	// lacks says why the kernel cannot run it.
	lacks error
	// open makes the datapath of the node whose namespace is at the path; empty is the
	// process's own.
	open func(netns string, log *slog.Logger) (subject, error)
	// goals of the metrics that the pods of two nodes reach.
	goals map[string]report.Goal
}

// subject is a datapath that can be let go of.
type subject interface {
	datapath.Datapath
	Close(ctx context.Context) error
}

// kinds are all datapaths, and what they should reach against the host. Those without a
// goal need a kernel that has run in virtual machines only.
func kinds() []kind {
	goals := func(stream, latency float64) map[string]report.Goal {
		return map[string]report.Goal{
			"tcp_stream_1": {AtLeast: stream}, "tcp_stream_8": {AtLeast: stream}, "tcp_rr_p50": {AtMost: latency},
		}
	}
	return []kind{
		{name: "route", open: openRoute, goals: goals(0.85, 1.15)},
		{name: "ebpf", lacks: ebpf.Supported(), open: openEBPF, goals: goals(0.97, 1.05)},
		{name: "netkit", lacks: netkit.Supported(), open: openNetkit},
		{name: "ipvlan", lacks: ipvlan.Supported(), open: openIPvlan},
		{name: "exclusive", own: true, open: openExclusive, goals: goals(0.99, 1.02)},
	}
}

func openRoute(netns string, log *slog.Logger) (subject, error) {
	return route.New(route.Options{NetNS: netns, Log: log})
}

func openEBPF(netns string, log *slog.Logger) (subject, error) {
	return ebpf.New(ebpf.Options{NetNS: netns, Log: log})
}

func openNetkit(netns string, log *slog.Logger) (subject, error) {
	return netkit.New(ebpf.Options{NetNS: netns, Log: log})
}

func openIPvlan(netns string, log *slog.Logger) (subject, error) {
	return ipvlan.New(ipvlan.Options{NetNS: netns, Log: log})
}

// exclusiveNode is a node with pods of both kinds.
type exclusiveNode struct {
	*route.Datapath
	own *exclusive.Datapath
}

func openExclusive(netns string, log *slog.Logger) (subject, error) {
	shared, err := route.New(route.Options{NetNS: netns, Log: log})
	if err != nil {
		return nil, err
	}
	own, err := exclusive.New(exclusive.Options{Beside: shared, NetNS: netns, Log: log})
	if err != nil {
		return nil, err
	}
	return &exclusiveNode{shared, own}, nil
}

func (e *exclusiveNode) AddPod(ctx context.Context, node datapath.Node, pod datapath.Pod) (datapath.Wiring, error) {
	if pod.Own != nil {
		return e.own.AddPod(ctx, node, pod)
	}
	return e.Datapath.AddPod(ctx, node, pod)
}

func (e *exclusiveNode) DelPod(ctx context.Context, pod datapath.Pod) error {
	if pod.Own != nil {
		return e.own.DelPod(ctx, pod)
	}
	return e.Datapath.DelPod(ctx, pod)
}

func (e *exclusiveNode) Close(ctx context.Context) error {
	return errors.Join(e.own.Close(), e.Datapath.Close(ctx))
}

// atOnce is how many pods are wired at the same time when many are needed.
const atOnce = 8

// wire makes the pods with these numbers; own of them, the first ones, have the
// node's exclusive ENIs.
func (n *node) wire(k kind, pods []int) ([]*testutil.NS, error) {
	dp, err := k.open(n.Path, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, fmt.Errorf("datapath %s: %w", k.name, err)
	}
	n.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := dp.Close(ctx); err != nil {
			n.t.Error(err)
		}
	})
	list := make([]*testutil.NS, len(pods))
	errs := make([]error, len(pods))
	turns := make(chan struct{}, atOnce)
	var wg sync.WaitGroup
	for i, number := range pods {
		ns := testutil.NewNS(n.t, fmt.Sprintf("%s%d-pod%d", k.name, n.number, number))
		list[i] = ns
		pod := datapath.Pod{
			Sandbox: ns.Name, IfName: "eth0", NetNS: ns.Path, Namespace: "default", Name: ns.Name,
		}
		pod.Addresses = append(pod.Addresses, n.pod(number))
		if i < len(n.own) {
			pod.Own, pod.ENI = &n.own[i], n.own[i].MAC.String()
		} else {
			pod.ENI = n.shared.MAC.String()
		}
		turns <- struct{}{}
		wg.Go(func() {
			defer func() { <-turns }()
			_, errs[i] = dp.AddPod(context.Background(), n.desired(), pod)
		})
	}
	wg.Wait()
	return list, errors.Join(errs...)
}
