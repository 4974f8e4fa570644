package ebpf

import (
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath/suite/world"
	"terway.dev/terway/internal/datapath/tcfilter"
)

// attach attaches a program of others after ours.
func attach(t *testing.T, o world.Others, n *world.Node, device string, parent uint32) {
	t.Helper()
	h := must(handle(n))
	defer h.Close()
	if err := h.FilterAdd(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: index(n, device), Parent: parent, Handle: 1, Protocol: unix.ETH_P_ALL, Priority: 90},
		Fd:          o.Program.FD(), Name: "others", DirectAction: true,
	}); err != nil {
		t.Fatal(err)
	}
}

// A filter of others after ours sees packets that our programs do not decide: those on the slow
// path, at every attach point. If it decides nothing either, connections use the fast path as
// without it; if it accepts packets of both ends itself, all packets of a connection stay on the
// slow path, and the filter sees all of them.
func TestFiltersOfOthersBehindOurs(t *testing.T) {
	const exchanges = 200
	for _, c := range []struct {
		name    string
		verdict int32
		direct  bool
	}{{"says nothing", -1, true}, {"lets through", 0, false}} {
		t.Run(c.name, func(t *testing.T) {
			w := kit.NewWorld(t, 2, 1)
			n0, n1 := w.Nodes[0], w.Nodes[1]
			n0.Sync()
			n1.Sync()
			a, near, far := n0.AddPod(1), n0.AddPod(1), n1.AddPod(1)
			for _, p := range []*world.Pod{a, near, far} {
				p.Echo(7)
			}
			sent, got, wire, air := world.NewOthers(t, c.verdict), world.NewOthers(t, c.verdict), world.NewOthers(t, c.verdict), world.NewOthers(t, c.verdict)
			attach(t, sent, n0, a.Wiring.HostIfName, tcfilter.Ingress)
			attach(t, sent, n0, near.Wiring.HostIfName, tcfilter.Ingress)
			attach(t, got, n0, near.Wiring.HostIfName, tcfilter.Egress)
			attach(t, air, n0, "eth1", tcfilter.Ingress)
			attach(t, wire, n0, "eth1", tcfilter.Egress)
			world.Talk(t, a.NS, "tcp", world.At(near.V4, 7), exchanges)
			world.Talk(t, a.NS, "tcp", world.At(far.V4, 7), exchanges)
			world.Talk(t, far.NS, "tcp", world.At(a.V4, 7), 1) // its first packet takes the slow path at the ENI
			for name, o := range map[string]world.Others{"from the pod": sent, "to the pod": got, "from the ENI": air, "to the ENI": wire} {
				n := o.Seen(t)
				if n == 0 {
					t.Errorf("%s: a filter behind ours saw nothing", name)
				}
				if few := n < 20; name != "from the ENI" && name != "to the ENI" && few != c.direct {
					t.Errorf("%s: it saw %d packets of %d exchanges, direct should be %v", name, n, exchanges, c.direct)
				}
			}
			if repairs := n0.Sync(a, near); len(repairs) != 0 {
				t.Errorf("Sync repairs %q", repairs)
			}
		})
	}
}
