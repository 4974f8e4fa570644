//go:build vm

package netkit

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"

	bpf "github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath/bpfobj"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/ebpf"
	"terway.dev/terway/internal/datapath/suite/world"
	"terway.dev/terway/internal/netlinkx"
)

// wire adds a pod of a kind.
func wire(t *testing.T, n *world.Node, kind string) *world.Pod {
	t.Helper()
	p := n.Describe(1, "4", "6")
	p.Spec.Kind = kind
	p.Add()
	p.Echo(7)
	return p
}

func kindOf(n *world.Node, p *world.Pod) (kind string) {
	err := n.Do(func() error {
		device, err := netlink.LinkByName(p.Wiring.HostIfName)
		if err == nil {
			kind = device.Type()
		}
		return err
	})
	if err != nil {
		panic(err)
	}
	return kind
}

// watched counts the packets that the node forwards in the host stack.
func watched(t *testing.T, n *world.Node) func() int {
	n.NFT(`table inet watch {
		counter forwarded { }
		chain forward { type filter hook forward priority 0; counter name forwarded; }
	}`)
	return func() int { return world.Counter(t, n.NS, "inet", "watch", "forwarded") }
}

// Pods of netkit, ebpf and route on one node talk to each other and to another node's; those with
// programs use the fast path, whichever devices they have. The node's datapath is changed, and its
// pods keep their kind.
func TestPodsOfAllKindsBeside(t *testing.T) {
	w := kit.NewWorld(t, 2, 1)
	n0, n1 := w.Nodes[0], w.Nodes[1]
	ctx := context.Background()
	kinds := []string{claims.Netkit, claims.EBPF, claims.Route}
	n0.Sync()
	n1.Sync()
	far := wire(t, n1, claims.Netkit)
	pods := []*world.Pod{}
	for _, kind := range kinds {
		pods = append(pods, wire(t, n0, kind))
	}
	for i, want := range []string{"netkit", "veth", "veth"} {
		if got := kindOf(n0, pods[i]); got != want {
			t.Errorf("the pod of %s has a %s, want a %s", kinds[i], got, want)
		}
	}
	for _, kind := range kinds {
		n0.Desired.Kind = kind
		if repairs, err := n0.TrySync(pods...); err != nil || len(repairs) != 0 {
			t.Errorf("%s: Sync repairs %q, %v", kind, repairs, err)
		}
	}
	forwarded := watched(t, n0)
	for _, from := range append(pods, far) {
		for _, to := range append(pods, far) {
			if from == to {
				continue
			}
			for _, c := range []struct {
				network string
				to      netip.Addr
			}{{"tcp", to.V4}, {"udp", to.V6}} {
				before := forwarded()
				world.Talk(t, from.NS, c.network, world.At(c.to, 7), 60)
				passed := forwarded() - before
				slow := from.Spec.Kind == "route" || to.Spec.Kind == "route"
				// The first packets, and acknowledgements of the kernels meanwhile.
				if few := passed < 20; few == slow {
					t.Errorf("%s → %s by %s: %d packets of 60 exchanges passed the host stack", from.Spec.Kind, to.Spec.Kind, c.network, passed)
				}
			}
		}
	}
	for _, p := range pods {
		if err := n0.DP.CheckPod(ctx, n0.Desired, p.Spec); err != nil {
			t.Errorf("%s: %v", p.Spec.Kind, err)
		}
		if err := n0.DP.DelPod(ctx, p.Spec); err != nil {
			t.Errorf("%s: %v", p.Spec.Kind, err)
		}
	}
	n0.Settle()
	if out := n0.IP("-o link show"); strings.Contains(out, " tw") {
		t.Errorf("devices are left:\n%s", out)
	}
}

