package ebpf

import (
	"errors"
	"fmt"
)

// counterNames are in the order of enum counter in bpf/flows.h.
var counterNames = []string{"to-eni", "to-pod", "asked", "learned", "forgotten", "spoofed"}

// Counters are what the programs have done since their maps were made: packets that
// left directly by an ENI, packets that went directly into a pod, packets that asked
// the host stack, flows learned from its answer, and flows forgotten because
// their ports came up again in a translated connection. Spoofed packets the stack counts.
func (d *Datapath) Counters() (map[string]uint64, error) {
	d.shortcuts.mu.Lock()
	defer d.shortcuts.mu.Unlock()
	if d.shortcuts.objects == nil {
		return nil, errors.New("no shortcuts are loaded")
	}
	counts := map[string]uint64{}
	for i, name := range counterNames {
		var perCPU []uint64
		if err := d.shortcuts.objects.Maps[mapCounters].Lookup(uint32(i), &perCPU); err != nil {
			return nil, fmt.Errorf("read counter %s: %w", name, err)
		}
		for _, n := range perCPU {
			counts[name] += n
		}
	}
	return counts, nil
}
