package fastpath

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"go4.org/netipx"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/netlinkx"
)

// MapENIs is the map in bpf/connection.h of ENIs by which packets may leave directly.
const MapENIs = "tw_enis_1"

// ENIs is that map. An ENI is in it as long as its device is there, of which the kernel
// takes care, and none of its gateways is silent: what goes through the host stack then is
// told so. Sync keeps it; CHECK says nothing of it, because a pod whose ENI is not in it
// lacks nothing: its packets take the longer way, for a while after its gateway is back, too.
type ENIs struct {
	Map *ebpf.Map
	// Inside runs a function in the node's namespace: the kernel looks for the device in
	// the caller's.
	Inside func(func() error) error
}

// Gateways that were asked for their MAC and have not answered, by ENI device.
type Gateways map[int][]netip.Addr

// Silent lists them.
func Silent(h *netlink.Handle) (Gateways, error) {
	silent := Gateways{}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		neighbours, err := netlinkx.List(context.Background(), "neighbours", func() ([]netlink.Neigh, error) { return h.NeighList(0, family) })
		if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, err
		}
		for _, n := range neighbours {
			// A question that is being asked just now counts too: it keeps its flows with
			// the stack until the next look.
			if a, ok := netipx.FromStdIP(n.IP); ok && n.State&(netlink.NUD_INCOMPLETE|netlink.NUD_FAILED) != 0 {
				silent[n.LinkIndex] = append(silent[n.LinkIndex], a)
			}
		}
	}
	return silent, nil
}

// of is the first of an ENI's gateways that is silent, or the zero Addr.
func (g Gateways) of(index int, gateways []netip.Addr) netip.Addr {
	for _, a := range g[index] {
		for _, gateway := range gateways {
			if a == gateway {
				return a
			}
		}
	}
	return netip.Addr{}
}

// Update puts an ENI in or takes it out, and says what it did, or "".
func (e ENIs) Update(silent Gateways, device string, index int, gateways []netip.Addr) (string, error) {
	has, err := e.has(index)
	if err != nil {
		return "", err
	}
	quiet := silent.of(index, gateways)
	switch {
	case has && quiet.IsValid():
		if err := e.Map.Delete(uint32(index)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return "", fmt.Errorf("take %s out of map %s: %w", device, MapENIs, err)
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
