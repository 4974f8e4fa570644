package ebpf

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	bpf "github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/fastpath"
	"terway.dev/terway/internal/datapath/fastpath/fastpathtest"
	"terway.dev/terway/internal/datapath/suite/world"
	"terway.dev/terway/internal/datapath/tcfilter"
)

// watched counts the packets that the node forwards in the host stack.
func watched(t *testing.T, n *world.Node) func() int {
	n.NFT(`table inet watch {
		counter forwarded { }
		chain forward { type filter hook forward priority 0; counter name forwarded; }
	}`)
	return func() int { return world.Counter(t, n.NS, "inet", "watch", "forwarded") }
}

// The first packets of a connection pass the host stack, the rest bypass it; translated ones stay on the
// slow path.
func TestWhatIsDirect(t *testing.T) {
	w := kit.NewWorld(t, 2, 1)
	n0, n1 := w.Nodes[0], w.Nodes[1]
	n0.Sync()
	n1.Sync()
	a, near, far := n0.AddPod(1, "4", "6"), n0.AddPod(1, "4", "6"), n1.AddPod(1, "4", "6")
	for _, p := range []*world.Pod{near, far} {
		p.Echo(7)
	}
	n0.Echo(7)
	n0.KubeProxy(world.Service{ClusterIP: world.ClusterIP, Port: 7, NodePort: 30007, Endpoint: far.V4},
		world.Service{ClusterIP: world.ClusterIP6, Port: 7, Endpoint: near.V6})
	near4, near6 := world.At(near.V4, 7), world.At(near.V6, 7)
	far4, far6 := world.At(far.V4, 7), world.At(far.V6, 7)
	here, there := watched(t, n0), watched(t, n1)
	for _, c := range []struct {
		name, network, to     string
		directHere, directFar bool
	}{
		{"same node", "tcp", near4, true, true},
		{"same node, IPv6", "tcp", near6, true, true},
		{"same node, UDP", "udp", near4, true, true},
		{"other node", "tcp", far4, true, true},
		{"other node, IPv6", "tcp", far6, true, true},
		{"other node, UDP", "udp", far6, true, true},
		// The peer's node sees an ordinary connection.
		{"Service", "tcp", world.At(world.ClusterIP, 7), false, true},
		{"Service, UDP", "udp", world.At(world.ClusterIP, 7), false, true},
		{"Service with an endpoint here, IPv6", "tcp", world.At(world.ClusterIP6, 7), false, true},
		{"NodePort", "tcp", world.At(n0.V4, 30007), false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			const exchanges = 200
			wasHere, wasThere := here(), there()
			world.Talk(t, a.NS, c.network, c.to, exchanges)
			passedHere, passedThere := here()-wasHere, there()-wasThere
			// The first packets, and acknowledgements of the kernels meanwhile.
			if few := passedHere < 20; few != c.directHere {
				t.Errorf("of %d exchanges %d packets passed the own node's stack; direct should be %v", exchanges, passedHere, c.directHere)
			}
			if few := passedThere < 20; few != c.directFar {
				t.Errorf("of %d exchanges %d packets passed the peer's node's stack; direct should be %v", exchanges, passedThere, c.directFar)
			}
		})
	}
	for _, n := range w.Nodes {
		counts, err := own(n).Counters()
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"to-eni", "to-pod", "asked", "learned"} {
			if counts[name] == 0 {
				t.Errorf("%s: counter %s is 0 of %v", n.Name, name, counts)
			}
		}
	}
}

// clearConnections deletes all connections, as eviction would.
func clearConnections(t *testing.T, n *world.Node) {
	t.Helper()
	for name := range tables {
		for key := range connections(t, n, name) {
			_ = own(n).Loader.Objects.Maps[name].Delete([]byte(key)) // the programs may have been faster
		}
	}
}

