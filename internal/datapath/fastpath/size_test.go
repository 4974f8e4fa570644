package fastpath

import "testing"

func TestConnections(t *testing.T) {
	const gib = 1 << 30
	for _, c := range []struct {
		cores  int
		memory uint64
		want   int
	}{
		{1, 1 * gib, 65536},   // memory
		{2, 4 * gib, 131072},  // the minimum
		{8, 16 * gib, 262144}, // cores
		{64, 256 * gib, 1 << 21},
		{64, 64 * gib, 1 << 21},
		{64, 32 * gib, 1 << 21},
		{64, 16 * gib, 1 << 20}, // memory again
	} {
		if got := connections(c.cores, c.memory); got != c.want {
			t.Errorf("%d cores, %d GiB: %d connections, want %d", c.cores, c.memory/gib, got, c.want)
		}
	}
	if got, want := SizesOf(131072), (Sizes{131072, 32768, 16384, 4096}); got != want {
		t.Errorf("sizes %+v, want %+v", got, want)
	}
}
