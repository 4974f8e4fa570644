//go:build vm

package ipvlan

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
	h, err := handle(n)
	check(err)
	defer h.Close()
	index := func(device string) int {
		t.Helper()
		link, err := h.LinkByName(device)
		check(err)
		return link.Attrs().Index
	}
	eni := index("eth1")
	for _, p := range pods {
		for _, a := range p.Spec.Addresses {
			e, ok, err := table(own(n).Loader.Objects).Get(a)
			check(err)
			if !ok {
				t.Fatalf("%s has no entry", a)
			}
			check(former.Maps[formerSlaves].Put(fastpath.Words(a), formerSlave{e.Host, e.Inner, e.Eni, e.Receiver, e.Mtu, e.Gateway, e.NextHop, e.EniMac}))
		}
	}
	check(n.Do(func() error { return former.Maps[fastpath.MapENIs].Put(uint32(eni), uint32(eni)) }))
	check(n.DP.Close(t.Context()))
	o, b := &bpfobj.Objects{Programs: former.Programs}, fastpathtest.Batch(t, n.NS)
	check(filters.Attach(b, o, eni, eniHooks))
	for _, p := range pods {
		check(filters.Attach(b, o, index(p.Wiring.HostIfName), hostHooks.Hooks))
		check(filters.Attach(fastpathtest.Batch(t, p.NS), o, innerIndex(p.Wiring.HostIfName), innerHooks.Hooks))
	}
}

// Connections on the fast path of the previous version's programs stay on it.
func TestUpgrade(t *testing.T) {
	fastpathtest.Upgrade(t, kit, func(n *world.Node) *fastpath.Loader { return &own(n).Loader }, downgrade)
}
