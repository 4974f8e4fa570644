package route

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/claims"
)

// Whatever ENIs come and go, and whenever the process restarts: no two share a
// slot, and one that stays keeps its own.
func TestSlotsAreUniqueAndStable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const kinds = 12
		var state nodeState
		held := map[string]int{}
		for step := range rapid.IntRange(1, 8).Draw(t, "steps") {
			order := rapid.Permutation(seq(kinds)).Draw(t, "order")
			attached := order[:rapid.IntRange(0, kinds).Draw(t, "attached")]
			var node datapath.Node
			var links []netlink.Link
			var routes []netlink.Route
			for _, i := range attached {
				eni := datapath.ENI{ID: fmt.Sprint(i), MAC: net.HardwareAddr{2, 0, 0, 0, 0, byte(i)}}
				node.ENIs = append(node.ENIs, eni)
				links = append(links, &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: 10 + i, Name: fmt.Sprintf("eth%d", i), HardwareAddr: eni.MAC}})
				if slot := held[macKey(eni.MAC)]; slot != 0 {
					routes = append(routes, netlink.Route{Table: claims.TableLocal + slot, LinkIndex: 10 + i, Type: unix.RTN_UNICAST})
				}
			}
			if rapid.Bool().Draw(t, "restart") {
				state = nodeState{}
			}
			enis, err := assignSlots(node, links, routes, state)
			if err != nil {
				t.Fatal(err)
			}
			next, used := map[string]int{}, map[int]string{}
			for mac, s := range enis {
				if s.slot < 1 || s.slot > kinds {
					t.Fatalf("step %d: %s has slot %d of %d ENIs", step, mac, s.slot, kinds)
				}
				if other, dup := used[s.slot]; dup {
					t.Fatalf("step %d: %s and %s share slot %d", step, mac, other, s.slot)
				}
				if was := held[mac]; was != 0 && was != s.slot {
					t.Fatalf("step %d: %s moved from slot %d to %d", step, mac, was, s.slot)
				}
				used[s.slot], next[mac] = mac, s.slot
			}
			if len(enis) != len(attached) {
				t.Fatalf("step %d: %d of %d ENIs have a slot", step, len(enis), len(attached))
			}
			held, state = next, nodeState{enis: enis}
		}
	})
}

func seq(n int) []int {
	list := make([]int, n)
	for i := range list {
		list[i] = i
	}
	return list
}

// The merged ranges hold an address exactly if one of the CIDRs does.
func TestInsideRangesMeanTheCIDRs(t *testing.T) {
	prefix := rapid.Custom(func(t *rapid.T) netip.Prefix {
		if rapid.Bool().Draw(t, "IPv6") {
			var b [16]byte
			b[0], b[15] = 0x20, rapid.Byte().Draw(t, "low")
			return netip.PrefixFrom(netip.AddrFrom16(b), rapid.IntRange(118, 128).Draw(t, "bits"))
		}
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{255, 255, 255, rapid.Byte().Draw(t, "low")}), rapid.IntRange(22, 32).Draw(t, "bits"))
	})
	rapid.Check(t, func(t *rapid.T) {
		node := datapath.Node{
			VPCCIDRs:     rapid.SliceOfN(prefix, 0, 4).Draw(t, "vpc"),
			ServiceCIDRs: rapid.SliceOfN(prefix, 0, 4).Draw(t, "service"),
		}
		v4, v6, err := insideRanges(node)
		if err != nil {
			t.Fatal(err)
		}
		a := prefix.Draw(t, "address").Addr()
		want := false
		for _, p := range append(append([]netip.Prefix{}, node.VPCCIDRs...), node.ServiceCIDRs...) {
			want = want || p.Masked().Contains(a)
		}
		got := false
		for _, r := range append(v4, v6...) {
			got = got || r.Contains(a)
		}
		if got != want {
			t.Fatalf("%s inside: %v, want %v", a, got, want)
		}
		// The kernel refuses a key that is both a start and an end.
		seen := map[string]bool{}
		for _, e := range append(intervals(v4), intervals(v6)...) {
			if seen[string(e.Key)] {
				t.Fatalf("interval key %x twice", e.Key)
			}
			seen[string(e.Key)] = true
		}
	})
}
