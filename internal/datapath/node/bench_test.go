package node

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"go4.org/netipx"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/suite/world"
)

// BenchmarkPod compares AddPod and DelPod with the floor: the bare netlink requests for the same
// kernel objects, without checks, locks or error messages, in turn in the same run. It reports
// medians.
//
//	go test -run '^$' -bench Pod ./internal/datapath/node
func BenchmarkPod(b *testing.B) {
	w := newWorld(b, 1, 1)
	n := w.Nodes[0]
	n.Sync()
	if err := n.Do(func() error { return nil }); err != nil {
		b.Fatal(err)
	}
	floor := newFloor(b, n)
	var add, del, floorAdd, floorDel []time.Duration
	timed := func(list *[]time.Duration, f func() error) {
		start := time.Now()
		err := f()
		*list = append(*list, time.Since(start))
		if err != nil {
			b.Fatal(err)
		}
	}
	ctx := context.Background()
	for b.Loop() {
		p := n.Describe(1)
		timed(&add, func() error { _, err := n.DP.AddPod(ctx, n.Desired, p.Spec); return err })
		timed(&del, func() error { return n.DP.DelPod(ctx, p.Spec) })
		n.Settle()
		p.Remove()

		q := n.Describe(1)
		timed(&floorAdd, func() error { return floor.add(q) })
		timed(&floorDel, func() error { return floor.del(q) })
		q.Remove()
	}
	us := func(list []time.Duration) float64 {
		slices.Sort(list)
		return float64(list[len(list)/2].Microseconds())
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(us(add), "add-µs")
	b.ReportMetric(us(floorAdd), "floor-add-µs")
	b.ReportMetric(us(add)/us(floorAdd), "add/floor")
	b.ReportMetric(us(del), "del-µs")
	b.ReportMetric(us(floorDel), "floor-del-µs")
}

// BenchmarkBurst adds as many pods at once as a node holds, and deletes all of them.
func BenchmarkBurst(b *testing.B) {
	const burst = 100
	w := newWorld(b, 1, 2)
	n := w.Nodes[0]
	n.Sync()
	ctx := context.Background()
	var adds, dels, gone, syncs time.Duration
	rounds := 0
	for b.Loop() {
		rounds++
		var pods []*world.Pod
		for i := range burst {
			pods = append(pods, n.Describe(1+i%2))
		}
		each := func(f func(*world.Pod) error) time.Duration {
			errs := make([]error, burst)
			var wg sync.WaitGroup
			start := time.Now()
			for i, p := range pods {
				wg.Go(func() { errs[i] = f(p) })
			}
			wg.Wait()
			took := time.Since(start)
			if err := errors.Join(errs...); err != nil {
				b.Fatal(err)
			}
			return took
		}
		adds += each(func(p *world.Pod) error { _, err := n.DP.AddPod(ctx, n.Desired, p.Spec); return err })
		for _, p := range pods {
			p.Spec.State = datapath.Wired
		}
		start := time.Now()
		if repairs := n.Sync(pods...); len(repairs) != 0 {
			b.Fatalf("repairs %q", repairs)
		}
		syncs += time.Since(start)
		start = time.Now()
		dels += each(func(p *world.Pod) error { return n.DP.DelPod(ctx, p.Spec) })
		n.Settle()
		gone += time.Since(start)
		for _, p := range pods {
			p.Remove()
		}
	}
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 / float64(rounds) }
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(ms(adds), "add-100-ms")
	b.ReportMetric(ms(syncs), "sync-100-ms")
	b.ReportMetric(ms(dels), "del-100-ms")
	b.ReportMetric(ms(gone), "devices-gone-ms")
}

// floor is a netlink program without any checks.
type floor struct {
	n    *world.Node
	ns   netns.NsHandle
	slot int
	nft  *nftables.Conn
}

func newFloor(b *testing.B, n *world.Node) *floor {
	ns, err := netns.GetFromPath(n.Path)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = ns.Close() })
	conn, err := nftables.New(nftables.WithNetNSFd(int(ns)), nftables.AsLasting())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = conn.CloseLasting() })
	return &floor{n: n, ns: ns, slot: own(n).state().enis[n.MAC(1).String()].Slot, nft: conn}
}

