package ebpf

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath/linkkind"
	"terway.dev/terway/internal/datapath/routing"
	"terway.dev/terway/internal/datapath/tcprog"
)

// shortcuts are the programs and maps of a node, and which devices have them.
//
// The map of pods is what makes a pod's address take part, and the map of senders what
// makes its device accept nothing else; a filter without entries does nothing. So entries
// go first when a pod goes, and a pod whose entries are lost is served by the stack.
type shortcuts struct {
	connections int
	// inside runs a function in the node's namespace.
	inside func(func() error) error
	// chosen: the node's datapath is ebpf, so its ENIs have their programs before the
	// first pod comes.
	chosen atomic.Bool

	// mu guards all below and makes changes of the map of pods follow each other.
	mu sync.Mutex
	// objects is nil until they are needed.
	objects *tcprog.Objects
	// enis have their programs, as far as we know.
	enis map[int]bool
}

// load loads the programs once. The maps of an agent that ran before are found by what
// it left on the devices. The caller holds mu.
func (s *shortcuts) load(h *netlink.Handle) error {
	if s.objects != nil {
		return nil
	}
	sizes, err := tcprog.SizesFor(s.connections)
	if err != nil {
		return err
	}
	o, err := load(h, sizes)
	if err != nil {
		return err
	}
	if err := errors.Join(s.inside(o.FollowConntrack), upgrade(o)); err != nil {
		return errors.Join(err, o.Close())
	}
	s.objects, s.enis = o, map[int]bool{}
	return nil
}

// problemOf names the first piece of an ENI that is missing or wrong, or "".
func (s *shortcuts) problemOf(h *netlink.Handle, eni routing.ENI) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(h); err != nil {
		return "", err
	}
	return s.eniProblem(h, eni)
}

// teardown removes every trace from ENIs and others' devices.
func (s *shortcuts) teardown(h *netlink.Handle, links []netlink.Link) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	devices, err := tcprog.Devices(h)
	errs := []error{err}
	for _, l := range links {
		if !slices.Contains(devices, l.Attrs().Index) || linkkind.IsPodDevice(l) {
			continue
		}
		if err := filters.Uninstall(h, l.Attrs().Index); err != nil {
			errs = append(errs, fmt.Errorf("device %s: %w", l.Attrs().Name, err))
		}
	}
	return errors.Join(append(errs, s.unload())...)
}

func (s *shortcuts) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.unload()
}

// unload lets go of the objects; what filters hold stays.
func (s *shortcuts) unload() error {
	o := s.objects
	s.objects, s.enis = nil, nil
	if o == nil {
		return nil
	}
	return o.Close()
}
