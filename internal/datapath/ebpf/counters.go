package ebpf

import (
	"errors"

	"terway.dev/terway/internal/datapath/fastpath"
)

// Counters returns fastpath.Objects.Counters, an error if nothing is loaded.
func (k *Kind) Counters() (map[string]uint64, error) {
	counts, err := k.fast.Counters()
	if err == nil && counts == nil {
		err = errors.New("no programs are loaded")
	}
	return counts, err
}

// Spoofed implements node.Kind.
func (k *Kind) Spoofed() (uint64, error) {
	counts, err := k.fast.Counters()
	return counts["spoofed"], err
}

// Room describes the size of the connection tables.
func (k *Kind) Room() string { return fastpath.Room(k.fast.Connections) }
