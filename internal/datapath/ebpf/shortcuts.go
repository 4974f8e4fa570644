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

// shortcuts are the programs and maps of a node, and which devices have them.
//
// The map of pods is what makes a pod's address take part, and the map of senders what
// makes its device accept nothing else; a filter without entries does nothing. So entries
// go first when a pod goes, and a pod whose entries are lost is served by the stack.
type shortcuts struct {
	fastpath.Loader
	// chosen: the node's datapath is ebpf, so its ENIs have their programs before the
	// first pod comes.
	chosen atomic.Bool
	// enis have their programs, as far as we know. The lock guards them too.
	enis map[int]bool
}

func newShortcuts(connections int) *shortcuts {
	return &shortcuts{
		Loader: fastpath.Loader{Filters: filters, Connections: connections, Open: load, Upgrade: upgrade}, enis: map[int]bool{},
	}
}

// problemOf names the first piece of an ENI that is missing or wrong, or "".
func (s *shortcuts) problemOf(h *netlink.Handle, eni routing.ENI) (string, error) {
	s.Lock()
	defer s.Unlock()
	if err := s.Load(h); err != nil {
		return "", err
	}
	return s.eniProblem(h, eni)
}

// teardown removes every trace from ENIs and others' devices.
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
