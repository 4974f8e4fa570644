package instruments

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/netlinkx"
)

// Shapers returns what limits bandwidth in a network namespace: our queueing disciplines, and devices of kind ifb.
func Shapers(ctx context.Context, netns string) ([]string, error) {
	links, err := Devices(netns)
	if err != nil {
		return nil, err
	}
	ns, err := netlinkx.Enter(netns)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	h, err := ns.Handle()
	if err != nil {
		return nil, err
	}
	all, err := netlinkx.List(ctx, "the queueing disciplines in "+netns, func() ([]netlink.Qdisc, error) { return h.QdiscList(nil) })
	if err != nil {
		return nil, err
	}
	names, found := map[int]string{}, []string(nil)
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
		if l.Type() == "ifb" {
			found = append(found, "device "+l.Attrs().Name)
		}
	}
	for _, q := range all {
		major, _ := netlink.MajorMinor(q.Attrs().Handle)
		if slices.Contains([]uint16{claims.QdiscHTB, claims.QdiscTBF, claims.QdiscFQCodel, claims.QdiscFIFO}, major) {
			found = append(found, fmt.Sprintf("%s of %s", q.Type(), names[q.Attrs().LinkIndex]))
		}
	}
	slices.Sort(found)
	return found, nil
}

// endsMap is the map of datapaths ebpf and netkit with the pods of a node (docs/datapaths.md).
const endsMap = "tw_ends_1"

// EndsEntries returns how many entries of the nodes' maps of pods have one of the addresses. On datapaths without such
// maps there are none.
func EndsEntries(addrs []netip.Addr) (n int, err error) {
	for id := ebpf.MapID(0); ; {
		if id, err = ebpf.MapGetNextID(id); errors.Is(err, os.ErrNotExist) {
			return n, nil
		} else if err != nil {
			return 0, fmt.Errorf("list eBPF maps: %w", err)
		}
		m, err := ebpf.NewMapFromID(id)
		if errors.Is(err, os.ErrNotExist) {
			continue // it has gone meanwhile
		} else if err != nil {
			return 0, fmt.Errorf("open eBPF map %d: %w", id, err)
		}
		found, err := entriesOf(m, addrs)
		if err := errors.Join(err, m.Close()); err != nil {
			return 0, fmt.Errorf("read eBPF map %d: %w", id, err)
		}
		n += found
	}
}

func entriesOf(m *ebpf.Map, addrs []netip.Addr) (n int, err error) {
	info, err := m.Info()
	if err != nil || info.Name != endsMap {
		return 0, err
	}
	var slot uint32
	value := make([]byte, info.ValueSize)
	it := m.Iterate()
	for it.Next(&slot, &value) {
		// The address is the entry's first field, of 16 bytes.
		for _, a := range addrs {
			if len(value) >= 16 && bytes.Contains(value[:16], a.AsSlice()) {
				n++
			}
		}
	}
	return n, it.Err()
}
