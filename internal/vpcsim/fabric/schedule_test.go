package fabric

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func count(order []int, backends int) []int {
	out := make([]int, backends)
	for _, i := range order {
		out[i]++
	}
	return out
}

func TestTurnsAreSharedByWeight(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		weights := rapid.SliceOfN(rapid.IntRange(1, maxWeight), 1, 400).Draw(t, "weights")
		order := inTurns(weights)
		if len(order) == 0 || len(order) > maxTurns+len(weights) {
			t.Fatalf("%d turns", len(order))
		}
		sum := 0
		for _, w := range weights {
			sum += w
		}
		for i, n := range count(order, len(weights)) {
			want := float64(weights[i]) * float64(len(order)) / float64(sum)
			// The rounding of all others changes the length, which a share is measured by.
			if n < 1 || float64(n) < want*0.6-1 || float64(n) > want*1.4+1 {
				t.Errorf("weight %d of %d: %d of %d turns, want %.1f", weights[i], sum, n, len(order), want)
			}
		}
	})
}

// Small weights are exact, and no backend waits much longer for its next turn than its share
// says.
func TestTurnsAreExactAndSpread(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		weights := rapid.SliceOfN(rapid.IntRange(1, maxWeight), 1, 10).Draw(t, "weights")
		order := inTurns(weights)
		divisor, sum := 0, 0
		for _, w := range weights {
			divisor = gcd(divisor, w)
			sum += w
		}
		if len(order) != sum/divisor {
			t.Fatalf("%d turns, want %d", len(order), sum/divisor)
		}
		for i, n := range count(order, len(weights)) {
			if n != weights[i]/divisor {
				t.Errorf("weight %d: %d turns, want %d", weights[i], n, weights[i]/divisor)
			}
			last, gap := -1, 0
			for at := range 2 * len(order) {
				if order[at%len(order)] != i {
					continue
				}
				if last >= 0 {
					gap = max(gap, at-last)
				}
				last = at
			}
			if fair := (sum + weights[i] - 1) / weights[i]; gap > 2*fair {
				t.Errorf("weight %d of %d: %d turns of others between two of its own, fair is %d", weights[i], sum, gap-1, fair-1)
			}
		}
	})
	if got := inTurns([]int{5, 1, 1}); !slices.Equal(got, []int{0, 0, 1, 0, 2, 0, 0}) {
		t.Errorf("5, 1, 1: %v", got)
	}
}

func drawBackends(t *rapid.T, most int) []Backend {
	n := rapid.IntRange(2, most).Draw(t, "backends")
	weigh := rapid.Just(100)
	if rapid.Bool().Draw(t, "weighted") {
		weigh = rapid.IntRange(10, 100)
	}
	var out []Backend
	for i := range n {
		out = append(out, Backend{
			Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 8080),
			Weight:  weigh.Draw(t, "weight"), Healthy: true,
		})
	}
	return out
}

func TestHashSharesByWeight(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		backends := drawBackends(t, 60)
		table := SlotTable(SourceHash, backends)
		if len(table) != hashSlots {
			t.Fatalf("%d slots", len(table))
		}
		got, sum := map[netip.AddrPort]int{}, 0
		for _, b := range table {
			got[b.Address]++
		}
		for _, b := range backends {
			sum += b.Weight
		}
		for _, b := range backends {
			want := float64(b.Weight) * hashSlots / float64(sum)
			if n := float64(got[b.Address]); n < want*0.9-2 || n > want*1.1+2 {
				t.Errorf("weight %d of %d: %v slots, want %.1f", b.Weight, sum, n, want)
			}
		}
	})
}

// When a backend goes, its own slots move, and few of the others.
func TestHashMovesFewWhenABackendGoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		backends := drawBackends(t, 100)
		before := SlotTable(TupleHash, backends)
		gone := rapid.IntRange(0, len(backends)-1).Draw(t, "gone")
		address := backends[gone].Address
		how := rapid.SampledFrom([]string{"removed", "unhealthy", "weight 0"}).Draw(t, "how")
		switch how {
		case "removed":
			backends = slices.Delete(slices.Clone(backends), gone, gone+1)
		case "unhealthy":
			backends[gone].Healthy = false
		case "weight 0":
			backends[gone].Weight = 0
		}
		after := SlotTable(TupleHash, backends)
		moved := 0
		for i := range before {
			if after[i].Address == address {
				t.Fatalf("slot %d still has the backend that is %s", i, how)
			}
			if before[i].Address != address && before[i].Address != after[i].Address {
				moved++
			}
		}
		if moved > hashSlots/8 {
			t.Errorf("%d of %d slots of other backends moved", moved, hashSlots)
		}
	})
}

func TestSlotTable(t *testing.T) {
	at := netip.MustParseAddrPort
	backends := []Backend{
		{Address: at("10.0.0.2:80"), Weight: 2, Healthy: true},
		{Address: at("10.0.0.1:80"), Weight: 1, Healthy: true},
		{Address: at("10.0.0.3:80"), Weight: 0, Healthy: true},
		{Address: at("10.0.0.4:80"), Weight: 9, Healthy: false},
		{Address: at("10.0.0.1:80"), Weight: 1, Healthy: true}, // by another name of the same server
	}
	for scheduler, want := range map[Scheduler]string{
		WeightedRoundRobin: "[10.0.0.1:80 10.0.0.2:80]",
		RoundRobin:         "[10.0.0.1:80 10.0.0.2:80]",
		LeastConnections:   "[10.0.0.1:80 10.0.0.2:80]",
	} {
		var got []netip.AddrPort
		for _, b := range SlotTable(scheduler, backends) {
			got = append(got, b.Address)
		}
		if fmt.Sprint(got) != want {
			t.Errorf("scheduler %d: %v, want %s", scheduler, got, want)
		}
		if got := SlotTable(scheduler, backends[2:4]); len(got) != 0 {
			t.Errorf("scheduler %d: backends that take nothing have the slots %v", scheduler, got)
		}
	}
	if got := SlotTable(SourceHash, backends[2:4]); len(got) != 0 {
		t.Errorf("backends that take nothing have %d slots", len(got))
	}
	other := slices.Clone(backends)
	slices.Reverse(other)
	if !slices.Equal(SlotTable(SourceHash, backends), SlotTable(SourceHash, other)) {
		t.Error("the order of the backends changes the table")
	}
}
