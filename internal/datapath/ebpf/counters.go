package ebpf

import (
	"errors"

	"terway.dev/terway/internal/datapath/tcprog"
)

// Counters are what the programs have done since their maps were made (tcprog.Objects.Counters).
func (k *Kind) Counters() (map[string]uint64, error) {
	counts, err := k.shortcuts.counters()
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
	return s.objects.Counters()
}

// Spoofed implements node.Kind.
func (k *Kind) Spoofed() (uint64, error) {
	counts, err := k.shortcuts.counters()
	return counts["spoofed"], err
}

// Room says how many connections are remembered.
func (k *Kind) Room() string { return tcprog.Room(k.shortcuts.connections) }
