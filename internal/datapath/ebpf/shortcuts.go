package ebpf

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"

	bpf "github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath/route"
)

// shortcuts implements route.Extension.
//
// The map of pods is what makes a pod's address take part; a filter without an entry
// does nothing. So an entry goes first when a pod goes, and a pod whose entry is lost is
// served by the stack.
type shortcuts struct {
	log   *slog.Logger
	flows int
	// chosen: the node's datapath is ebpf, so its ENIs have their programs before the
	// first pod comes.
	chosen atomic.Bool

	// mu guards all below and makes changes of the map of pods follow each other.
	mu sync.Mutex
	// objects is nil until they are needed.
	objects *objects
	// enis have their programs, as far as we know.
	enis map[int]bool
	// ours are the ids of programs in the kernel that are known to be ours, by name.
	ours map[int]string
}

// Name implements route.Extension.
func (s *shortcuts) Name() string { return Name }

// load loads the programs once. The maps of an agent that ran before are found by what
// it left on the devices. The caller holds mu.
func (s *shortcuts) load(h *netlink.Handle) error {
	if s.objects != nil {
		return nil
	}
	have, err := s.find(h)
	defer func() {
		for _, m := range have {
			if err := m.Close(); err != nil {
				s.log.Warn("close a map", "error", err)
			}
		}
	}()
	if err != nil {
		return err
	}
	o, err := load(s.flows, have)
	if err != nil {
		return err
	}
	s.objects, s.enis, s.ours = o, map[int]bool{}, map[int]string{}
	return nil
}

// find opens the maps that a program of ours on any device has.
func (s *shortcuts) find(h *netlink.Handle) (map[string]*bpf.Map, error) {
	devices, err := withClsact(h)
	if err != nil {
		return nil, err
	}
	for _, index := range devices {
		for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
			id, _, err := attached(h, index, parent)
			if err != nil {
				return nil, fmt.Errorf("device with index %d: %w", index, err)
			}
			if id == 0 {
				continue
			}
			l, err := inspect(id)
			if err != nil {
				return nil, err
			}
			if len(l.maps) > 0 {
				return openMaps(l.maps)
			}
		}
	}
	return nil, nil
}

// withClsact lists the devices that may have filters of ours.
func withClsact(h *netlink.Handle) ([]int, error) {
	for {
		qdiscs, err := h.QdiscList(nil)
		if errors.Is(err, netlink.ErrDumpInterrupted) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list qdiscs: %w", err)
		}
		var list []int
		for _, q := range qdiscs {
			if q.Type() == "clsact" {
				list = append(list, q.Attrs().LinkIndex)
			}
		}
		return list, nil
	}
}

// wrong names the first program that is not in its place. The caller holds mu.
func (s *shortcuts) wrong(places []Held) (string, error) {
	for _, p := range places {
		if p.ID == 0 {
			return "program " + p.Program + " is missing", nil
		}
		if s.ours[p.ID] == p.Program {
			continue
		}
		l, err := inspect(p.ID)
		if err != nil {
			return "", err
		}
		if !s.objects.runs(l, p.Program) {
			return "program " + p.Program + " is another version", nil
		}
		s.ours[p.ID] = p.Program
	}
	return "", nil
}

// wrongENI is wrong for an ENI.
func (s *shortcuts) wrongENI(h *netlink.Handle, index int) (string, error) {
	places, err := held(h, index, eniPlaces)
	if err != nil {
		return "", err
	}
	return s.wrong(places)
}

// ENIProblem implements route.Extension.
func (s *shortcuts) ENIProblem(h *netlink.Handle, eni route.ENIPlace) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(h); err != nil {
		return "", err
	}
	problem, err := s.wrongENI(h, eni.Index)
	if problem != "" {
		problem = eni.Device + ": " + problem
	}
	return problem, err
}

// Teardown implements route.Extension.
func (s *shortcuts) Teardown(h *netlink.Handle, links []netlink.Link) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	devices, err := withClsact(h)
	errs := []error{err}
	for _, l := range links {
		if !slices.Contains(devices, l.Attrs().Index) || route.IsPodDevice(l) {
			continue
		}
		if _, err := detach(h, l.Attrs().Index); err != nil {
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
	s.objects, s.enis, s.ours = nil, nil, nil
	if o == nil {
		return nil
	}
	return o.close()
}
