package ebpf

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/bpfobj"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/suite/world"
	"terway.dev/terway/internal/netlinkx"
	"terway.dev/terway/internal/testutil"
)

// BenchmarkPod compares AddPod and DelPod with those of route, in turn in the same run, for one pod
// and for a burst of 50. It reports medians.
//
//	go test -run '^$' -bench Pod ./internal/datapath/ebpf
func BenchmarkPod(b *testing.B) {
	const burst = 50
	ctx := context.Background()
	w := kit.NewWorld(b, 2, 1)
	fast, slow := w.Nodes[0], w.Nodes[1]
	slow.Desired.Kind = claims.Route // on a node that supports ebpf
	describe := func(n *world.Node) *world.Pod {
		p := n.Describe(1)
		p.Spec.Kind = n.Desired.Kind
		return p
	}
	times := map[string][]time.Duration{}
	timed := func(name string, f func() error) {
		start := time.Now()
		err := f()
		times[name] = append(times[name], time.Since(start))
		if err != nil {
			b.Fatal(err)
		}
	}
	for _, n := range w.Nodes {
		n.Sync()
	}
	for b.Loop() {
		for name, n := range map[string]*world.Node{"ebpf": fast, "route": slow} {
			one := describe(n)
			timed(name+"-add", func() error { _, err := n.DP.AddPod(ctx, n.Desired, one.Spec); return err })
			timed(name+"-del", func() error { return n.DP.DelPod(ctx, one.Spec) })
			n.Settle()
			one.Remove()

			var pods []*world.Pod
			for range burst {
				pods = append(pods, describe(n))
			}
			timed(name+"-add-50", func() error {
				errs := make([]error, burst)
				var wg sync.WaitGroup
				for i, p := range pods {
					wg.Go(func() { _, errs[i] = n.DP.AddPod(ctx, n.Desired, p.Spec) })
				}
				wg.Wait()
				return errors.Join(errs...)
			})
			for _, p := range pods {
				p.Spec.State = datapath.Wired
			}
			timed(name+"-sync-50", func() error { _, err := n.TrySync(pods...); return err })
			for _, p := range pods {
				p.Del()
				p.Remove()
			}
			n.Settle()
		}
	}
	b.ReportMetric(0, "ns/op")
	us := func(name string) float64 {
		slices.Sort(times[name])
		return float64(times[name][len(times[name])/2].Microseconds())
	}
	for _, what := range []string{"-add", "-del", "-add-50", "-sync-50"} {
		b.ReportMetric(us("ebpf"+what), "ebpf"+what+"-µs")
		b.ReportMetric(us("ebpf"+what)/us("route"+what), "ebpf/route"+what)
	}
}

// BenchmarkAttach compares the cost of the filters of a pod's device with the creation of the
// device, in turn in the same run: a ratio of medians, which is meaningful for a kernel also with
// an emulated processor. Before Linux 5.16 each direction's first filter waits for the kernel's RCU
// callbacks.
//
//	go test -run '^$' -bench Attach -benchtime 30x ./internal/datapath/ebpf
func BenchmarkAttach(b *testing.B) {
	testutil.RequireRoot(b)
	times := map[string][]time.Duration{}
	timed := func(name string, f func() error) {
		start := time.Now()
		err := f()
		times[name] = append(times[name], time.Since(start))
		if err != nil {
			b.Fatal(err)
		}
	}
	err := Try(func(h *netlink.Handle, batch *netlinkx.Batch, o *bpfobj.Objects) error {
		for b.Loop() {
			pair := netlink.NewVeth(netlink.LinkAttrs{Name: fmt.Sprintf("v%d", len(times["veth"])), TxQLen: -1})
			pair.PeerName = "p" + pair.Name
			timed("veth", func() error { return h.LinkAdd(pair) })
			link, err := h.LinkByName(pair.Name)
			if err != nil {
				return err
			}
			timed("attach", func() error { return podHooks.Attach(batch, o, link.Attrs().Index) })
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(0, "ns/op")
	median := func(name string) float64 {
		slices.Sort(times[name])
		return float64(times[name][len(times[name])/2].Microseconds())
	}
	b.ReportMetric(median("veth"), "veth-µs")
	b.ReportMetric(median("attach"), "attach-µs")
	b.ReportMetric(median("attach")/median("veth"), "attach/veth")
}