func (f *floor) element(p *world.Pod) []nftables.SetElement {
	key := make([]byte, unix.IFNAMSIZ)
	copy(key, claims.HostIfName(p.Spec.Sandbox, "eth0"))
	return []nftables.SetElement{{Key: append(key, p.V4.AsSlice()...), Val: binaryutil.NativeEndian.PutUint32(claims.MarkOf(f.slot))}}
}

func (f *floor) add(p *world.Pod) error {
	name := claims.HostIfName(p.Spec.Sandbox, "eth0")
	ns, err := netns.GetFromPath(p.Path)
	if err != nil {
		return err
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(f.ns, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	ph, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer ph.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr, attrs.Group, attrs.Flags = name, 1500, claims.HostMAC(name), claims.GroupPod, net.FlagUp
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerNamespace, veth.PeerHardwareAddr = "eth0", netlink.NsFd(ns), claims.PodMAC(name)
	errs := []error{h.LinkAdd(veth)}
	host, err := h.LinkByName(name)
	if err != nil {
		return err
	}
	inner, err := ph.LinkByName("eth0")
	if err != nil {
		return err
	}
	i, j := host.Attrs().Index, inner.Attrs().Index
	errs = append(errs,
		h.RouteAdd(&netlink.Route{Table: claims.TableLocal, LinkIndex: i, Scope: unix.RT_SCOPE_LINK, Dst: netipx.AddrIPNet(p.V4), Src: f.n.V4.AsSlice()}),
		h.NeighAdd(neighbour(p.V4, claims.PodMAC(name), i)),
		f.nft.SetAddElements(pods4, f.element(p)),
		f.nft.Flush(),
		ph.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 1}}),
		ph.LinkSetUp(inner),
		ph.AddrAdd(inner, &netlink.Addr{IPNet: netipx.AddrIPNet(p.V4)}),
		ph.NeighAdd(neighbour(claims.Gateway4, claims.HostMAC(name), j)),
		ph.RouteAdd(&netlink.Route{LinkIndex: j, Dst: netipx.PrefixIPNet(everywhere[0]), Gw: claims.Gateway4.AsSlice(), Flags: int(netlink.FLAG_ONLINK)}),
	)
	return errors.Join(errs...)
}

func (f *floor) del(p *world.Pod) error {
	h, err := netlink.NewHandleAt(f.ns, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	link, err := h.LinkByName(claims.HostIfName(p.Spec.Sandbox, "eth0"))
	if err != nil {
		return err
	}
	return errors.Join(
		f.nft.SetDeleteElements(pods4, f.element(p)), f.nft.Flush(), h.LinkDel(link))
}

// BenchmarkSync is a Sync of 100 pods that finds nothing to repair: the minimum cost of each event
// that the monitor takes for one of ours.
func BenchmarkSync(b *testing.B) {
	const pods = 100
	w := newWorld(b, 1, 2)
	n := w.Nodes[0]
	n.Sync()
	var list []*world.Pod
	for i := range pods {
		list = append(list, n.AddPod(1+i%2))
	}
	b.ReportAllocs()
	for b.Loop() {
		if repairs := n.Sync(list...); len(repairs) != 0 {
			b.Fatalf("repairs %q", repairs)
		}
	}
}

// pods4 is the map of package nft.
var pods4 = &nftables.Set{
	Table: &nftables.Table{Family: nftables.TableFamilyINet, Name: claims.TableName}, Name: "pods4", IsMap: true,
	KeyType: nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeIPAddr), DataType: nftables.TypeMark,
}

func neighbour(a netip.Addr, mac net.HardwareAddr, index int) *netlink.Neigh {
	return &netlink.Neigh{Family: netlink.FAMILY_V4, LinkIndex: index, State: netlink.NUD_PERMANENT, Type: unix.RTN_UNICAST, IP: a.AsSlice(), HardwareAddr: mac}
}
