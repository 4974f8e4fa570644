package shaping

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"terway.dev/terway/internal/bandwidth"
)

func TestShapeOf(t *testing.T) {
	for _, c := range []struct {
		bits uint64
		mtu  int
		want shape
	}{
		{1e6, 1500, shape{125_000, 65536 * time.Microsecond, 15140, 3028}},
		{10e6, 1500, shape{1_250_000, 6553600 * time.Nanosecond, 31250, 3028}},
		{100e6, 1500, shape{12_500_000, 2 * time.Millisecond, 312_500, 69632}},
		{1e9, 0, shape{125_000_000, 2 * time.Millisecond, 3_125_000, 69632}},
		{5e9, 1500, shape{625_000_000, 12 * time.Millisecond, 15_625_000, 69632}},
		{1e6, 8500, shape{125_000, 136224 * time.Microsecond, 85140, 17028}},
	} {
		if got := shapeOf(c.bits, c.mtu); got != c.want {
			t.Errorf("%d bit/s, MTU %d: %+v, want %+v", c.bits, c.mtu, got, c.want)
		}
	}
}

// Of every limit that pods can have, the kernel gets the numbers whole: a full packet fits into burst
// and queue, and nothing overflows. After idle no more than twice the limit leaves in 100 ms, from
// 1 Mbit/s on.
func TestEveryLimitFits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bits := rapid.Uint64Range(bandwidth.Lowest, bandwidth.Highest).Draw(t, "bits")
		mtu := rapid.IntRange(576, 9000).Draw(t, "mtu")
		s := shapeOf(bits, mtu)
		if s.rate != bits/8 {
			t.Fatalf("rate %d", s.rate)
		}
		if got := float64(s.rate) * s.burst.Seconds(); got < float64(mtu+14) {
			t.Errorf("burst of %.0f bytes", got)
		}
		if int(s.queue) < 10*(mtu+14) || s.queue < 4*s.largest || int(s.largest) < mtu+14 {
			t.Errorf("queue of %d bytes for packets of up to %d bytes", s.queue, s.largest)
		}
		if n := int64(ticks(s.burst)); n == 0 || n == math.MaxUint32 {
			t.Errorf("%d ticks", n)
		}
		if bits >= 1e6 && mtu <= 1500 && s.burst > 100*time.Millisecond {
			t.Errorf("burst of %s", s.burst)
		}
	})
}
