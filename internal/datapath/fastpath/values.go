package fastpath

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// mapCounters is the map of counters.
const mapCounters = tablesMapTwCounters1

// countersOf returns the names of enum counter in bpf/connection.h, the type of the map's keys:
// TO_ENI becomes to-eni.
func countersOf(spec *ebpf.CollectionSpec) ([]string, error) {
	m := spec.Maps[mapCounters]
	if m == nil {
		return nil, fmt.Errorf("the programs have no map %s", mapCounters)
	}
	enum, ok := m.Key.(*btf.Enum)
	if !ok {
		return nil, fmt.Errorf("the keys of map %s are %v, want an enum", mapCounters, m.Key)
	}
	names := make([]string, m.MaxEntries)
	for _, v := range enum.Values {
		if v.Value < uint64(len(names)) { // the last one is the number of counters
			names[v.Value] = strings.ToLower(strings.ReplaceAll(v.Name, "_", "-"))
		}
	}
	return names, nil
}

// Counters returns the counts since the map was made, by name: packets that the fast path sent by
// an ENI (to-eni) and into a pod (to-pod), packets on the slow path (asked), connections that moved
// to the fast path (learned), connections whose ports came up again in a translated one
// (forgotten), packets dropped for a source that is not the pod's (spoofed).
func (o *Objects) Counters() (map[string]uint64, error) {
	counts := map[string]uint64{}
	for i, name := range o.counters {
		var perCPU []uint64
		if err := o.Maps[mapCounters].Lookup(uint32(i), &perCPU); err != nil {
			return nil, fmt.Errorf("read counter %s: %w", name, err)
		}
		for _, n := range perCPU {
			counts[name] += n
		}
	}
	return counts, nil
}

// Words returns struct addr of bpf/common.h: IPv4 is mapped into IPv6, in network byte order.
func Words(a netip.Addr) (words [4]uint32) {
	b := a.As16()
	for i := range words {
		words[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return words
}

// Addr is the inverse of Words.
func Addr(words [4]uint32) netip.Addr {
	var b [16]byte
	for i, w := range words {
		binary.NativeEndian.PutUint32(b[4*i:], w)
	}
	return netip.AddrFrom16(b).Unmap()
}
