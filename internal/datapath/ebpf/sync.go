package ebpf

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/linkkind"
	"terway.dev/terway/internal/datapath/routing"
)

// isOwnPod reports whether a pod's device may have the programs for pods.
func isOwnPod(l netlink.Link) bool {
	return linkkind.IsPodDevice(l) && l.Attrs().Group != claims.GroupExclusive
}

// sync implements node.Kind's Sync.
func (s *fastPath) sync(h *netlink.Handle, links []netlink.Link, enis []routing.ENI) ([]string, error) {
	s.Lock()
	defer s.Unlock()
	if there, err := s.Refresh(h, s.chosen.Load() || s.policed); err != nil || !there {
		return nil, err
	}
	repairs, pods, err := s.table().Prune(h, links)
	errs := []error{err, s.pruneSenders(h, links)}
	wanted := s.chosen.Load() || s.policed || pods > 0 || err != nil
	clear(s.enis)
	isENI := map[int]bool{}
	for _, e := range enis {
		if isENI[e.Index] = wanted; !wanted {
			continue
		}
		r, err := s.PrepareENI(h, e)
		repairs = append(repairs, r...)
		if err != nil {
			errs = append(errs, fmt.Errorf("ENI device %s: %w", e.Device, err))
		}
		s.enis[e.Index] = err == nil
	}
	guarded := map[int]bool{}
	if s.policed {
		r, err := s.guard(h, links, isENI, guarded)
		repairs, errs = append(repairs, r...), append(errs, err)
	}
	r, err := filters.Sweep(h, links, func(l netlink.Link) bool {
		return isOwnPod(l) || isENI[l.Attrs().Index] || guarded[l.Attrs().Index]
	}, false)
	return append(repairs, r...), errors.Join(append(errs, err)...)
}
