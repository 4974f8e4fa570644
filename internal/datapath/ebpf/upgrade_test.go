package ebpf

import (
	"testing"

	"terway.dev/terway/internal/datapath/bpfobj"
	"terway.dev/terway/internal/datapath/fastpath"
	"terway.dev/terway/internal/datapath/fastpath/fastpathtest"
	"terway.dev/terway/internal/datapath/suite/world"
)

// downgrade leaves a node as an agent of the previous version would: its programs on all devices,
// its maps filled. testdata/former.o is that version's object file, without debug information.
func downgrade(t *testing.T, n *world.Node, pods ...*world.Pod) {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	former := fastpathtest.Former(t, "testdata/former.o")
	eni := uint32(index(n, "eth1"))
	s := &own(n).Loader
	for _, p := range pods {
		device := uint32(index(n, p.Wiring.HostIfName))
		var sender fastpathSender
		check(s.Objects.Maps[mapSenders].Lookup(device, &sender))
		check(former.Maps[mapSenders].Put(device, sender))
		for _, a := range p.Spec.Addresses {
			e, ok, err := table(s.Objects).Get(a)
			check(err)
			if !ok {
				t.Fatalf("%s has no entry", a)
			}
			check(former.Maps[formerPods].Put(fastpath.Words(a), formerPod{Ifindex: e.Ifindex, Mtu: e.Mtu, Eni: e.Eni, EniMtu: e.EniMtu, Gateway: e.Gateway, Macs: e.Macs}))
		}
	}
	check(n.Do(func() error { return former.Maps[fastpath.MapENIs].Put(eni, eni) }))
	check(n.DP.Close(t.Context()))
	b := fastpathtest.Batch(t, n.NS)
	o := &bpfobj.Objects{Programs: former.Programs}
	check(filters.Attach(b, o, int(eni), eniHooks))
	for _, p := range pods {
		check(filters.Attach(b, o, index(n, p.Wiring.HostIfName), podHooks.Hooks))
	}
}

// Connections on the fast path of the previous version's programs stay on it.
func TestUpgrade(t *testing.T) {
	fastpathtest.Upgrade(t, kit, func(n *world.Node) *fastpath.Loader { return &own(n).Loader }, downgrade)
}
