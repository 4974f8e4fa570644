package plan

import (
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestFree: free finds the same range as trying one after the other.
func TestFree(t *testing.T) {
	pool := netip.MustParsePrefix("10.9.0.0/20")
	rapid.Check(t, func(t *rapid.T) {
		var taken []netip.Prefix
		for range rapid.IntRange(0, 5).Draw(t, "taken") {
			bits := rapid.IntRange(19, 27).Draw(t, "mask")
			// Some of them lie before or after the pool.
			taken = append(taken, at(netip.MustParsePrefix("10.8.240.0/20"), rapid.IntRange(0, 3<<12-1).Draw(t, "at"), bits).Masked())
		}
		bits := rapid.IntRange(20, 26).Draw(t, "bits")
		var all []netip.Prefix
		for n := 0; n < size(pool); n += 1 << (32 - bits) {
			if p := at(pool, n, bits); !slices.ContainsFunc(taken, p.Overlaps) {
				all = append(all, p)
			}
		}
		low, isLow := free([]netip.Prefix{pool}, bits, taken)
		high, isHigh := freeHigh([]netip.Prefix{pool}, bits, taken)
		if isLow != (len(all) > 0) || isHigh != isLow || isLow && (low != all[0] || high != all[len(all)-1]) {
			t.Fatalf("/%d beside %v: lowest %v, highest %v, want of %v", bits, taken, low, high, all)
		}
	})
}
