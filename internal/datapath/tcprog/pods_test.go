package tcprog

import (
	"net/netip"
	"strings"
	"testing"

	bpf "github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/testutil"
)

func TestPruneGoesOnPastWhatItCannotRemove(t *testing.T) {
	testutil.RequireRoot(t)
	const gone = 1 << 30 // no device has this index
	for _, frozen := range []bool{false, true} {
		m, err := bpf.NewMap(&bpf.MapSpec{Type: bpf.Hash, KeySize: 16, ValueSize: 4, MaxEntries: 8})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		pods := Pods[uint32]{Map: m, Name: "pods", Device: func(v uint32) int { return int(v) }}
		for a, device := range map[string]uint32{"192.0.2.1": gone, "192.0.2.2": gone, "192.0.2.3": 1 /* lo */} {
			if err := pods.Put(netip.MustParseAddr(a), device); err != nil {
				t.Fatal(err)
			}
		}
		if frozen { // nobody can change its entries any more
			if err := m.Freeze(); err != nil {
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
