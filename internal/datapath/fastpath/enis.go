package fastpath

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath/routing"
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

// silentGateways are those whose MAC the kernel asked for without an answer, by the index of the
// ENI's device.
type silentGateways map[int][]netip.Addr

// listSilent lists them.
func listSilent(h *netlink.Handle) (silentGateways, error) {
	silent := silentGateways{}
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

// update adds or removes an ENI and returns what it did, or "".
func (e ENIs) update(silent silentGateways, eni routing.ENI) (string, error) {
	has, err := e.has(eni.Index)
	if err != nil {
		return "", err
	}
	index := uint32(eni.Index)
	quiet := slices.IndexFunc(eni.Gateways, func(a netip.Addr) bool { return slices.Contains(silent[eni.Index], a) })
	switch {
	case has && quiet >= 0:
		if err := e.Map.Delete(index); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return "", fmt.Errorf("remove %s from map %s: %w", eni.Device, MapENIs, err)
		}
		return fmt.Sprintf("took %s out of map %s: its gateway %s does not answer", eni.Device, MapENIs, eni.Gateways[quiet]), nil
	case !has && quiet < 0:
		if err := e.Inside(func() error { return e.Map.Put(index, index) }); err != nil {
			return "", fmt.Errorf("put %s into map %s: %w", eni.Device, MapENIs, err)
		}
		return fmt.Sprintf("put %s into map %s", eni.Device, MapENIs), nil
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
