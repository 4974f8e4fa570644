package tcprog

import (
	"net/netip"
	"strings"
	"testing"

	bpf "github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/testutil"
)

// newPods are entries whose value is the device alone.
func newPods(t *testing.T, limit uint32) Pods[uint32] {
	t.Helper()
	var made []*bpf.Map
	for _, spec := range []*bpf.MapSpec{
		{Type: bpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: limit}, {Type: bpf.Hash, KeySize: 16, ValueSize: 4, MaxEntries: limit},
	} {
		m, err := bpf.NewMap(spec)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = m.Close() })
		made = append(made, m)
	}
	return Pods[uint32]{Objects: &Objects{numbers: &numbers{m: made[1]}}, Map: made[0], Name: "pods", Device: func(v uint32) int { return int(v) }}
}

// A number that has become free is given out as late as can be, and none is given out twice:
// connections note them.
func TestNumbers(t *testing.T) {
	testutil.RequireRoot(t)
	pods := newPods(t, 5)
	address := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}) }
	put := func(i int) uint32 {
		t.Helper()
		if err := pods.Put(address(i), uint32(i)); err != nil {
			t.Fatal(err)
		}
		n, err := pods.Objects.numbers.of(address(i))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for i := 1; i <= 3; i++ {
		if got := put(i); got != uint32(i) {
			t.Errorf("address %d has number %d", i, got)
		}
	}
	if err := pods.Delete(address(1)); err != nil {
		t.Fatal(err)
	}
	// A new agent knows what the one before gave out.
	pods.Objects.numbers = &numbers{m: pods.Objects.numbers.m}
	if got := []uint32{put(4), put(5), put(2)}; got[0] != 4 || got[1] != 1 || got[2] != 2 {
		t.Errorf("numbers %v, want 4 before 1, and 2 as before", got)
	}
	if err := pods.Put(address(6), 6); err == nil || !strings.Contains(err.Error(), "all 4 numbers") {
		t.Errorf("with all numbers taken: %v", err)
	}
	list, err := pods.List()
	if err != nil || len(list) != 4 || list[address(5)] != 5 {
		t.Errorf("entries %v, %v", list, err)
	}
}

func TestPruneGoesOnPastWhatItCannotRemove(t *testing.T) {
	testutil.RequireRoot(t)
	const gone = 1 << 30 // no device has this index
	for _, frozen := range []bool{false, true} {
		pods := newPods(t, 8)
		for a, device := range map[string]uint32{"192.0.2.1": gone, "192.0.2.2": gone, "192.0.2.3": 1 /* lo */} {
			if err := pods.Put(netip.MustParseAddr(a), device); err != nil {
				t.Fatal(err)
			}
		}
		if frozen { // nobody can change its entries any more
			if err := pods.Map.Freeze(); err != nil {
				t.Fatal(err)
			}
		}
		h, err := netlink.NewHandle()
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		repairs, left, err := pods.Prune(h, nil)
		switch {
		case !frozen && (err != nil || len(repairs) != 2 || left != 1):
			t.Errorf("repairs %q, %d left, error %v; want two repairs and one left", repairs, left, err)
		case frozen && (err == nil || len(repairs) != 0 || left != 3 || !strings.Contains(err.Error(), "192.0.2.1") || !strings.Contains(err.Error(), "192.0.2.2")):
			t.Errorf("a map that cannot be changed: repairs %q, %d left, error %v; want an error that names both addresses", repairs, left, err)
		}
	}
}
