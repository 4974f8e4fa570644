package ipvlan

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/linkkind"
	"terway.dev/terway/internal/datapath/route"
	"terway.dev/terway/internal/datapath/tcprog"
)

// Name implements route.Extension.
func (s *Extension) Name() string { return claims.IPvlan }

// Pair implements route.Pairer.
func (s *Extension) Pair() route.Pair { return route.IPvlan }

// load loads the programs once. The caller holds mu.
func (s *Extension) load(h *netlink.Handle) error {
	if s.objects != nil {
		return nil
	}
	o, err := load(h, s.flows)
	if err != nil {
		return err
	}
	s.objects, s.enis = o, map[int]int{}
	return nil
}

// table is the map of pods. The caller holds mu.
func (s *Extension) table() tcprog.Pods[slavesSlave] {
	return tcprog.Pods[slavesSlave]{Map: s.objects.Maps[mapSlaves], Name: mapSlaves, Device: func(e slavesSlave) int { return int(e.Host) }}
}

// Sync implements route.Extension.
func (s *Extension) Sync(h *netlink.Handle, links []netlink.Link, enis []route.ENIPlace) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.objects == nil && !s.active.Load() {
		if there, err := traces(h, links); err != nil || !there {
			return nil, err
		}
	}
	if err := s.load(h); err != nil {
		return nil, err
	}
	repairs, pods, err := s.table().Prune(h, links)
	errs := []error{err}
	s.enis = map[int]int{}
	wanted := map[string]bool{}
	if pods > 0 {
		s.active.Store(true)
	}
	for _, e := range enis {
		if !s.active.Load() {
			break
		}
		wanted[e.Device], wanted[claims.ReceiverName(e.MAC)] = true, true
		r, err := s.prepare(h, e)
		repairs = append(repairs, r...)
		if err != nil {
			errs = append(errs, fmt.Errorf("ENI device %s: %w", e.Device, err))
		}
	}
	for device := range s.holders {
		if link, err := find(h, device); err == nil && link == nil {
			delete(s.holders, device)
		}
	}
	r, err := clear(h, links, wanted, false)
	return append(repairs, r...), errors.Join(append(errs, err)...)
}

// prepare gives an ENI its receiver and its programs.
func (s *Extension) prepare(h *netlink.Handle, e route.ENIPlace) ([]string, error) {
	var repairs []string
	name := claims.ReceiverName(e.MAC)
	link, err := find(h, name)
	if err != nil {
		return nil, err
	}
	if link != nil && (!isSlave(link, e) || link.Attrs().ParentIndex != e.Index) {
		if err := remove(h, link); err != nil {
			return nil, err
		}
		link = nil
	}
	if link == nil {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.ParentIndex = name, e.Index
		if link, err = create(h, h, attrs); err != nil {
			return nil, err
		}
		repairs = append(repairs, "made device "+name+" on "+e.Device)
	}
	more, err := s.core.EnsureReceiver(h, link)
	repairs = append(repairs, more...)
	if err != nil {
		return repairs, err
	}
	problem, err := filters.Wrong(h, s.objects, e.Index, eniHooks)
	if err != nil {
		return repairs, err
	}
	if problem != "" {
		if err := filters.Attach(h, s.objects, e.Index, eniHooks); err != nil {
			return repairs, err
		}
		repairs = append(repairs, fmt.Sprintf("attached programs to %s: %s", e.Device, problem))
	}
	silent, err := tcprog.Silent(h)
	if err != nil {
		return repairs, err
	}
	done, err := s.directENIs().Update(silent, e.Device, e.Index, e.Gateways)
	if err != nil {
		return repairs, err
	}
	if done != "" {
		repairs = append(repairs, done)
	}
	s.enis[e.Index] = link.Attrs().Index
	return repairs, nil
}

// directENIs is the map of ENIs by which packets leave directly. The caller holds mu.
func (s *Extension) directENIs() tcprog.ENIs {
	return tcprog.ENIs{Map: s.objects.Maps[tcprog.MapENIs], Inside: s.core.Inside}
}

// traces says whether this datapath was at work on the node.
func traces(h *netlink.Handle, links []netlink.Link) (bool, error) {
	if slices.ContainsFunc(links, linkkind.IsReceiver) {
		return true, nil
	}
	return filters.Anywhere(h)
}

// clear takes programs and receivers from devices that are not wanted, by name; at the
// datapath's end, where it is the last to have something there, the qdiscs too.
func clear(h *netlink.Handle, links []netlink.Link, wanted map[string]bool, end bool) ([]string, error) {
	devices, err := tcprog.Devices(h)
	errs := []error{err}
	var repairs []string
	for _, l := range links {
		name := l.Attrs().Name
		switch {
		case wanted[name] || linkkind.IsPodDevice(l):
		case linkkind.IsReceiver(l):
			errs = append(errs, remove(h, l))
			repairs = append(repairs, "removed device "+name)
		case slices.Contains(devices, l.Attrs().Index) && end:
			if err := filters.Uninstall(h, l.Attrs().Index); err != nil {
				errs = append(errs, fmt.Errorf("device %s: %w", name, err))
			}
		case slices.Contains(devices, l.Attrs().Index):
			found, err := filters.Detach(h, l.Attrs().Index)
			if err != nil {
				errs = append(errs, fmt.Errorf("device %s: %w", name, err))
			}
			if found {
				repairs = append(repairs, "removed programs from "+name)
			}
		}
	}
	return repairs, errors.Join(errs...)
}

