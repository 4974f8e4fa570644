package ebpf

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	bpf "github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath/route"
	"terway.dev/terway/internal/datapath/tcprog"
)

// Sync implements route.Extension.
func (s *shortcuts) Sync(h *netlink.Handle, links []netlink.Link, enis []route.ENIPlace) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	devices, err := tcprog.Devices(h)
	if err != nil {
		return nil, err
	}
	if s.objects == nil && !s.chosen.Load() && len(devices) == 0 {
		return nil, nil
	}
	if err := s.load(h); err != nil {
		return nil, err
	}
	repairs, err := s.prune(h, links)
	errs := []error{err}
	pods, err := s.list()
	errs = append(errs, err)
	wanted := s.chosen.Load() || len(pods) > 0 || err != nil
	s.enis = map[int]bool{}
	isENI := map[int]bool{}
	for _, e := range enis {
		isENI[e.Index] = true
		if !wanted {
			continue
		}
		problem, err := filters.Wrong(h, s.objects, e.Index, eniHooks)
		if err == nil && problem != "" {
			repairs = append(repairs, fmt.Sprintf("attached programs to %s: %s", e.Device, problem))
			err = filters.Attach(h, s.objects, e.Index, eniHooks)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("ENI device %s: %w", e.Device, err))
			continue
		}
		s.enis[e.Index] = true
	}
	for _, l := range links {
		index := l.Attrs().Index
		if !slices.Contains(devices, index) || route.IsPodDevice(l) || isENI[index] && wanted {
			continue
		}
		found, err := filters.Detach(h, index)
		if err != nil {
			errs = append(errs, fmt.Errorf("device %s: %w", l.Attrs().Name, err))
		}
		if found {
			repairs = append(repairs, "removed programs from "+l.Attrs().Name)
		}
	}
	return repairs, errors.Join(errs...)
}

// prune removes addresses whose device is gone.
func (s *shortcuts) prune(h *netlink.Handle, links []netlink.Link) ([]string, error) {
	pods, err := s.list()
	if err != nil {
		return nil, err
	}
	there := map[int]bool{}
	for _, l := range links {
		there[l.Attrs().Index] = true
	}
	var repairs []string
	for _, a := range slices.SortedFunc(maps.Keys(pods), netip.Addr.Compare) {
		index := int(pods[a].Ifindex)
		if there[index] || exists(h, index) {
			continue
		}
		if err := s.table().Delete(addrKey(a)); err != nil && !errors.Is(err, bpf.ErrKeyNotExist) {
			return repairs, fmt.Errorf("remove %s from map %s: %w", a, mapPods, err)
		}
		repairs = append(repairs, fmt.Sprintf("removed %s from map %s: its device is gone", a, mapPods))
	}
	return repairs, nil
}

func exists(h *netlink.Handle, index int) bool {
	_, err := h.LinkByIndex(index)
	var missing netlink.LinkNotFoundError
	return !errors.As(err, &missing)
}

// list is what the map of pods holds. The caller holds mu.
func (s *shortcuts) list() (map[netip.Addr]shortcutPod, error) {
	pods := map[netip.Addr]shortcutPod{}
	var key shortcutAddr
	var value shortcutPod
	it := s.table().Iterate()
	for it.Next(&key, &value) {
		pods[addrOf(key)] = value
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("list map %s: %w", mapPods, err)
	}
	return pods, nil
}
