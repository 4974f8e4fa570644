package policymap

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// Runs never overlap, row 0 is nobody's, and what is given back leaves nothing behind.
func TestBlocks(t *testing.T) {
	t.Parallel()
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 15))
		var b blocks
		var taken []block
		give := func(i int) {
			b.give(taken[i].first, taken[i].count)
			taken = slices.Delete(taken, i, i+1)
		}
		for range 200 {
			if row := uint32(1 + r.IntN(60)); r.IntN(8) == 0 {
				if !slices.ContainsFunc(taken, func(o block) bool { return row >= o.first && row < o.first+o.count }) {
					b.claim(row)
					taken = append(taken, block{row, 1})
				}
			} else if len(taken) > 0 && r.IntN(2) == 0 {
				give(r.IntN(len(taken)))
			} else {
				n := uint32(r.IntN(6))
				first := b.take(n)
				if (first == 0) != (n == 0) {
					t.Fatalf("seed %d: %d rows from %d on", seed, n, first)
				}
				for _, o := range taken {
					if first < o.first+o.count && o.first < first+n {
						t.Fatalf("seed %d: %d rows from %d on, and %d from %d on", seed, n, first, o.count, o.first)
					}
				}
				if first+n > b.rows() {
					t.Fatalf("seed %d: %d rows are needed for %d from %d on", seed, b.rows(), n, first)
				}
				taken = append(taken, block{first, n})
			}
		}
		for len(taken) > 0 {
			give(0)
		}
		if b.rows() != 1 || len(b.free) > 0 {
			t.Fatalf("seed %d: %+v is left", seed, b)
		}
	}
}

// A name that comes back soon is the same; the last ones that went are known, and no number is ever another's.
func TestNames(t *testing.T) {
	t.Parallel()
	n := newNames("none", 0, true)
	first := n.take("first")
	n.release(first)
	if k, ok := n.name(first); !ok || k != "first" || n.take("first") != first {
		t.Errorf("%d is %q, %v", first, k, ok)
	}
	n.release(first)
	seen := map[uint32]int{0: -1, first: -2}
	for i := range 3 * remembered {
		number := n.take(string(rune(i)) + "x")
		if was, ok := seen[number]; ok {
			t.Fatalf("%d is %d's and %d's", number, was, i)
		}
		seen[number] = i
		n.release(number)
	}
	if _, ok := n.name(first); ok {
		t.Error("the first name is still known")
	}
	if len(n.by) > remembered+1 || len(n.of) != len(n.by) {
		t.Errorf("%d names are known by number, %d by what they are", len(n.by), len(n.of))
	}
	if k, ok := n.name(0); !ok || k != "none" {
		t.Errorf("0 is %q", k)
	}
}