// A device of the other kind under the name of a pod's device is replaced: an unfinished ADD left
// it before the node's datapath was changed.
func TestPairOfAnotherKind(t *testing.T) {
	w := kit.NewWorld(t, 1, 1)
	n := w.Nodes[0]
	n.Sync()
	peer := wire(t, n, claims.Netkit)
	p := wire(t, n, claims.Route)
	for _, kind := range []string{claims.Netkit, claims.EBPF, claims.Netkit} {
		p.Spec.Kind = kind
		if _, err := n.DP.AddPod(context.Background(), n.Desired, p.Spec); err != nil {
			t.Fatal(err)
		}
		want := "veth"
		if kind == claims.Netkit {
			want = "netkit"
		}
		if got := kindOf(n, p); got != want {
			t.Errorf("%s: the pod has a %s", kind, got)
		}
		world.Talk(t, p.NS, "tcp", world.At(peer.V4, 7), 5)
	}
}

// A pair without its programs passes nothing, in either direction.
func TestNothingPassesWithoutPrograms(t *testing.T) {
	w := kit.NewWorld(t, 1, 1)
	n := w.Nodes[0]
	n.Sync()
	a, b := wire(t, n, claims.Netkit), wire(t, n, claims.Netkit)
	for _, from := range attachPoints {
		world.Talk(t, a.NS, "tcp", world.At(b.V4, 7), 5)
		take(n, a, from)
		world.MustNotReach(t, a.NS, world.At(b.V4, 7))
		world.MustNotReach(t, b.NS, world.At(a.V4, 7))
		if repairs := n.Sync(a, b); len(repairs) != 1 || !strings.Contains(repairs[0], from.program) {
			t.Errorf("repairs %q", repairs)
		}
	}
}

// With the right to configure the pod's namespace one cannot change what the pair does.
func TestThePodCannotOpenItsPair(t *testing.T) {
	w := kit.NewWorld(t, 1, 1)
	n := w.Nodes[0]
	n.Sync()
	p := wire(t, n, claims.Netkit)
	if err := setPolicy(p.NS, "eth0", netlink.NETKIT_POLICY_FORWARD); !errors.Is(err, unix.EACCES) {
		t.Errorf("set the policy by the pod's end: %v, want %v", err, unix.EACCES)
	}
	for _, at := range attachPoints {
		err := p.Do(func() error {
			inner, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			_, err = link.QueryPrograms(link.QueryOptions{Target: inner.Attrs().Index, Attach: at.attach})
			return err
		})
		if !errors.Is(err, unix.EACCES) {
			t.Errorf("reach the programs by the pod's end: %v, want %v", err, unix.EACCES)
		}
	}
	if err := n.DP.CheckPod(context.Background(), n.Desired, p.Spec); err != nil {
		t.Error(err)
	}
}