// tables are the tables of connections, with the size of their keys.
var tables = map[string]int{fastpath.MapKnown4: 16, fastpath.MapPending4: 16, fastpath.MapKnown6: 40, fastpath.MapPending6: 40}

// connections returns a table's connections by key. One that is written during the walk may occur
// repeatedly.
func connections(t *testing.T, n *world.Node, name string) map[string]fastpath.Connection {
	t.Helper()
	return connectionsIn(t, own(n).Loader.Objects, name)
}

func connectionsIn(t *testing.T, o *fastpath.Objects, name string) map[string]fastpath.Connection {
	t.Helper()
	list := map[string]fastpath.Connection{}
	key := make([]byte, tables[name])
	var value fastpath.Connection
	it := o.Maps[name].Iterate()
	for it.Next(&key, &value) {
		list[string(key)] = value
	}
	if err := it.Err(); err != nil && !errors.Is(err, bpf.ErrIterationAborted) {
		t.Fatal(err)
	}
	return list
}

// A connection whose entry is lost takes the slow path and continues; also where kube-proxy drops what is
// invalid for conntrack, after conntrack's entry for its first packet has expired.
func TestForgottenConnectionsCarryOn(t *testing.T) {
	for _, strict := range []bool{false, true} {
		t.Run(fmt.Sprintf("invalid packets are dropped: %v", strict), func(t *testing.T) {
			w := kit.NewWorld(t, 2, 1)
			n0, n1 := w.Nodes[0], w.Nodes[1]
			n0.Sync()
			n1.Sync()
			a, near, far := n0.AddPod(1, "4", "6"), n0.AddPod(1, "4", "6"), n1.AddPod(1, "4", "6")
			for _, n := range w.Nodes {
				n.NFT("table inet k { chain f { type filter hook forward priority 0; ct state new accept; }; }")
				if strict {
					n.NFT("add rule inet k f ct state invalid drop")
				}
			}
			near.Echo(7)
			far.Echo(7)
			var talks []*world.Talking
			for _, to := range []string{world.At(near.V4, 7), world.At(far.V4, 7), world.At(far.V6, 7)} {
				for _, network := range []string{"tcp", "udp"} {
					talks = append(talks, world.StartTalk(t, a.NS, network, to))
				}
			}
			before, err := own(n0).Counters()
			if err != nil {
				t.Fatal(err)
			}
			for range 5 {
				for _, n := range w.Nodes {
					n.Forget()
					clearConnections(t, n)
				}
				for _, k := range talks {
					k.More(50)
				}
			}
			after, err := own(n0).Counters()
			if err != nil {
				t.Fatal(err)
			}
			for _, k := range talks {
				k.End(t)
			}
			if learned := after["learned"] - before["learned"]; learned < uint64(len(talks)) {
				t.Errorf("%d connections were learned again, want each of %d at least once", learned, len(talks))
			}
		})
	}
}

// A young connection whose entry is lost, where packets that conntrack calls invalid are dropped: it
// goes on when its other end sends, whose packets are not invalid, or else when conntrack's entry
// for its SYN has expired.
func TestYoungConnectionsCarryOn(t *testing.T) {
	for _, c := range []struct {
		name   string
		second bool // the other end sends first
	}{{"the opener sends", false}, {"the other end sends", true}} {
		t.Run(c.name, func(t *testing.T) {
			w := kit.NewWorld(t, 1, 1)
			n := w.Nodes[0]
			n.Sync()
			a, b := n.AddPod(1), n.AddPod(1)
			n.NFT("table inet k { chain f { type filter hook forward priority 0; ct state new accept; ct state invalid drop; }; }")
			if !c.second {
				n.Sysctl("netfilter/nf_conntrack_tcp_timeout_syn_sent", "2") // instead of 120
			}
			l := b.Listen("tcp", world.At(b.V4, 9))
			opener, err := a.Dial("tcp", "", world.At(b.V4, 9), world.Patience)
			if err != nil {
				t.Fatal(err)
			}
			defer opener.Close()
			other, err := world.Accept(l)
			if err != nil {
				t.Fatal(err)
			}
			defer other.Close()
			world.Exchange(t, opener, other)
			time.Sleep(300 * time.Millisecond) // for a delayed acknowledgement, which the other end sends
			clearConnections(t, n)
			if c.second {
				world.Exchange(t, other, opener)
				return
			}
			if _, err := opener.Write([]byte("ping")); err != nil {
				t.Fatal(err)
			}
			if err := other.SetDeadline(time.Now().Add(10 * world.Patience)); err != nil {
				t.Fatal(err)
			}
			if _, err := other.Read(make([]byte, 4)); err != nil {
				t.Errorf("after conntrack's entry has expired: %v", err)
			}
			world.Exchange(t, opener, other)
		})
	}
}

