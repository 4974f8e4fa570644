package ebpf

import (
	"errors"

	"terway.dev/terway/internal/datapath/fastpath"
)

// Counters are what the programs have done since their maps were made (fastpath.Objects.Counters).
func (k *Kind) Counters() (map[string]uint64, error) {
	counts, err := k.shortcuts.Counters()
	if err == nil && counts == nil {
		err = errors.New("no shortcuts are loaded")
	}
	return counts, err
}

// Spoofed implements node.Kind.
func (k *Kind) Spoofed() (uint64, error) {
	counts, err := k.shortcuts.Counters()
	return counts["spoofed"], err
}

// Room says how many connections are remembered.
func (k *Kind) Room() string { return fastpath.Room(k.shortcuts.Connections) }
