package fastpath

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath/routing"
	"terway.dev/terway/internal/netlinkx"
)

// MapENIs is the map of ENIs that the fast path may send by, in bpf/connection.h. An ENI is in it
// while its device exists, which the kernel sees to, and unless one of its gateways does not answer
// ARP or ND: then packets take the slow path, where the host stack reports that the destination is
// unreachable. A gateway that is being asked does not count: the kernel keeps packets of both paths
// for the answer. Sync updates the map. CHECK ignores it: packets of a pod whose ENI is not in it
// take the slow path and arrive.
const MapENIs = tablesMapTwEnis1

// PrepareENI attaches the programs of an ENI and adds it to the map of ENIs, or removes it, as its
// gateways answered at the last Sync. It returns what it repaired.
func (l *Loader) PrepareENI(h *netlink.Handle, e routing.ENI) (repairs []string, err error) {
	problem, err := l.Filters.Problem(h, l.Objects.Objects, e.Index, l.ENIHooks)
	if err != nil {
		return nil, err
	}
	if problem != "" {
		b, err := l.Node.Batch()
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

// ENIProblem implements node.Kind: it returns the first problem of an ENI's programs, or "".
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

// silentGateways are those that do not answer, by the index of the ENI's device.
type silentGateways map[int][]netip.Addr

// asking is how long the kernel asks for a MAC before the neighbour is FAILED: three requests, one
// second apart (mcast_solicit, retrans_time_ms).
const asking = 3 * time.Second

// waits are the gateways without a MAC, and since when: the zero Time if the kernel has given one
// up. Packets make the kernel ask again, so a dead gateway is mostly INCOMPLETE, like a new one.
type waits map[gateway]time.Time

type gateway struct {
	eni     int
	address netip.Addr
}

// silent notes the neighbours without a MAC, by state, and returns those that do not answer: FAILED
// ones, INCOMPLETE ones that were FAILED and have had no MAC since, and those that have been
// INCOMPLETE for longer than one answer takes.
func (w *waits) silent(states map[gateway]int, now time.Time) silentGateways {
	list, next := silentGateways{}, waits{}
	for g, state := range states {
		since, ok := (*w)[g]
		switch {
		case state&netlink.NUD_FAILED != 0:
			since = time.Time{}
		case state&netlink.NUD_INCOMPLETE == 0:
			continue
		case !ok:
			since = now
		}
		next[g] = since
		if now.Sub(since) > asking {
			list[g.eni] = append(list[g.eni], g.address)
		}
	}
	*w = next
	return list
}

// neighbours returns the states of the node's neighbours.
func neighbours(h *netlink.Handle) (map[gateway]int, error) {
	states := map[gateway]int{}
	for _, family := range netlinkx.Families {
		list, err := netlinkx.List(context.Background(), "neighbours", func() ([]netlink.Neigh, error) { return h.NeighList(0, family) })
		if err != nil && !netlinkx.NoFamily(err) {
			return nil, err
		}
		for _, n := range list {
			if a := netlinkx.Addr(n.IP); a.IsValid() {
				states[gateway{n.LinkIndex, a}] = n.State
			}
		}
	}
	return states, nil
}

// updateENI adds an ENI to the map or removes it, and returns what it did, or "".
func (l *Loader) updateENI(e routing.ENI) (string, error) {
	if !l.Objects.Direct() {
		return "", nil
	}
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
		if err := l.Node.Inside(func() error { return enis.Put(index, index) }); err != nil {
			return "", fmt.Errorf("put %s into map %s: %w", e.Device, MapENIs, err)
		}
		return fmt.Sprintf("put %s into map %s", e.Device, MapENIs), nil
	}
	return "", nil
}
