package fastpath

import (
	"fmt"
	"runtime"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Sizes are the numbers of entries of the connection tables.
type Sizes struct {
	// Known connections have completed a handshake, Pending ones have not.
	Known4, Known6, Pending4, Pending6 uint32
}

const (
	// perCore and least are as in kube-proxy's conntrack.maxPerCore and conntrack.min.
	perCore = 32768
	least   = 131072
	// entry is the size of a connection in bytes, at most: the kernel's element (48), key, value
	// and its part of the hash table.
	entry = 128
	// share is the part of the machine's memory for the tables, as a divisor.
	share = 128
)

// SizesOf returns sizes for this number of known IPv4 connections. IPv6 gets a quarter. Pending
// connections, which live for a round trip or without an answer, get an eighth of each, and at
// least as much as the kernel's free lists, one for each core, can hold back.
func SizesOf(connections int) Sizes {
	s := Sizes{Known4: uint32(connections), Known6: uint32(max(connections/4, 1024))}
	s.Pending4, s.Pending6 = max(s.Known4/8, 1024), max(s.Known6/8, 1024)
	return s
}

// SizesFor returns SizesOf the number, or sizes by the machine's cores and memory if it is 0.
func SizesFor(number int) (Sizes, error) {
	if number != 0 {
		return SizesOf(number), nil
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return Sizes{}, fmt.Errorf("read the machine's memory: %w", err)
	}
	return SizesOf(connections(runtime.NumCPU(), info.Totalram*uint64(info.Unit))), nil
}

// connections returns kube-proxy's size of the conntrack table, limited by a part of the memory.
func connections(cores int, memory uint64) int {
	return int(min(uint64(max(cores*perCore, least)), memory/share/entry))
}

// set writes the sizes into a specification.
func (s Sizes) set(spec *ebpf.CollectionSpec) {
	spec.Maps[MapKnown4].MaxEntries, spec.Maps[MapKnown6].MaxEntries = s.Known4, s.Known6
	spec.Maps[MapPending4].MaxEntries, spec.Maps[MapPending6].MaxEntries = s.Pending4, s.Pending6
}

// String describes the sizes for people.
func (s Sizes) String() string {
	return fmt.Sprintf("it remembers up to %d IPv4 and %d IPv6 connections, and %d and %d more that are not established",
		s.Known4, s.Known6, s.Pending4, s.Pending6)
}