// A new agent takes over programs and maps as they are. Another version of a program is replaced at
// its attach point; a program of others in the pair stays.
func TestRestartAndOtherVersions(t *testing.T) {
	w := kit.NewWorld(t, 1, 1)
	n := w.Nodes[0]
	n.Sync()
	a, b := wire(t, n, claims.Netkit), wire(t, n, claims.Netkit)
	k := world.StartTalk(t, a.NS, "tcp", world.At(b.V4, 7))
	k.More(5)
	learned := func() uint64 {
		counts, err := own(n).Counters()
		if err != nil {
			t.Fatal(err)
		}
		return counts["learned"]
	}
	before := learned()
	if before == 0 {
		t.Fatal("no connection was learned: the test is blind")
	}
	for range 3 {
		if err := n.DP.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		n.DP = n.NewDatapath()
		if repairs := n.Sync(a, b); len(repairs) != 0 {
			t.Errorf("Sync after a restart repairs %q", repairs)
		}
		k.More(5)
	}
	// Without the ENI's filters the pairs alone hold the maps.
	n.Run("tc", "qdisc", "del", "dev", "eth1", "clsact")
	if err := n.DP.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	n.DP = n.NewDatapath()
	if repairs := n.Sync(a, b); len(repairs) != 1 || !strings.Contains(repairs[0], "attached programs to eth1") {
		t.Errorf("Sync without the ENI's filters repairs %q", repairs)
	}
	k.More(5)
	if got := learned(); got != before {
		t.Errorf("%d connections were learned, %d before the restarts", got, before)
	}

	others, err := bpf.NewProgram(&bpf.ProgramSpec{
		Name: "others", Type: bpf.SchedCLS, License: "GPL", Instructions: passOn,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer others.Close()
	programs := func() (ids []bpf.ProgramID) {
		for _, p := range attachPoints {
			there, err := link.QueryPrograms(link.QueryOptions{Target: index(a), Attach: p.attach})
			if err != nil {
				t.Fatal(err)
			}
			for _, x := range there.Programs {
				ids = append(ids, x.ID)
			}
		}
		return ids
	}
	err = n.Do(func() error {
		if err := link.RawAttachProgram(link.RawAttachProgramOptions{
			Target: index(a), Program: others, Attach: attachPoints[0].attach, Anchor: link.Head(),
		}); err != nil {
			return err
		}
		// A program of ours at the wrong attach point is another version of the right one.
		return ebpf.Try(func(_ *netlink.Handle, _ *netlinkx.Batch, o *bpfobj.Objects) error {
			return n.Do(func() error { return put(index(a), attachPoints[0], o.Programs[ebpf.ToPod]) })
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	if repairs := n.Sync(a, b); len(repairs) != 1 || !strings.Contains(repairs[0], ebpf.FromNetkit+" is another version") {
		t.Errorf("repairs %q", repairs)
	}
	k.More(20)
	k.End(t)
	var ids []bpf.ProgramID
	if err := n.Do(func() error { ids = programs(); return nil }); err != nil {
		t.Fatal(err)
	}
	if len(ids) != 3 {
		t.Errorf("%d programs are in the pair, want ours and that of others", len(ids))
	}
	if repairs := n.Sync(a, b); len(repairs) != 0 {
		t.Errorf("second Sync repairs %q", repairs)
	}
}

// Programs of others behind ours in a pair see packets for which our programs have not decided, and
// connections use the fast path anyway.
func TestProgramsOfOthersBehindOurs(t *testing.T) {
	const exchanges = 200
	w := kit.NewWorld(t, 1, 1)
	n := w.Nodes[0]
	n.Sync()
	a, b := wire(t, n, claims.Netkit), wire(t, n, claims.Netkit)
	sent, got := world.NewOthers(t, -1), world.NewOthers(t, -1)
	for _, c := range []struct {
		at *world.Pod
		of world.Others
		in attachPoint
	}{{a, sent, attachPoints[0]}, {b, got, attachPoints[1]}} {
		if err := n.Do(func() error {
			return link.RawAttachProgram(link.RawAttachProgramOptions{
				Target: index(c.at), Program: c.of.Program, Attach: c.in.attach, Anchor: link.Tail(),
			})
		}); err != nil {
			t.Fatal(err)
		}
	}
	world.Talk(t, a.NS, "tcp", world.At(b.V4, 7), exchanges)
	for name, o := range map[string]world.Others{"from the pod": sent, "to the pod": got} {
		if n := o.Seen(t); n == 0 || n >= exchanges/2 && name == "from the pod" {
			t.Errorf("%s: it saw %d packets of %d exchanges, want the first ones", name, n, exchanges)
		}
	}
}

// index of a pod's device, in the node's namespace.
func index(p *world.Pod) int {
	device, err := netlink.LinkByName(p.Wiring.HostIfName)
	if err != nil {
		panic(err)
	}
	return device.Attrs().Index
}

// passOn decides nothing about a packet: TC_ACT_UNSPEC, which netkit calls NETKIT_NEXT.
var passOn = asm.Instructions{asm.Mov.Imm32(asm.R0, -1), asm.Return()}