// ENIProblem implements route.Extension.
func (s *Extension) ENIProblem(h *netlink.Handle, e route.ENIPlace) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(h); err != nil {
		return "", err
	}
	problem, err := filters.Wrong(h, s.objects, e.Index, eniHooks)
	if err != nil || problem == "" {
		return "", err
	}
	return e.Device + ": " + problem, nil
}

// Wire implements route.Extension.
func (s *Extension) Wire(h *netlink.Handle, p route.Place) error {
	o, err := s.enter(h, p)
	if err != nil {
		return err
	}
	if err := filters.Attach(h, o, p.Index, hostHooks); err != nil {
		return fmt.Errorf("device %s: %w", p.Device, err)
	}
	return inPod(p.NetNS, func(_ netns.NsHandle, ph *netlink.Handle) error {
		if err := filters.Attach(ph, o, innerIndex(p.Device), innerHooks); err != nil {
			return fmt.Errorf("device %s of the pod: %w", p.IfName, err)
		}
		return nil
	})
}

// enter writes the pod's addresses and sees that its ENI is prepared.
func (s *Extension) enter(h *netlink.Handle, p route.Place) (*tcprog.Objects, error) {
	s.hold(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(h); err != nil {
		return nil, err
	}
	receiver, err := s.receiver(h, p.ENI)
	if err != nil {
		return nil, err
	}
	for a, e := range entries(p, receiver) {
		if err := s.table().Put(a, e); err != nil {
			return nil, err
		}
	}
	return s.objects, nil
}

// receiver is the index of an ENI's receiver. The caller holds mu.
func (s *Extension) receiver(h *netlink.Handle, e route.ENIPlace) (int, error) {
	if e.Index == 0 {
		return 0, nil // the ENI is gone
	}
	if index := s.enis[e.Index]; index != 0 && tcprog.Exists(h, index) {
		return index, nil
	}
	if _, err := s.prepare(h, e); err != nil {
		return 0, fmt.Errorf("ENI device %s: %w", e.Device, err)
	}
	return s.enis[e.Index], nil
}

// Problems implements route.Extension.
func (s *Extension) Problems(h *netlink.Handle, p route.Place) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(h); err != nil {
		return nil, err
	}
	receiver := 0
	var problems []string
	if p.ENI.Index != 0 {
		name := claims.ReceiverName(p.ENI.MAC)
		link, err := find(h, name)
		if err != nil {
			return nil, err
		}
		if link == nil {
			return []string{"device " + name + " on the node is missing"}, nil
		}
		if link.Attrs().Flags&net.FlagUp == 0 {
			problems = append(problems, "device "+name+" is down")
		}
		receiver = link.Attrs().Index
	}
	for a, want := range entries(p, receiver) {
		problem, err := s.table().Problem(a, want)
		if err != nil {
			return nil, err
		}
		if problem != "" {
			problems = append(problems, problem)
		}
	}
	problem, err := filters.Wrong(h, s.objects, p.Index, hostHooks)
	if err != nil {
		return nil, fmt.Errorf("device %s: %w", p.Device, err)
	}
	if problem != "" {
		problems = append(problems, fmt.Sprintf("device %s: %s", p.Device, problem))
	}
	err = inPod(p.NetNS, func(_ netns.NsHandle, ph *netlink.Handle) error {
		problem, err := filters.Wrong(ph, s.objects, innerIndex(p.Device), innerHooks)
		if problem != "" {
			problems = append(problems, fmt.Sprintf("device %s of the pod: %s", p.IfName, problem))
		}
		return err
	})
	if err == nil {
		s.holdLocked(p) // known to Vacate after a restart too
	}
	return problems, err
}

// Unwire implements route.Extension. An address that another device has by now stays.
func (s *Extension) Unwire(h *netlink.Handle, index int, addresses []netip.Addr) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.objects == nil {
		if there, err := filters.Anywhere(h); err != nil || !there {
			return err
		}
		if err := s.load(h); err != nil {
			return err
		}
	}
	return s.table().Release(h, index, addresses)
}

// Teardown implements route.Extension.
func (s *Extension) Teardown(h *netlink.Handle, links []netlink.Link) error {
	s.active.Store(false)
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err := clear(h, links, nil, true)
	return errors.Join(err, s.unload())
}

func (s *Extension) counters() (map[string]uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.objects == nil {
		return nil, nil // nothing has happened yet
	}
	return tcprog.Counters(s.objects.Maps[mapCounters])
}

func (s *Extension) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.unload()
}

// unload lets go of the objects; what filters hold stays.
func (s *Extension) unload() error {
	o := s.objects
	s.objects, s.enis = nil, nil
	if o == nil {
		return nil
	}
	return o.Close()
}