// A connection without a handshake takes the slow path periodically.
func TestOldConnectionsAskAgain(t *testing.T) {
	w := kit.NewWorld(t, 1, 1)
	n := w.Nodes[0]
	n.Sync()
	a, b := n.AddPod(1), n.AddPod(1)
	b.Echo(7)
	k := world.StartTalk(t, a.NS, "udp", world.At(b.V4, 7))
	k.More(20)
	before, err := own(n).Counters()
	if err != nil {
		t.Fatal(err)
	}
	old := connections(t, n, fastpath.MapKnown4)
	for key, value := range old {
		value.Since = 0
		if err := own(n).Loader.Objects.Maps[fastpath.MapKnown4].Put([]byte(key), value); err != nil {
			t.Fatal(err)
		}
	}
	k.More(20)
	after, err := own(n).Counters()
	if err != nil {
		t.Fatal(err)
	}
	k.End(t)
	if len(old) != 1 || after["asked"]-before["asked"] < 1 {
		t.Errorf("%d connections were made old, %d packets asked again", len(old), after["asked"]-before["asked"])
	}
}

// That period follows the node's conntrack timeouts.
func TestAsksAgainBeforeConntrackForgets(t *testing.T) {
	w := kit.NewWorld(t, 1, 1)
	n := w.Nodes[0]
	n.Sync()
	read := func() (v fastpathNode) {
		t.Helper()
		if err := own(n).Loader.Objects.Maps[fastpathMapTwNode1].Lookup(uint32(0), &v); err != nil {
			t.Fatal(err)
		}
		return v
	}
	usual := read()
	if usual.AskAgain == 0 || usual.Secret == 0 {
		t.Fatalf("the programs know %+v", usual)
	}
	for seconds, want := range map[string]uint64{"9": usual.AskAgain * 9 / 30, "30": usual.AskAgain, "300": usual.AskAgain} {
		n.Sysctl("netfilter/nf_conntrack_udp_timeout", seconds)
		n.Sync()
		if got := read(); got.AskAgain != want || got.Secret != usual.Secret {
			t.Errorf("with %s s: %+v, want %d ticks and the same secret", seconds, got, want)
		}
	}
}

// A new agent takes over the maps, and changes nothing if the programs are the same.
func TestRestartKeepsMapsAndPrograms(t *testing.T) {
	w := kit.NewWorld(t, 1, 1)
	n := w.Nodes[0]
	n.Sync()
	a, b := n.AddPod(1), n.AddPod(1)
	b.Echo(7)
	world.Talk(t, a.NS, "tcp", world.At(b.V4, 7), 5)
	ids := func() string {
		out := ""
		for _, dev := range []string{"eth1", a.Wiring.HostIfName} {
			out += n.Run("tc", "filter", "show", "dev", dev, "ingress") + n.Run("tc", "filter", "show", "dev", dev, "egress")
		}
		return out
	}
	programs, maps := ids(), mapIDs(n)
	if err := n.DP.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	n.DP = n.NewDatapath()
	if repairs := n.Sync(a, b); len(repairs) != 0 {
		t.Errorf("Sync repairs %q", repairs)
	}
	if now := mapIDs(n); !slices.Equal(maps, now) {
		t.Errorf("maps %v became %v", maps, now)
	}
	if programs != ids() {
		t.Errorf("programs\n%s\nbecame\n%s", programs, ids())
	}
	if counts, err := own(n).Counters(); err != nil || counts["learned"] == 0 {
		t.Errorf("counters %v, %v", counts, err)
	}
}

