package tcprog

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
)

// counterNames are in the order of enum counter in bpf/flows.h.
var counterNames = []string{"to-eni", "to-pod", "asked", "learned", "forgotten", "spoofed"}

// Counters reads the map of counters that programs with bpf/flows.h have: packets that
// left directly by an ENI, packets that went directly into a pod, packets that asked the
// host stack, flows learned from its answer, flows forgotten because their ports came up
// again in a translated connection, and packets dropped for a source that is not the pod's.
func Counters(m *ebpf.Map) (map[string]uint64, error) {
	counts := map[string]uint64{}
	for i, name := range counterNames {
		var perCPU []uint64
		if err := m.Lookup(uint32(i), &perCPU); err != nil {
			return nil, fmt.Errorf("read counter %s: %w", name, err)
		}
		for _, n := range perCPU {
			counts[name] += n
		}
	}
	return counts, nil
}

// Words are struct addr of bpf/common.h: IPv4 is mapped into IPv6, all in network byte order.
func Words(a netip.Addr) (words [4]uint32) {
	b := a.As16()
	for i := range words {
		words[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return words
}

// Addr is the address of Words.
func Addr(words [4]uint32) netip.Addr {
	var b [16]byte
	for i, w := range words {
		binary.NativeEndian.PutUint32(b[4*i:], w)
	}
	return netip.AddrFrom16(b).Unmap()
}
