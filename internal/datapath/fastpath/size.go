package fastpath

import (
	"fmt"
	"runtime"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Sizes is how many connections a node remembers.
type Sizes struct {
	// Known are those whose handshake was seen, Pending those before.
	Known4, Known6, Pending4, Pending6 uint32
}

const (
	// perCore and least are as in kube-proxy's conntrack.maxPerCore and conntrack.min.
	perCore = 32768
	least   = 131072
	// entry is what a connection takes in bytes, at most: the kernel's element (48), key,
	// value, and its part of the hash table.
	entry = 128
	// share is the part of the machine's memory that they may take.
	share = 128
)

// SizesOf makes sizes of the number of IPv4 connections that are known at a time. IPv6 gets a
// quarter of the room. Pending ones, which live for a round trip or as long as nobody answers,
// get an eighth of each, and not less than the kernel's lists of free entries, one for each
// core, can hold back.
func SizesOf(connections int) Sizes {
	s := Sizes{Known4: uint32(connections), Known6: uint32(max(connections/4, 1024))}
	s.Pending4, s.Pending6 = max(s.Known4/8, 1024), max(s.Known6/8, 1024)
	return s
}

// SizesFor are SizesOf the number, or by the machine's cores and memory if it is 0.
func SizesFor(number int) (Sizes, error) {
	if number != 0 {
		return SizesOf(number), nil
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return Sizes{}, fmt.Errorf("ask for the machine's memory: %w", err)
	}
	return SizesOf(connections(runtime.NumCPU(), info.Totalram*uint64(info.Unit))), nil
}

// connections are as many as kube-proxy lets conntrack have, and no more than a part of the
// memory holds.
func connections(cores int, memory uint64) int {
	return int(min(uint64(max(cores*perCore, least)), memory/share/entry))
}

// set sets the sizes of a specification's maps.
func (s Sizes) set(spec *ebpf.CollectionSpec) {
	spec.Maps["tw_known4_1"].MaxEntries, spec.Maps["tw_known6_1"].MaxEntries = s.Known4, s.Known6
	spec.Maps["tw_pending4_1"].MaxEntries, spec.Maps["tw_pending6_1"].MaxEntries = s.Pending4, s.Pending6
}

// String is for people.
func (s Sizes) String() string {
	return fmt.Sprintf("it remembers up to %d IPv4 and %d IPv6 connections, and %d and %d more that are not established",
		s.Known4, s.Known6, s.Pending4, s.Pending6)
}

// Room is SizesFor the number, for people.
func Room(connections int) string {
	s, err := SizesFor(connections)
	if err != nil {
		return err.Error()
	}
	return s.String()
}
