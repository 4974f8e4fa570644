package ebpf

import (
	"net/netip"
	"strings"
	"testing"

	bpf "github.com/cilium/ebpf"

	"terway.dev/terway/internal/datapath/suite/world"
	"terway.dev/terway/internal/datapath/tcprog"
)

// downgrade leaves a node as an agent of the version before would: its programs on all
// devices, its maps filled. testdata/former.o is that version's object file, without debug
// information.
func downgrade(t *testing.T, n *world.Node, pods ...*world.Pod) {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	spec, err := bpf.LoadCollectionSpec("testdata/former.o")
	check(err)
	former, err := bpf.NewCollection(spec)
	check(err)
	defer former.Close()
	for _, p := range former.Programs {
		for _, m := range former.Maps {
			check(p.BindMap(m))
		}
	}
	eni := uint32(index(n, "eth1"))
	s := own(n).shortcuts
	for _, p := range pods {
		device := uint32(index(n, p.Wiring.HostIfName))
		var sender shortcutSender
		check(s.objects.Maps[mapSenders].Lookup(device, &sender))
		check(former.Maps[mapSenders].Put(device, sender))
		for _, a := range p.Spec.Addresses {
			e, ok, err := s.table().Get(a)
			check(err)
			if !ok {
				t.Fatalf("%s has no entry", a)
			}
			check(former.Maps[formerPods].Put(tcprog.Words(a), struct {
				Ifindex, Mtu, Eni, EniMtu uint32
				Gateway                   shortcutAddr
				Macs                      [12]uint8
				Pad                       uint32
			}{e.Ifindex, e.Mtu, e.Eni, e.EniMtu, e.Gateway, e.Macs, 0}))
		}
	}
	check(n.Do(func() error { return former.Maps[tcprog.MapENIs].Put(eni, eni) }))
	check(n.DP.Close(t.Context()))
	h, err := handle(n)
	check(err)
	defer h.Close()
	o := &tcprog.Objects{Programs: former.Programs}
	check(filters.Attach(h, o, int(eni), eniHooks))
	for _, p := range pods {
		check(filters.Attach(h, o, index(n, p.Wiring.HostIfName), podHooks))
	}
}

// A node with programs and maps of the version before gets the new ones, and no connection
// stands still: connection tracking has seen nothing but the first packet of each, and what
// it calls invalid is dropped.
func TestUpgrade(t *testing.T) {
	w := kit.NewWorld(t, 2, 1)
	n, n1 := w.Nodes[0], w.Nodes[1]
	n.Sync()
	n1.Sync()
	a, near, far := n.AddPod(1, "4", "6"), n.AddPod(1, "4", "6"), n1.AddPod(1, "4", "6")
	for _, p := range []*world.Pod{a, near, far} {
		p.Echo(7)
	}
	downgrade(t, n, a, near)
	n.NFT("table inet k { chain f { type filter hook forward priority 0; ct state new accept; ct state invalid drop; }; }")
	var talks []*world.Talking
	for _, to := range []netip.Addr{near.V4, near.V6, far.V4, far.V6} {
		for _, network := range []string{"tcp", "udp"} {
			talks = append(talks, world.StartTalk(t, a.NS, network, world.At(to, 7)))
		}
	}
	talks = append(talks, world.StartTalk(t, far.NS, "tcp", world.At(a.V4, 7)), world.StartTalk(t, w.Outside, "tcp", world.At(a.V4, 7)))
	for _, k := range talks {
		k.More(20)
	}
	n.DP = n.NewDatapath()
	if repairs := strings.Join(n.Sync(a, near), "\n"); strings.Count(repairs, "another version") != 3 {
		t.Errorf("repairs:\n%s\nwant the programs of the ENI and of both pods, and nothing else", repairs)
	}
	for _, k := range talks {
		k.More(20)
	}
	if repairs := n.Sync(a, near); len(repairs) != 0 {
		t.Errorf("second Sync repairs %q", repairs)
	}
	if own(n).shortcuts.objects.Former("tw_flows_1") != nil {
		t.Error("the former flows are kept")
	}
	for _, k := range talks {
		k.More(20)
		k.End(t)
	}
	counts, err := own(n).Counters()
	if err != nil {
		t.Fatal(err)
	}
	if counts["to-eni"] == 0 || counts["to-pod"] == 0 {
		t.Errorf("nothing goes directly: %v", counts)
	}
}
