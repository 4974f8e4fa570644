package ebpf

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
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

// Sync implements route.Extension.
func (s *shortcuts) Sync(h *netlink.Handle, links []netlink.Link, enis []route.ENIPlace) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	devices, err := withClsact(h)
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
		problem, err := s.wrong(h, e.Index, eniPlaces)
		if err == nil && problem != "" {
			repairs = append(repairs, fmt.Sprintf("attached programs to %s: %s", e.Device, problem))
			err = attach(h, s.objects, e.Index, eniPlaces)
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
		found, err := detach(h, index)
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
		if err := s.objects.pods.Delete(addrKey(a)); err != nil && !errors.Is(err, bpf.ErrKeyNotExist) {
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

// list is the map of pods. The caller holds mu.
func (s *shortcuts) list() (map[netip.Addr]shortcutPod, error) {
	pods := map[netip.Addr]shortcutPod{}
	var key shortcutAddr
	var value shortcutPod
	it := s.objects.pods.Iterate()
	for it.Next(&key, &value) {
		pods[addrOf(key)] = value
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("list map %s: %w", mapPods, err)
	}
	return pods, nil
}

// wrong names the first program that is not in its place.
func (s *shortcuts) wrong(h *netlink.Handle, index int, places []place) (string, error) {
	for _, p := range places {
		id, _, err := attached(h, index, p.parent)
		if err != nil {
			return "", err
		}
		if id == 0 {
			return "program " + p.program + " is missing", nil
		}
		if s.ours[id] == p.program {
			continue
		}
		l, err := inspect(id)
		if err != nil {
			return "", err
		}
		if !s.objects.runs(l, p.program) {
			return "program " + p.program + " is another version", nil
		}
		s.ours[id] = p.program
	}
	return "", nil
}

// ENIProblem implements route.Extension.
func (s *shortcuts) ENIProblem(h *netlink.Handle, eni route.ENIPlace) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(h); err != nil {
		return "", err
	}
	problem, err := s.wrong(h, eni.Index, eniPlaces)
	if problem != "" {
		problem = eni.Device + ": " + problem
	}
	return problem, err
}

// Wire implements route.Extension.
func (s *shortcuts) Wire(h *netlink.Handle, p route.Place) error {
	o, err := s.enter(h, p)
	if err != nil {
		return err
	}
	if err := attach(h, o, p.Index, podPlaces); err != nil {
		return fmt.Errorf("device %s: %w", p.Device, err)
	}
	return nil
}

// enter writes the pod's addresses and sees that its ENI has its programs: in this
// order, for Sync takes them from the ENIs when the map is empty.
func (s *shortcuts) enter(h *netlink.Handle, p route.Place) (*objects, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(h); err != nil {
		return nil, err
	}
	for a, pod := range entries(p) {
		if err := s.objects.pods.Put(addrKey(a), pod); err != nil {
			return nil, fmt.Errorf("add %s to map %s: %w", a, mapPods, err)
		}
	}
	if index := p.ENI.Index; index != 0 && !s.enis[index] {
		if err := attach(h, s.objects, index, eniPlaces); err != nil {
			return nil, fmt.Errorf("ENI device %s: %w", p.ENI.Device, err)
		}
		s.enis[index] = true
	}
	return s.objects, nil
}

// Problems implements route.Extension.
func (s *shortcuts) Problems(h *netlink.Handle, p route.Place) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(h); err != nil {
		return nil, err
	}
	var problems []string
	for _, a := range p.Addresses {
		var have shortcutPod
		err := s.objects.pods.Lookup(addrKey(a), &have)
		switch {
		case errors.Is(err, bpf.ErrKeyNotExist):
			problems = append(problems, fmt.Sprintf("entry %s of map %s is missing", a, mapPods))
		case err != nil:
			return nil, fmt.Errorf("read %s from map %s: %w", a, mapPods, err)
		case have != entries(p)[a]:
			problems = append(problems, fmt.Sprintf("entry %s of map %s is wrong", a, mapPods))
		}
	}
	problem, err := s.wrong(h, p.Index, podPlaces)
	if err != nil {
		return nil, fmt.Errorf("device %s: %w", p.Device, err)
	}
	if problem != "" {
		problems = append(problems, fmt.Sprintf("device %s: %s", p.Device, problem))
	}
	return problems, nil
}

// Unwire implements route.Extension. An address that another device has by now stays.
func (s *shortcuts) Unwire(h *netlink.Handle, index int, addresses []netip.Addr) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.objects == nil {
		if devices, err := withClsact(h); err != nil || len(devices) == 0 {
			return err
		}
		if err := s.load(h); err != nil {
			return err
		}
	}
	if len(addresses) == 0 {
		pods, err := s.list()
		if err != nil {
			return err
		}
		for a, pod := range pods {
			if int(pod.Ifindex) == index {
				addresses = append(addresses, a)
			}
		}
	}
	var errs []error
	for _, a := range addresses {
		var have shortcutPod
		err := s.objects.pods.Lookup(addrKey(a), &have)
		if errors.Is(err, bpf.ErrKeyNotExist) {
			continue
		}
		holder := int(have.Ifindex)
		if err == nil && holder != index && exists(h, holder) {
			continue
		}
		if err == nil {
			err = s.objects.pods.Delete(addrKey(a))
		}
		if err != nil && !errors.Is(err, bpf.ErrKeyNotExist) {
			errs = append(errs, fmt.Errorf("remove %s from map %s: %w", a, mapPods, err))
		}
	}
	return errors.Join(errs...)
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