// A new agent finds the maps by the programs of any kind that uses them, also when tc holds none.
func TestMapsAreFoundByOtherKinds(t *testing.T) {
	w := kit.NewWorld(t, 1, 1)
	n := w.Nodes[0]
	n.Sync()
	a := n.AddPod(1)
	held := must(own(n).Loader.Objects.Programs[ToPod].Clone()) // as a netkit pair holds it
	defer held.Close()
	maps := mapIDs(n)
	for _, device := range []string{"eth1", a.Wiring.HostIfName} {
		n.Run("tc", "qdisc", "del", "dev", device, "clsact")
	}
	if err := n.DP.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	n.DP = n.NewDatapath()
	own(n).Serve("another", func(*netlink.Handle) ([]bpf.ProgramID, error) {
		id, _ := must(held.Info()).ID()
		return []bpf.ProgramID{id}, nil
	})
	n.Sync(a)
	if now := mapIDs(n); !slices.Equal(maps, now) {
		t.Errorf("maps %v became %v", maps, now)
	}
}

// mapIDs returns the ids of the maps of a node's datapath.
func mapIDs(n *world.Node) (ids []bpf.MapID) {
	for _, m := range own(n).Loader.Objects.Maps {
		id, _ := must(m.Info()).ID()
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// A program of another version is replaced; maps of another size are made again.
func TestOtherVersions(t *testing.T) {
	w := kit.NewWorld(t, 1, 1)
	n := w.Nodes[0]
	n.Sync()
	a, b := n.AddPod(1), n.AddPod(1)
	b.Echo(7)
	k := world.StartTalk(t, a.NS, "tcp", world.At(b.V4, 7))
	h, err := handle(n)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	link, err := h.LinkByName(a.Wiring.HostIfName)
	if err != nil {
		t.Fatal(err)
	}
	odd := []tcfilter.Hook{{Parent: tcfilter.Ingress, Program: ToPod}}
	if err := filters.Attach(fastpathtest.Batch(t, n.NS), own(n).Loader.Objects.Objects, link.Attrs().Index, odd); err != nil {
		t.Fatal(err)
	}
	if repairs := n.Sync(a, b); len(repairs) != 1 || !strings.Contains(repairs[0], "another version") {
		t.Errorf("repairs %q", repairs)
	}
	n.DP = must(newSubject(world.Options{NetNS: n.Path}, 8192))
	if repairs := n.Sync(a, b); len(repairs) < 3 {
		t.Errorf("repairs %q, want the ENI and both pods", repairs)
	}
	k.More(20)
	k.End(t)
	if repairs := n.Sync(a, b); len(repairs) != 0 {
		t.Errorf("second Sync repairs %q", repairs)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Pods of both kinds on one node; the node's datapath is changed and changed back.
func TestRouteBeside(t *testing.T) {
	w := kit.NewWorld(t, 2, 1)
	n0, n1 := w.Nodes[0], w.Nodes[1]
	// sync runs Sync on a node with this kind for new pods.
	sync := func(kind string, pods ...*world.Pod) ([]string, error) {
		n0.Desired.Kind = kind
		return n0.TrySync(pods...)
	}
	if _, err := sync(claims.Route); err != nil {
		t.Fatal(err)
	}
	n1.Sync()
	far := n1.AddPod(1, "4", "6")
	programs := func(dev string) bool {
		return strings.Contains(n0.Run("tc", "filter", "show", "dev", dev, "ingress"), "tw_")
	}
	if programs("eth1") {
		t.Error("route put programs on the ENI")
	}
	// A node that changes its datapath while all its pods are of route: the result is unambiguous.
	for i, want := range []int{1, 0, 0} {
		if repairs, err := sync(claims.EBPF); err != nil || len(repairs) != want {
			t.Errorf("sync %d repairs %q, %v", i, repairs, err)
		}
	}
	if repairs, err := sync(claims.Route); err != nil || len(repairs) != 1 || programs("eth1") {
		t.Errorf("back to route: %q, %v", repairs, err)
	}
	wire := func(kind string) *world.Pod {
		n0.Desired.Kind = kind
		p := n0.Describe(1, "4", "6")
		p.Spec.Kind = kind
		p.Add()
		return p
	}
	slow, fast := wire(claims.Route), wire(claims.EBPF)
	for _, kind := range []string{claims.Route, claims.EBPF, claims.Route} {
		if repairs, err := sync(kind, slow, fast); err != nil || len(repairs) != 0 {
			t.Errorf("%s: Sync repairs %q, %v", kind, repairs, err)
		}
	}
	if programs(slow.Wiring.HostIfName) || !programs(fast.Wiring.HostIfName) || !programs("eth1") {
		t.Error("programs are not where they belong")
	}
	for _, p := range []*world.Pod{slow, fast, far} {
		p.Echo(7)
	}
	for _, from := range []*world.Pod{slow, fast, far} {
		for _, to := range []*world.Pod{slow, fast, far} {
			for _, a := range []netip.Addr{to.V4, to.V6} {
				world.Talk(t, from.NS, "tcp", world.At(a, 7), 20)
				world.Talk(t, from.NS, "udp", world.At(a, 7), 20)
			}
		}
	}
	// The last pod with a fast path is deleted, and so are the ENI's programs.
	fast.Del()
	if repairs, err := sync(claims.Route, slow); err != nil || len(repairs) != 1 {
		t.Errorf("Sync repairs %q, %v", repairs, err)
	}
	if programs("eth1") {
		t.Error("the ENI kept its programs")
	}
	if err := n0.DP.CheckPod(context.Background(), n0.Desired, slow.Spec); err != nil {
		t.Error(err)
	}
}

// Leftovers of a killed agent: an entry without a device, programs on a device that is no longer an
// ENI. Objects of others on the same devices stay.
func TestLeftovers(t *testing.T) {
	w := kit.NewWorld(t, 1, 2)
	n := w.Nodes[0]
	n.Sync()
	p := n.AddPod(1)
	s := &own(n).Loader
	if err := table(s.Objects).Put(netip.MustParseAddr("192.168.40.99"), fastpathPod{Ifindex: 9999}); err != nil {
		t.Fatal(err)
	}
	h, err := handle(n)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	for _, dev := range []string{"eth0", "eth2"} {
		link := must(h.LinkByName(dev))
		if err := filters.Attach(fastpathtest.Batch(t, n.NS), s.Objects.Objects, link.Attrs().Index, eniHooks); err != nil {
			t.Fatal(err)
		}
		others := &netlink.BpfFilter{
			FilterAttrs: netlink.FilterAttrs{LinkIndex: link.Attrs().Index, Parent: tcfilter.Ingress, Handle: 1, Protocol: unix.ETH_P_ALL, Priority: 7},
			Fd:          s.Objects.Programs[toENI].FD(), Name: "others", DirectAction: true,
		}
		if err := h.FilterAdd(others); err != nil {
			t.Fatal(err)
		}
	}
	n.Desired.ENIs = n.Desired.ENIs[:1]
	n.DP = n.NewDatapath()
	repairs := fmt.Sprint(n.Sync(p))
	for _, want := range []string{"192.168.40.99", "removed programs from eth0", "removed programs from eth2"} {
		if !strings.Contains(repairs, want) {
			t.Errorf("repairs %s lack %q", repairs, want)
		}
	}
	if again := n.Sync(p); len(again) != 0 {
		t.Errorf("second Sync repairs %q", again)
	}
	if err := n.DP.Teardown(context.Background()); err != nil {
		t.Fatal(err)
	}
	for dev, others := range map[string]bool{"eth0": true, "eth1": false, "eth2": true} {
		out := n.Run("tc", "filter", "show", "dev", dev, "ingress") + n.Run("tc", "filter", "show", "dev", dev, "egress")
		if strings.Contains(out, "pref 84 ") || strings.Contains(out, "pref 7 ") != others {
			t.Errorf("%s after teardown:\n%s", dev, out)
		}
	}
	if out := n.Run("tc", "qdisc", "show", "dev", "eth1"); strings.Contains(out, "clsact") {
		t.Errorf("eth1 kept its qdisc: %s", out)
	}
}

// A qdisc is removed only at teardown, and not if others may use it: while the node is in service
// another program may be about to add a filter, and a block that is shared with other devices shows
// no filter while it is empty.
func TestQdiscsOfOthers(t *testing.T) {
	w := kit.NewWorld(t, 1, 3)
	n := w.Nodes[0]
	n.Run("tc", "qdisc", "add", "dev", "eth0", "ingress_block", "22", "clsact")
	n.Sync()
	h := must(handle(n))
	defer h.Close()
	if err := filters.Attach(fastpathtest.Batch(t, n.NS), own(n).Loader.Objects.Objects, index(n, "eth0"), eniHooks[1:]); err != nil {
		t.Fatal(err)
	}
	has := func(device string) bool {
		return strings.Contains(n.Run("tc", "qdisc", "show", "dev", device), "clsact")
	}
	n.Desired.ENIs = n.Desired.ENIs[:2]
	if repairs := fmt.Sprint(n.Sync()); !strings.Contains(repairs, "removed programs from eth3") || !has("eth3") {
		t.Errorf("an ENI that has gone has its qdisc: %v; repairs %s", has("eth3"), repairs)
	}
	if err := filters.Attach(fastpathtest.Batch(t, n.NS), own(n).Loader.Objects.Objects, index(n, "eth0"), eniHooks[1:]); err != nil {
		t.Fatal(err)
	}
	if err := n.DP.Teardown(context.Background()); err != nil {
		t.Fatal(err)
	}
	if !has("eth0") || has("eth1") || has("eth2") {
		t.Errorf("after the end, qdiscs: eth0 %v, whose block is shared; eth1 %v and eth2 %v", has("eth0"), has("eth1"), has("eth2"))
	}
}

// A gateway that the kernel asks for its MAC when Sync comes leaves its ENI on the fast path: where
// kube-proxy drops packets that conntrack calls invalid, young connections would stall on the slow
// path. One that the kernel has given up does not.
func TestGatewayIsAsked(t *testing.T) {
	w := kit.NewWorld(t, 1, 1)
	n := w.Nodes[0]
	n.Sync()
	p := n.AddPod(1, "4", "6")
	for _, g := range []string{world.PodGW, world.PodGW6} {
		n.IP("neigh replace " + g + " dev eth1 nud incomplete")
		if repairs := n.Sync(p); len(repairs) != 0 {
			t.Errorf("%s is asked: Sync repairs %q", g, repairs)
		}
		n.IP("neigh replace " + g + " dev eth1 nud failed")
		if repairs := fmt.Sprint(n.Sync(p)); !strings.Contains(repairs, g+" does not answer") {
			t.Errorf("%s has not answered: Sync repairs %s", g, repairs)
		}
		n.IP("neigh replace " + g + " lladdr 02:00:00:00:00:07 dev eth1 nud reachable")
		if repairs := fmt.Sprint(n.Sync(p)); !strings.Contains(repairs, "put eth1 into map") {
			t.Errorf("%s has answered: Sync repairs %s", g, repairs)
		}
	}
}
