package nft

import (
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"terway.dev/terway/internal/datapath"
)

// The merged ranges contain an address exactly if one of the CIDRs does.
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
		inside, err := insideRanges(node)
		if err != nil {
			t.Fatal(err)
		}
		v4, v6 := inside[setInside4], inside[setInside6]
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
		// The kernel rejects a key that is both a start and an end.
		seen := map[string]bool{}
		for _, e := range append(intervals(v4), intervals(v6)...) {
			if seen[string(e.Key)] {
				t.Fatalf("interval key %x twice", e.Key)
			}
			seen[string(e.Key)] = true
		}
	})
}
