package ebpf

import (
	"errors"

	"terway.dev/terway/internal/datapath/route"
	"terway.dev/terway/internal/datapath/tcprog"
)

// Counters are what the programs have done since their maps were made (tcprog.Counters).
func (d *Datapath) Counters() (map[string]uint64, error) {
	counts, err := d.shortcuts.counters()
	if err == nil && counts == nil {
		err = errors.New("no shortcuts are loaded")
	}
	return counts, err
}

// counters are nil while nothing is loaded.
func (s *shortcuts) counters() (map[string]uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.objects == nil {
		return nil, nil
	}
	return tcprog.Counters(s.objects.Maps[mapCounters])
}

// spoofed are those of the programs and those of the stack.
func (s *shortcuts) spoofed(core *route.Datapath) (uint64, error) {
	inStack, err := core.Spoofed()
	if err != nil {
		return 0, err
	}
	counts, err := s.counters()
	return inStack + counts["spoofed"], err
}
