package ebpf

import (
	"errors"

	"terway.dev/terway/internal/datapath/tcprog"
)

// Counters are what the programs have done since their maps were made (tcprog.Counters).
// Spoofed packets the stack counts.
func (d *Datapath) Counters() (map[string]uint64, error) {
	d.shortcuts.mu.Lock()
	defer d.shortcuts.mu.Unlock()
	if d.shortcuts.objects == nil {
		return nil, errors.New("no shortcuts are loaded")
	}
	return tcprog.Counters(d.shortcuts.objects.Maps[mapCounters])
}
