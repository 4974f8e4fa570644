package bpfobj

import (
	"encoding/binary"
	"fmt"

	"github.com/cilium/ebpf"
)

// mapDesk has for each processor what programs work with: a Tally is first.
const mapDesk = "tw_desk_3"

// Tally is struct tally of bpf/flows.h: what a processor has counted.
type Tally struct {
	// Denied are dropped packets: for ingress, and for egress.
	Denied [2]uint64
	// Spoofed are packets that programs without a map of counters dropped for their source.
	Spoofed uint64
	// Full, Pace and Rule are what was not told (enum unsaid).
	Full, Pace, Rule uint64
	// Told are events that are not urgent, and those that are: in the period that began at Since.
	Told [2]struct{ Since, Told uint64 }
}

// Tallies reads those of all processors.
func Tallies(kernel map[string]*ebpf.Map) ([]Tally, error) {
	m := kernel[mapDesk]
	if m == nil {
		return nil, fmt.Errorf("map %s is not there", mapDesk)
	}
	desks, err := m.LookupBytes(uint32(0))
	if err != nil {
		return nil, fmt.Errorf("read map %s: %w", mapDesk, err)
	}
	list := make([]Tally, ebpf.MustPossibleCPU())
	for i, size := 0, len(desks)/len(list); i < len(list); i++ {
		if _, err := binary.Decode(desks[i*size:], binary.NativeEndian, &list[i]); err != nil {
			return nil, fmt.Errorf("read map %s: %w", mapDesk, err)
		}
	}
	return list, nil
}
