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

// MapENIs is the map of ENIs that the fast path may send by, in bpf/connection.h. An ENI is in it
// while its device exists, which the kernel sees to, and while its gateways answer ARP and ND:
// otherwise packets take the slow path, where the host stack reports that the destination is
// unreachable. Sync updates the map. CHECK ignores it: packets of a pod whose ENI is not in it take
// the slow path and arrive.
const MapENIs = "tw_enis_1"

// PrepareENI attaches the programs of an ENI and adds it to the map of ENIs, or removes it, as its
// gateways answered at the last Sync. It returns what it repaired.
func (l *Loader) PrepareENI(h *netlink.Handle, e routing.ENI) (repairs []string, err error) {
	problem, err := l.Filters.Problem(h, l.Objects.Objects, e.Index, l.ENIHooks)
	if err != nil {
		return nil, err
	}
	if problem != "" {
		b, err := l.Batch()
		if err != nil {
			return nil, err
		}
		if err := l.Filters.Attach(b, l.Objects.Objects, e.Index, l.ENIHooks); err != nil {
			return nil, err
		}
		repairs = append(repairs, fmt.Sprintf("attached programs to %s: %s", e.Device, problem))
	}
	done, err := l.updateENI(e)
	if done != "" && problem == "" { // else it is part of the same repair
		repairs = append(repairs, done)
	}
	return repairs, err
}

// ENIProblem returns the first problem of an ENI's programs, or "".
func (l *Loader) ENIProblem(h *netlink.Handle, e routing.ENI) (string, error) {
	objects, err := l.Loaded(h)
	if err != nil {
		return "", err
	}
	problem, err := l.Filters.Problem(h, objects, e.Index, l.ENIHooks)
	if err != nil || problem == "" {
		return "", err
	}
	return e.Device + ": " + problem, nil
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

// updateENI adds an ENI to the map or removes it, and returns what it did, or "".
func (l *Loader) updateENI(e routing.ENI) (string, error) {
	enis, index := l.Objects.Maps[MapENIs], uint32(e.Index)
	var value uint32
	err := enis.Lookup(index, &value)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return "", fmt.Errorf("read map %s: %w", MapENIs, err)
	}
	has := err == nil
	quiet := slices.IndexFunc(e.Gateways, func(a netip.Addr) bool { return slices.Contains(l.silent[e.Index], a) })
	switch {
	case has && quiet >= 0:
		if err := enis.Delete(index); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return "", fmt.Errorf("remove %s from map %s: %w", e.Device, MapENIs, err)
		}
		return fmt.Sprintf("took %s out of map %s: its gateway %s does not answer", e.Device, MapENIs, e.Gateways[quiet]), nil
	case !has && quiet < 0:
		// The kernel looks the device up in the caller's namespace.
		if err := l.Inside(func() error { return enis.Put(index, index) }); err != nil {
			return "", fmt.Errorf("put %s into map %s: %w", e.Device, MapENIs, err)
		}
		return fmt.Sprintf("put %s into map %s", e.Device, MapENIs), nil
	}
	return "", nil
}
