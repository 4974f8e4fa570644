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
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/ebpf"
	"terway.dev/terway/internal/datapath/exclusive"
	"terway.dev/terway/internal/datapath/ipvlan"
	"terway.dev/terway/internal/datapath/netkit"
	dpnode "terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/route"
	"terway.dev/terway/internal/testutil"
	"terway.dev/terway/test/bench/report"
)

// kind is one of our datapaths.
type kind struct {
	name string
	// own: a measured pod has an exclusive ENI.
	own bool
	// lacks is why the kernel does not support it.
	lacks error
	// goals of the metrics for pods on two nodes.
	goals map[string]report.Goal
	// add is the goal for the ADD of one pod, as a multiple of the bare program's time; 0: 1.5.
	add float64
}

// kinds returns all datapaths with their goals relative to the host. Those without a goal need
// a kernel that has run only in virtual machines.
func kinds() []kind {
	goals := func(stream, latency float64) map[string]report.Goal {
		return map[string]report.Goal{
			"tcp_stream_1": {AtLeast: stream}, "tcp_stream_8": {AtLeast: stream}, "tcp_rr_p50": {AtMost: latency},
		}
	}
	fast := goals(0.97, 1.05)
	fast["udp_pps"], fast["connections"] = report.Goal{AtLeast: 0.80}, report.Goal{AtLeast: 0.82}
	return []kind{
		{name: claims.Route, goals: goals(0.85, 1.15), add: 1.15},
		{name: claims.EBPF, lacks: ebpf.Supported(), goals: fast, add: 1.20},
		{name: claims.Netkit, lacks: netkit.Supported()},
		{name: claims.IPvlan, lacks: ipvlan.Supported()},
		{name: claims.Exclusive, own: true, goals: goals(0.99, 1.02)},
	}
}

// open opens the node whose namespace is at the path; empty means the process's own. It has the
// kind, the kinds that it depends on, and route.
func (k kind) open(netns string, log *slog.Logger) (*dpnode.Node, error) {
	list, chosen := []dpnode.Kind{route.New()}, k.name
	switch k.name {
	case claims.EBPF:
		list = append(list, ebpf.New(0))
	case claims.Netkit:
		programs := ebpf.New(0)
		list = append(list, programs, netkit.New(programs))
	case claims.IPvlan:
		list = append(list, ipvlan.New(0, nil))
	case claims.Exclusive:
		list, chosen = append(list, exclusive.New()), claims.Route
	}
	return dpnode.New(dpnode.Options{NetNS: netns, Log: log, Kinds: list, Choices: []string{chosen}})
}

// atOnce is how many pods are wired concurrently.
const atOnce = 8

// wire makes the pods with these numbers; the first of them have the node's exclusive ENIs.
func (n *node) wire(k kind, pods []int) ([]*testutil.NS, error) {
	dp, err := k.open(n.Path, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, fmt.Errorf("datapath %s: %w", k.name, err)
	}
	n.closes(dp)
	list, _, err := n.add(dp, dp.Choices()[0], pods)
	return list, err
}

// closes closes a node's datapath when the test ends.
func (n *node) closes(dp *dpnode.Node) {
	n.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := dp.Close(ctx); err != nil {
			n.t.Error(err)
		}
	})
}

// add makes the pods with these numbers, those with shared ENIs of a kind.
func (n *node) add(dp *dpnode.Node, shared string, pods []int) ([]*testutil.NS, []datapath.Pod, error) {
	list, wired := make([]*testutil.NS, len(pods)), make([]datapath.Pod, len(pods))
	errs := make([]error, len(pods))
	turns := make(chan struct{}, atOnce)
	var wg sync.WaitGroup
	for i, number := range pods {
		ns := testutil.NewNS(n.t, fmt.Sprintf("%s%d-pod%d", shared, n.number, number))
		list[i] = ns
		pod := datapath.Pod{
			Sandbox: ns.Name, IfName: "eth0", NetNS: ns.Path, Namespace: "default", Name: ns.Name,
		}
		pod.Addresses = append(pod.Addresses, n.pod(number))
		if i < len(n.own) {
			pod.Exclusive, pod.Kind, pod.ENI = &n.own[i], claims.Exclusive, n.own[i].MAC.String()
		} else {
			pod.Kind, pod.ENI = shared, n.shared.MAC.String()
		}
		if l, limited := n.limits[number]; limited {
			pod.Limits = &l
		}
		pod.Priority = n.priorities[number]
		wired[i] = pod
		wired[i].State = datapath.Wired
		turns <- struct{}{}
		wg.Go(func() {
			defer func() { <-turns }()
			_, errs[i] = dp.AddPod(context.Background(), n.desired(shared), pod)
		})
	}
	wg.Wait()
	return list, wired, errors.Join(errs...)
}
