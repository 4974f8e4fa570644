package fabric

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// Names of the drop reasons, in the order of enum drop_reason.
var reasons = [...]string{
	1: "unknown-port", "down", "spoofed-mac", "spoofed-ip", "source-dest-check", "broadcast", "not-ip",
	"neighbour", "malformed", "fragment", "no-route", "mtu", "security-group", "bandwidth",
	"access-list", "hairpin",
}

// Counters are the counters of a port. A GSO frame counts as the packets that it stands for.
type Counters struct {
	OutPackets, OutBytes uint64 // delivered, sent by this ENI
	InPackets, InBytes   uint64 // delivered to this ENI
	// Drops counts frames from this ENI that were not delivered, by reason: down, spoofed-mac,
	// spoofed-ip, source-dest-check, broadcast (and multicast), not-ip, neighbour (ARP and ND
	// that are no requests), malformed, fragment, no-route, mtu, security-group (of either
	// end, or of a balancer), bandwidth (of either end), access-list (of a listener), hairpin (a
	// balancer chose the client itself). Reasons without drops are absent.
	Drops map[string]uint64
}

// Counters returns the counters of every port by ENI id; those of the fabric's own namespaces
// have the namespace's id. They start at zero when the ENI is attached.
func (f *Fabric) Counters() (map[string]Counters, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make(map[string]Counters, len(f.devices))
	if f.program == nil {
		return out, nil
	}
	for eni, d := range f.devices {
		var perCPU []programCounters
		err := f.program.Stats.Lookup(d.ifindex, &perCPU)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read the counters of ENI %s: %w", eni, err)
		}
		sum := Counters{Drops: map[string]uint64{}}
		for i := range perCPU {
			c := &perCPU[i]
			sum.OutPackets += c.OutPackets
			sum.OutBytes += c.OutBytes
			sum.InPackets += c.InPackets
			sum.InBytes += c.InBytes
			for reason, n := range c.Drops {
				if n != 0 && reasons[reason] != "" {
					sum.Drops[reasons[reason]] += n
				}
			}
		}
		out[eni] = sum
	}
	return out, nil
}

// syncStats adds zero counters for new ports and removes those of old ones.
func (f *Fabric) syncStats(want map[uint32]programPort) error {
	have := map[uint32]bool{}
	var index uint32
	var old []programCounters
	it := f.program.Stats.Iterate()
	for it.Next(&index, &old) {
		have[index] = true
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("read the map stats: %w", err)
	}
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return fmt.Errorf("count CPUs: %w", err)
	}
	for index := range want {
		if !have[index] {
			if err := f.program.Stats.Put(index, make([]programCounters, cpus)); err != nil {
				return fmt.Errorf("add port %d to the map stats: %w", index, err)
			}
		}
		delete(have, index)
	}
	for index := range have {
		if err := f.program.Stats.Delete(index); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("delete port %d from the map stats: %w", index, err)
		}
	}
	return nil
}
