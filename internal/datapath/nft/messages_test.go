package nft_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netns"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/firewall"
	"terway.dev/terway/internal/datapath/nft"
	"terway.dev/terway/internal/testutil"
)

// Linux 4.19 knows everything that is sent by the socket of the tables, from a node's beginning to
// its end, including what package firewall sends by it. (That package reads by its own socket, with
// three older requests.)
func TestMessagesSuitLinux419(t *testing.T) {
	host := testutil.NewNS(t, "node")
	ns, err := netns.GetFromPath(host.Path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	tables := nft.Watched(t, ns)
	node := datapath.Node{MasqueradeOutside: true, Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
		VPCCIDRs: []netip.Prefix{netip.MustParsePrefix("192.168.0.0/16"), netip.MustParsePrefix("2001:db8::/40")}}
	rs, err := nft.NewRuleset(node)
	if err != nil {
		t.Fatal(err)
	}
	did := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	ensure := func() {
		t.Helper()
		_, err := tables.Ensure(rs, nil)
		did("Ensure", err)
	}
	has := func(want nft.Elements) {
		t.Helper()
		have, err := tables.Read()
		did("Read", err)
		if len(have) != len(want) {
			t.Errorf("the tables have %v, want %v", have, want)
		}
		for k, mark := range want {
			if have[k] != mark {
				t.Errorf("%v has mark %#x, want %#x", k, have[k], mark)
			}
		}
	}
	k4, k6 := nft.Key{Device: "tw00000000000", Addr: netip.MustParseAddr("192.168.0.1")}, nft.Key{Device: "tw00000000000", Addr: netip.MustParseAddr("2001:db8::2")}

	ensure()
	did("Put", tables.Put(nft.Elements{k4: 1 << 20, k6: 1 << 20}))
	did("Put with another mark", tables.Put(nft.Elements{k4: 2 << 20, k6: 2 << 20}))
	has(nft.Elements{k4: 2 << 20, k6: 2 << 20})
	did("Remove", tables.Remove(k4))
	did("Remove what is gone, and what is not", tables.Remove(k4, k6))
	has(nil)
	did("Put", tables.Put(nft.Elements{k4: 1 << 20}))
	host.NFT("flush chain inet terway source")
	ensure()
	has(nft.Elements{k4: 1 << 20})
	_, err = tables.Spoofed()
	did("Spoofed", err)

	f := firewall.New(ns, tables)
	t.Cleanup(f.Close)
	host.NFT(`
		table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; }; }
		table ip6 filter { chain FORWARD { type filter hook forward priority 0; policy drop; }; }`)
	repairs, err := f.Ensure()
	did("let packets of pods pass", err)
	if len(repairs) != 2 {
		t.Errorf("FORWARD drops: %q, want both families'", repairs)
	}
	host.NFT("chain ip filter FORWARD { policy accept; }")
	_, err = f.Ensure()
	did("take that back", err)
	did("Remove", f.Remove())
	if left := host.Run("nft", "list", "ruleset"); strings.Contains(left, firewall.Comment) {
		t.Errorf("left are\n%s", left)
	}

	did("Delete", tables.Delete())
	if left := host.Run("nft", "list", "tables"); strings.Contains(left, "terway") {
		t.Errorf("left are %s", left)
	}
}
