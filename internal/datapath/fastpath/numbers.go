package fastpath

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
)

const (
	// MapPods is the map from a local pod's address to its number, in bpf/connection.h.
	MapPods = tablesMapTwPods2
	// mapSuffixes is the bitmap of the last two bytes of these addresses.
	mapSuffixes = tablesMapTwSuffixes1
)

// numbers assigns a number to each pod address: its index in an array, which a program reads
// without a lookup by address. Connections have the numbers of their ends, so a freed number is
// used again as late as possible.
type numbers struct {
	pods, suffixes *ebpf.Map
	// all are the assigned numbers.
	all  map[netip.Addr]uint32
	last uint32
}

// newNumbers reads the numbers from the map and writes the bitmap.
func newNumbers(pods, suffixes *ebpf.Map) (n *numbers, err error) {
	n = &numbers{pods: pods, suffixes: suffixes}
	if n.all, err = n.list(); err != nil {
		return nil, err
	}
	words := make([]uint64, suffixes.MaxEntries())
	for a, number := range n.all {
		n.last = max(n.last, number)
		word, bit := suffix(a)
		words[word] |= 1 << bit
	}
	for word, bits := range words {
		if err := n.write(uint32(word), bits); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// of returns an address's number, 0 if it has none.
func (n *numbers) of(a netip.Addr) (number uint32, err error) {
	err = n.pods.Lookup(Words(a), &number)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return 0, fmt.Errorf("read %s from map %s: %w", a, MapPods, err)
	}
	return number, nil
}

// list returns all addresses with their numbers.
func (n *numbers) list() (map[netip.Addr]uint32, error) {
	all := map[netip.Addr]uint32{}
	var key [4]uint32
	var number uint32
	it := n.pods.Iterate()
	for it.Next(&key, &number) {
		all[Addr(key)] = number
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("list map %s: %w", MapPods, err)
	}
	return all, nil
}

// suffix is the position of an address in the bitmap, as in may_be_local of bpf/connection.h.
func suffix(a netip.Addr) (word, bit uint32) {
	b := a.As16()
	end := uint32(b[15])<<8 | uint32(b[14])
	return end / 64, end % 64
}

// mark writes the word of the bitmap that an address is in.
func (n *numbers) mark(a netip.Addr) error {
	word, _ := suffix(a)
	var bits uint64
	for a := range n.all {
		if w, bit := suffix(a); w == word {
			bits |= 1 << bit
		}
	}
	return n.write(word, bits)
}

func (n *numbers) write(word uint32, bits uint64) error {
	if err := n.suffixes.Put(word, bits); err != nil {
		return fmt.Errorf("write word %d of map %s: %w", word, mapSuffixes, err)
	}
	return nil
}

// free returns an unused number below the limit.
func (n *numbers) free(limit uint32) (uint32, error) {
	used := map[uint32]bool{0: true}
	for _, number := range n.all {
		used[number] = true
	}
	for range limit {
		n.last = (n.last + 1) % limit
		if !used[n.last] {
			return n.last, nil
		}
	}
	return 0, fmt.Errorf("all %d numbers for addresses of pods are taken", limit-1)
}

// set assigns a free number to the address.
func (n *numbers) set(a netip.Addr, number uint32) error {
	n.all[a] = number
	if err := n.mark(a); err != nil {
		return err
	}
	if err := n.pods.Put(Words(a), number); err != nil {
		return fmt.Errorf("add %s to map %s: %w", a, MapPods, err)
	}
	return nil
}

// drop removes the address and frees its number.
func (n *numbers) drop(a netip.Addr) error {
	if err := n.pods.Delete(Words(a)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("remove %s from map %s: %w", a, MapPods, err)
	}
	delete(n.all, a)
	return n.mark(a)
}
