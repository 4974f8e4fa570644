package ebpf

import (
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath/fastpath"
	"terway.dev/terway/internal/datapath/linkkind"
	"terway.dev/terway/internal/datapath/routing"
	"terway.dev/terway/internal/datapath/tcfilter"
)

// sync implements node.Kind's Sync.
func (s *shortcuts) sync(h *netlink.Handle, links []netlink.Link, enis []routing.ENI) ([]string, error) {
	s.Lock()
	defer s.Unlock()
	if there, err := s.Refresh(h, s.chosen.Load()); err != nil || !there {
		return nil, err
	}
	devices, err := tcfilter.Devices(h)
	if err != nil {
		return nil, err
	}
	repairs, pods, err := s.table().Prune(h, links)
	errs := []error{err, s.pruneSenders(h, links)}
	wanted := s.chosen.Load() || pods > 0 || err != nil
	clear(s.enis)
	isENI := map[int]bool{}
	silent, err := fastpath.Silent(h)
	if err != nil {
		return repairs, errors.Join(append(errs, err)...)
	}
	for _, e := range enis {
		isENI[e.Index] = true
		if !wanted {
			continue
		}
		problem, err := filters.Wrong(h, s.Objects.Objects, e.Index, eniHooks)
		if err == nil && problem != "" {
			repairs = append(repairs, fmt.Sprintf("attached programs to %s: %s", e.Device, problem))
			err = s.prepareENI(h, e)
		}
		if err == nil {
			var done string
			if done, err = s.ENIs().Update(silent, e.Device, e.Index, e.Gateways); done != "" {
				repairs = append(repairs, done)
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("ENI device %s: %w", e.Device, err))
			continue
		}
		s.enis[e.Index] = true
	}
	for _, l := range links {
		index := l.Attrs().Index
		if !slices.Contains(devices, index) || linkkind.IsPodDevice(l) || isENI[index] && wanted {
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
