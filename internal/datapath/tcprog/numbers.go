package tcprog

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
)

// MapPods is the map in bpf/connection.h from a local pod's address to its number.
const MapPods = "tw_pods_2"

// numbers gives addresses of pods their numbers: places in an array that a program reads
// without a search. Connections note them, so one that has become free is given out as
// late as can be.
type numbers struct {
	m *ebpf.Map
	// used are those that are given out, nil as long as nobody has looked.
	used map[uint32]bool
	last uint32
}

// of is an address's number, 0 if it has none.
func (n *numbers) of(a netip.Addr) (number uint32, err error) {
	err = n.m.Lookup(Words(a), &number)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return 0, fmt.Errorf("read %s from map %s: %w", a, MapPods, err)
	}
	return number, nil
}

// list is all addresses that have numbers.
func (n *numbers) list() (map[netip.Addr]uint32, error) {
	all := map[netip.Addr]uint32{}
	var key [4]uint32
	var number uint32
	it := n.m.Iterate()
	for it.Next(&key, &number) {
		all[Addr(key)] = number
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("list map %s: %w", MapPods, err)
	}
	return all, nil
}

// free chooses a number below the limit that nobody has.
func (n *numbers) free(limit uint32) (uint32, error) {
	if n.used == nil {
		all, err := n.list()
		if err != nil {
			return 0, err
		}
		n.used = map[uint32]bool{0: true}
		for _, number := range all {
			n.used[number] = true
			n.last = max(n.last, number)
		}
	}
	for range limit {
		n.last = (n.last + 1) % limit
		if !n.used[n.last] {
			return n.last, nil
		}
	}
	return 0, fmt.Errorf("all %d numbers for addresses of pods are taken", limit-1)
}

// set gives the address a number that was free.
func (n *numbers) set(a netip.Addr, number uint32) error {
	if err := n.m.Put(Words(a), number); err != nil {
		return fmt.Errorf("add %s to map %s: %w", a, MapPods, err)
	}
	if n.used != nil {
		n.used[number] = true
	}
	return nil
}

// drop takes the address's number back.
func (n *numbers) drop(a netip.Addr, number uint32) error {
	if err := n.m.Delete(Words(a)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("remove %s from map %s: %w", a, MapPods, err)
	}
	delete(n.used, number)
	return nil
}
