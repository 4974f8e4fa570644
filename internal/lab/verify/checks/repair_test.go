package checks

import (
	"testing"

	"terway.dev/terway/internal/testutil"
)

// Removing anything of Terway's changes the list, and changes of others in their own chain do
// not.
func TestProgrammed(t *testing.T) {
	testutil.RequireRoot(t)
	ns := testutil.NewNS(t, "repair")
	look := func() string {
		t.Helper()
		got, err := programmed(func(args ...string) (string, error) { return ns.Exec(args[0], args[1:]...) })
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	empty := look()
	for _, c := range []string{"rule add pref 600 fwmark 0x100000 lookup 2101 proto 84", "-6 rule add pref 600 fwmark 0x100000 lookup 2101 proto 84",
		"route add 192.168.40.1 dev lo table 2100 proto 84", "-6 route add fd00::1 dev lo table 2100 proto 84"} {
		ns.IP(c)
	}
	ns.NFT(`
		table inet terway { chain exit { accept; }; }
		table ip terway-nat { chain out { accept; }; }
		table ip6 terway-nat { chain out { accept; }; }
		table ip filter { chain FORWARD { iifname "tw*" accept comment "terway: packets of pods pass"; }; }
		table ip6 filter { chain FORWARD { iifname "tw*" accept comment "terway: packets of pods pass"; }; }`)
	whole := look()
	if whole == empty {
		t.Fatal("nothing is seen")
	}
	ns.NFT(`add rule ip filter FORWARD iifname "docker0" accept`)
	if now := look(); now != whole {
		t.Errorf("a rule of others shows:\n%s", now)
	}
	before := whole
	for _, gone := range [][]string{
		{"ip", "rule", "del", "pref", "600"}, {"ip", "-6", "rule", "del", "pref", "600"},
		{"ip", "route", "flush", "table", "2100"}, {"ip", "-6", "route", "flush", "table", "2100"},
		{"nft", "flush", "chain", "inet", "terway", "exit"},
		{"nft", "flush", "chain", "ip", "terway-nat", "out"}, {"nft", "delete", "table", "ip6", "terway-nat"},
		{"nft", "flush", "chain", "ip", "filter", "FORWARD"}, {"nft", "flush", "chain", "ip6", "filter", "FORWARD"},
	} {
		ns.Run(gone[0], gone[1:]...)
		now := look()
		if now == before {
			t.Errorf("%v does not show", gone)
		}
		before = now
	}
}
