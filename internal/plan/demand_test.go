package plan

import (
	"testing"

	"pgregory.net/rapid"
)

// allocator allocates a vSwitch's addresses one by one like the cloud: nothing is reserved, and
// prefixes are whole aligned blocks.
type allocator struct{ taken []bool }

func newAllocator(size int) *allocator {
	a := &allocator{taken: make([]bool, size)}
	a.taken[0] = true
	for i := size - 3; i < size; i++ {
		a.taken[i] = true
	}
	return a
}

func (a *allocator) block() bool {
	for at := 0; at+prefixSize <= len(a.taken); at += prefixSize {
		if !a.used(at) {
			for i := range prefixSize {
				a.taken[at+i] = true
			}
			return true
		}
	}
	return false
}

func (a *allocator) used(at int) bool {
	for i := range prefixSize {
		if a.taken[at+i] {
			return true
		}
	}
	return false
}

// single allocates an address, if possible one that breaks no whole block.
func (a *allocator) single() bool {
	best := -1
	for i, taken := range a.taken {
		if taken {
			continue
		}
		if at := i / prefixSize * prefixSize; at+prefixSize <= len(a.taken) && a.used(at) {
			best = i
			break
		}
		best = i
	}
	if best >= 0 {
		a.taken[best] = true
	}
	return best >= 0
}

// TestFit: fit agrees with an allocator that allocates blocks first.
func TestFit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bits := rapid.IntRange(20, 29).Draw(t, "mask")
		singles := rapid.IntRange(1, 40).Draw(t, "singles")
		blocks := rapid.IntRange(0, 12).Draw(t, "blocks")
		n := fit(1<<(32-bits), singles, blocks)
		holds := func(n int) bool {
			a := newAllocator(1 << (32 - bits))
			for range n * blocks {
				if !a.block() {
					return false
				}
			}
			for range n * singles {
				if !a.single() {
					return false
				}
			}
			return true
		}
		if !holds(n) {
			t.Fatalf("/%d: %d × (%d addresses, %d blocks) do not fit", bits, n, singles, blocks)
		}
		if holds(n + 1) {
			t.Fatalf("/%d: %d × (%d addresses, %d blocks) fit, not only %d", bits, n+1, singles, blocks, n)
		}
	})
}

// TestRoomGrows: another vSwitch never reduces the room, and the room is never more than the
// addresses allow.
func TestRoomGrows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := spread{most: rapid.IntRange(1, 14).Draw(t, "ENIs"), perENI: rapid.IntRange(1, 50).Draw(t, "per ENI")}
		s.want = rapid.IntRange(1, s.most*s.perENI).Draw(t, "wanted")
		d := demand{known: true, singles: s.want, spreads: []spread{s}}
		if rapid.Bool().Draw(t, "prefixes") {
			d.blocks, d.singles = s.want, ceil(s.want, s.perENI)
		}
		var pods []VSwitch
		before, addresses := 0, 0
		for range rapid.IntRange(1, 6).Draw(t, "vSwitches") {
			p := at(private10, 0, rapid.IntRange(16, 29).Draw(t, "mask"))
			pods, addresses = append(pods, VSwitch{CIDR: p}), addresses+Usable(p)
			n := d.room(pods)
			if n < before {
				t.Fatalf("%v: room for %d nodes, for %d with a vSwitch less", pods, n, before)
			}
			if n*d.total() > addresses {
				t.Fatalf("%v: %d nodes of %d addresses", pods, n, d.total())
			}
			before = n
		}
	})
}

// TestRoomOfSmallVSwitches: an ENI need not be full, so vSwitches that are too small for a full
// one still hold nodes.
func TestRoomOfSmallVSwitches(t *testing.T) {
	of := func(sizes ...int) (pods []VSwitch) {
		for _, bits := range sizes {
			pods = append(pods, VSwitch{CIDR: at(private10, 0, bits)})
		}
		return pods
	}
	for name, c := range map[string]struct {
		spreads []spread
		pods    []VSwitch
		want    int
	}{
		"an ENI for each vSwitch, both filled in part": {[]spread{{18, 20, 3}}, of(28, 28), 1},
		"no ENI is left for the rest":                  {[]spread{{18, 20, 1}}, of(28, 28), 0},
		"not enough addresses":                         {[]spread{{30, 20, 3}}, of(28, 28), 0},
		"two nodes":                                    {[]spread{{18, 20, 3}}, of(28, 28, 28, 28), 2},
		"full ENIs":                                    {[]spread{{30, 10, 3}}, of(28, 28, 28), 1},
		"the type with fewer ENIs decides":             {[]spread{{18, 20, 3}, {18, 20, 1}}, of(28, 28), 0},
		"a type with smaller ENIs":                     {[]spread{{18, 20, 3}, {18, 6, 3}}, of(28, 28), 1},
		"nothing is known of ENIs":                     {nil, of(28, 28), 0},
	} {
		d := demand{known: true, singles: 18, spreads: c.spreads}
		for _, s := range c.spreads {
			d.singles = max(d.singles, s.want)
		}
		if got := d.room(c.pods); got != c.want {
			t.Errorf("%s: room for %d nodes, want %d", name, got, c.want)
		}
	}
}
