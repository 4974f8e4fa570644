package ebpf

import (
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath/linkkind"
	"terway.dev/terway/internal/datapath/routing"
	"terway.dev/terway/internal/datapath/tcprog"
)

// sync is node.Kind's Sync.
func (s *shortcuts) sync(h *netlink.Handle, links []netlink.Link, enis []routing.ENI) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	again := s.objects != nil
	if !again && !s.chosen.Load() {
		if there, err := filters.Anywhere(h); err != nil || !there {
			return nil, err
		}
	}
	if err := s.load(h); err != nil {
		return nil, err
	}
	if again {
		if err := s.inside(s.objects.FollowConntrack); err != nil {
			return nil, err
		}
		// The Sync before has replaced what programs there were of another version.
		if err := s.objects.Upgrade(true); err != nil {
			return nil, err
		}
	}
	devices, err := tcprog.Devices(h)
	if err != nil {
		return nil, err
	}
	repairs, pods, err := s.table().Prune(h, links)
	errs := []error{err, s.pruneSenders(h, links)}
	wanted := s.chosen.Load() || pods > 0 || err != nil
	s.enis = map[int]bool{}
	isENI := map[int]bool{}
	silent, err := tcprog.Silent(h)
	if err != nil {
		return repairs, errors.Join(append(errs, err)...)
	}
	for _, e := range enis {
		isENI[e.Index] = true
		if !wanted {
			continue
		}
		problem, err := filters.Wrong(h, s.objects, e.Index, eniHooks)
		if err == nil && problem != "" {
			repairs = append(repairs, fmt.Sprintf("attached programs to %s: %s", e.Device, problem))
			err = s.prepareENI(h, e)
		}
		if err == nil {
			var done string
			if done, err = s.directENIs().Update(silent, e.Device, e.Index, e.Gateways); done != "" {
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
