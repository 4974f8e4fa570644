package shaping

import (
	"math"
	"testing"

	"pgregory.net/rapid"

	"terway.dev/terway/internal/bandwidth"
	"terway.dev/terway/internal/datapath/routing"
)

// What the priorities have for sure is together no more than the total, which each may have alone, and the kernel gets the
// numbers whole.
func TestClassesOfEveryTotal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bits := rapid.Uint64Range(100e6, 1e12).Draw(t, "bits")
		mtu := rapid.IntRange(576, 9000).Draw(t, "mtu")
		list := eniQueue{eni: routing.ENI{MTU: mtu}, bits: bits}.classes()
		whole, sum := list[0], uint64(0)
		if whole.handle != total || whole.parent != rootENI || whole.rate.rate != bits/8 {
			t.Fatalf("the first class is %+v", whole)
		}
		for i, c := range list[1:] {
			if c.handle != ranks[i].class || c.parent != total || int(c.prio) != i || c.ceil != whole.rate {
				t.Errorf("class %+v", c)
			}
			if got := float64(c.rate.rate) * c.rate.burst.Seconds(); got < float64(mtu+frame) {
				t.Errorf("class %+v has a burst of %.0f bytes", c, got)
			}
			if n := ticks(c.rate.burst); n == 0 || n == math.MaxUint32 {
				t.Errorf("class %+v: %d ticks", c, n)
			}
			sum += c.rate.rate
		}
		if sum > whole.rate.rate || sum+uint64(len(ranks)) < whole.rate.rate {
			t.Errorf("the classes have %d of %d", sum, whole.rate.rate)
		}
		if whole.rate.queue < 2*segmented {
			t.Errorf("the queue of %d bytes has no room for packets of many segments", whole.rate.queue)
		}
	})
}

// The classes are in the order of the priorities; an entry of an earlier version has none.
func TestClassOf(t *testing.T) {
	for p, want := range map[bandwidth.Priority]uint32{
		bandwidth.Guaranteed: 0x747c0010, bandwidth.Burstable: 0x747c0020, bandwidth.BestEffort: 0x747c0030, "": 0x747c0020,
	} {
		if got := classOf(p); got != want {
			t.Errorf("%q: class %x, want %x", p, got, want)
		}
	}
}
