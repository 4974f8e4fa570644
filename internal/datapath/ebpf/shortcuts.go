package ebpf

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath/fastpath"
	"terway.dev/terway/internal/datapath/linkkind"
	"terway.dev/terway/internal/datapath/routing"
	"terway.dev/terway/internal/datapath/tcfilter"
)

// shortcuts are the programs and maps of a node, and the devices that have them.
//
// The map of pods gives a pod's address the fast path, and the map of senders makes its device
// refuse other sources; a filter without entries does nothing. So a pod's entries are deleted
// first, and a pod without entries takes the slow path.
type shortcuts struct {
	fastpath.Loader
	// chosen: new pods of the node are of this kind, so its ENIs have programs before the first
	// pod.
	chosen atomic.Bool
	// enis are those known to have their programs. The lock guards them too.
	enis map[int]bool
}

func newShortcuts(connections int) *shortcuts {
	return &shortcuts{
		Loader: fastpath.Loader{Filters: filters, Connections: connections, Open: load, Upgrade: upgrade}, enis: map[int]bool{},
	}
}

// problemOf returns the first problem of an ENI, or "".
func (s *shortcuts) problemOf(h *netlink.Handle, eni routing.ENI) (string, error) {
	s.Lock()
	defer s.Unlock()
	if err := s.Load(h); err != nil {
		return "", err
	}
	return s.eniProblem(h, eni)
}

// teardown removes the programs from ENIs and devices that are not pods'.
func (s *shortcuts) teardown(h *netlink.Handle, links []netlink.Link) error {
	s.Lock()
	defer s.Unlock()
	clear(s.enis)
	devices, err := tcfilter.Devices(h)
	errs := []error{err}
	for _, l := range links {
		if !slices.Contains(devices, l.Attrs().Index) || linkkind.IsPodDevice(l) {
			continue
		}
		if err := filters.Uninstall(h, l.Attrs().Index); err != nil {
			errs = append(errs, fmt.Errorf("device %s: %w", l.Attrs().Name, err))
		}
	}
	return errors.Join(append(errs, s.Unload())...)
}
