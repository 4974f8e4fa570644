package fastpath

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/netlinkx"
)

// MapENIs is the map of ENIs that the fast path may send by, in bpf/connection.h.
const MapENIs = "tw_enis_1"

// ENIs writes that map. An ENI is in it while its device exists, which the kernel sees to, and
// while its gateways answer ARP and ND: otherwise packets take the slow path, where the host stack
// reports that the destination is unreachable. Sync updates the map. CHECK ignores it: packets of a
// pod whose ENI is not in it take the slow path and arrive.
type ENIs struct {
	Map *ebpf.Map
	// Inside runs a function in the node's namespace: the kernel looks the device up in the
	// caller's namespace.
	Inside func(func() error) error
}

// Gateways are those whose MAC the kernel asked for without an answer, by the index of the ENI's
// device.
type Gateways map[int][]netip.Addr

// Silent lists them.
func Silent(h *netlink.Handle) (Gateways, error) {
	silent := Gateways{}
	for _, family := range netlinkx.Families {
		neighbours, err := netlinkx.List(context.Background(), "neighbours", func() ([]netlink.Neigh, error) { return h.NeighList(0, family) })
		if err != nil && !netlinkx.NoFamily(err) {
			return nil, err
		}
		for _, n := range neighbours {
			// A request without an answer yet counts too: its connections take the slow path until
			// the next Sync.
			if a := netlinkx.Addr(n.IP); a.IsValid() && n.State&(netlink.NUD_INCOMPLETE|netlink.NUD_FAILED) != 0 {
				silent[n.LinkIndex] = append(silent[n.LinkIndex], a)
			}
		}
	}
	return silent, nil
}

// of returns the first of an ENI's gateways that does not answer, or the zero Addr.
func (g Gateways) of(index int, gateways []netip.Addr) netip.Addr {
	for _, a := range g[index] {
		if slices.Contains(gateways, a) {
			return a
		}
	}
	return netip.Addr{}
}

// Update adds or removes an ENI and returns what it did, or "".
func (e ENIs) Update(silent Gateways, device string, index int, gateways []netip.Addr) (string, error) {
	has, err := e.has(index)
	if err != nil {
		return "", err
	}
	quiet := silent.of(index, gateways)
	switch {
	case has && quiet.IsValid():
		if err := e.Map.Delete(uint32(index)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return "", fmt.Errorf("remove %s from map %s: %w", device, MapENIs, err)
		}
		return fmt.Sprintf("took %s out of map %s: its gateway %s does not answer", device, MapENIs, quiet), nil
	case !has && !quiet.IsValid():
		if err := e.Inside(func() error { return e.Map.Put(uint32(index), uint32(index)) }); err != nil {
			return "", fmt.Errorf("put %s into map %s: %w", device, MapENIs, err)
		}
		return fmt.Sprintf("put %s into map %s", device, MapENIs), nil
	}
	return "", nil
}

func (e ENIs) has(index int) (bool, error) {
	var value uint32
	err := e.Map.Lookup(uint32(index), &value)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return false, fmt.Errorf("read map %s: %w", MapENIs, err)
	}
	return err == nil, nil
}
