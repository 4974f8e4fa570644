package fastpath

import (
	"net/netip"
	"strings"
	"testing"

	bpf "github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"pgregory.net/rapid"

	"terway.dev/terway/internal/testutil"
)

// newPods returns entries whose value is only the device.
func newPods(t *testing.T, limit uint32) Pods[uint32] {
	t.Helper()
	var made []*bpf.Map
	for _, spec := range []*bpf.MapSpec{
		{Type: bpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: limit}, {Type: bpf.Hash, KeySize: 16, ValueSize: 4, MaxEntries: limit},
		{Type: bpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1024},
	} {
		m, err := bpf.NewMap(spec)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = m.Close() })
		made = append(made, m)
	}
	n, err := newNumbers(made[1], made[2])
	if err != nil {
		t.Fatal(err)
	}
	return Pods[uint32]{Objects: &Objects{numbers: n}, Map: made[0], Name: "pods", Device: func(v uint32) int { return int(v) }}
}

// A free number is reused as late as possible, and none is assigned twice: connections contain
// them.
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
	// A new agent knows the numbers that the previous one assigned.
	var err error
	if pods.Objects.numbers, err = newNumbers(pods.Objects.numbers.pods, pods.Objects.numbers.suffixes); err != nil {
		t.Fatal(err)
	}
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

// The map of suffixes has a bit for each existing address, and no other: without its bit a pod's
// packets take the slow path, and with too many bits packets for unknown addresses cost a lookup.
func TestSuffixes(t *testing.T) {
	testutil.RequireRoot(t)
	rapid.Check(t, func(r *rapid.T) {
		pods := newPods(t, 64)
		n := pods.Objects.numbers
		address := rapid.Custom(func(r *rapid.T) netip.Addr {
			// Few enough to collide, and of both families in the same words.
			b := netip.MustParseAddr(rapid.SampledFrom([]string{"192.0.2.0", "198.51.100.0", "2001:db8::"}).Draw(r, "prefix")).AsSlice()
			b[len(b)-2], b[len(b)-1] = rapid.ByteMax(2).Draw(r, "last but one"), rapid.SampledFrom([]byte{0, 1, 255}).Draw(r, "last")
			a, _ := netip.AddrFromSlice(b)
			return a
		})
		there := map[netip.Addr]bool{}
		r.Repeat(map[string]func(*rapid.T){
			"put": func(r *rapid.T) {
				a := address.Draw(r, "address")
				if err := pods.Put(a, 1); err != nil {
					r.Fatal(err)
				}
				there[a] = true
			},
			"delete": func(r *rapid.T) {
				a := address.Draw(r, "address")
				if err := pods.Delete(a); err != nil {
					r.Fatal(err)
				}
				delete(there, a)
			},
			"restart": func(r *rapid.T) {
				again, err := newNumbers(n.pods, n.suffixes)
				if err != nil {
					r.Fatal(err)
				}
				n, pods.Objects.numbers = again, again
			},
			"": func(r *rapid.T) {
				want := map[uint32]uint64{0: 0, 4: 0, 1020: 0, 1023: 0} // the addresses' words, and another
				for a := range there {
					word, bit := suffix(a)
					want[word] |= 1 << bit
				}
				for word, bits := range want {
					var have uint64
					if err := n.suffixes.Lookup(word, &have); err != nil || have != bits {
						r.Fatalf("word %d is %x, want %x (%v)", word, have, bits, err)
					}
				}
			},
		})
	})
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
		if frozen { // its entries cannot be changed any more
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
